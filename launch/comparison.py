"""The cells of a sweep as rows of ablation.jsonl, and what is read from them: statistics and differences.

A row holds the return of every episode beside its statistics: tables and figures are drawn again from rows alone. Rows
of families of tasks are launch/family_rows.py's.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs.family import find as find_family
from envs.scores import normalised_score
from launch import family_rows, labels
from launch.cells import Cell, Run
from launch.intervals import Interval, draw_counts, of_interquartile_mean, of_mean, paired_difference
from launch.metrics import numbered, of_the_run, read_metrics, read_rows, rounded, write_atomically
from launch.statistics import newest_chains

ROWS = "ablation.jsonl"
STATISTICS = ("first", "last", "mean", "max")
_NEEDED = ("cell", "key", "control", "env", "dataset", "typed", "flags", "seeds", "data", "command")


class Measured(NamedTuple):
    """What a cell returned under one protocol."""

    returns: np.ndarray
    """[S, C, E], environment units: seed, chain, episode."""
    counts: np.ndarray
    """[R, S C]: the resamples that all intervals are from."""
    statistics: dict[str, Interval]
    """Interquartile means over seeds and chains of a chain's first, last, mean and best episode; as `falls` the mean
    share of episodes below half of the best in the data, NaN where that is not positive."""


class Line(NamedTuple):
    """A cell in a comparison."""

    label: str
    """The flags in which the cells differ."""
    trajs: int
    others: str
    """The label without the number of trajectories, and of chains, which changes nothing but how much was played."""
    row: dict[str, Any]
    measured: dict[str, Measured]
    """By protocol."""
    differences: dict[str, tuple[Interval, Interval]]
    """By protocol, against the control cell: of the last episodes, and of the mean over the episodes both have."""
    gains: dict[str, Interval]
    """By protocol, against the same cell with an empty context: of the mean over the episodes, chain by chain."""


class Comparison(NamedTuple):
    """The cells of one environment, on one data set."""

    name: str
    """The environment's, and the data's where the rows have several of that environment."""
    lines: list[Line]
    control: Line
    common: str
    """What most cells have, which their labels leave out."""


def measure(returns: np.ndarray, data_best: float) -> Measured:
    """[S, C, E] -> its statistics; the same draws every time."""
    seeds, chains, _ = returns.shape
    counts = draw_counts(seeds, chains, np.random.default_rng(0))
    per_chain = {
        "first": returns[..., 0],
        "last": returns[..., -1],
        "mean": returns.mean(axis=-1),
        "max": returns.max(axis=-1),
    }
    statistics = {name: of_interquartile_mean(values, counts) for name, values in per_chain.items()}
    fallen = returns < data_best / 2 if data_best > 0 else np.full(returns.shape, np.nan)
    falls = of_mean(fallen.mean(axis=-1), counts)
    return Measured(returns, counts, statistics | {"falls": falls})


def make_row(cell: Cell, runs: Sequence[Run], control: bool) -> dict[str, Any]:
    """The row of a cell, from those of its runs that are done. Raises ValueError for a file that is wrong."""
    if family := find_family(cell.resolved["env"]):
        newest, measured = family_rows.collect(family, [run.folder for run in runs])
    else:
        newest, measured = _collect(cell.resolved["env"], runs)
    errors = []
    for path in (run.folder / "metrics.csv" for run in runs):
        logged = [row["heldout_loss"] for row in read_metrics(path) if "heldout_loss" in row] if path.is_file() else []
        errors += logged[-1:]
    last = newest[-1] if newest else {}
    hashes = {run.name: row["dataset_hash"][:12] for run, row in zip(runs, newest, strict=False)}
    if len(set(hashes.values())) > 1:
        found = ", ".join(f"{name} {of_run}" for name, of_run in hashes.items())
        raise ValueError(f"expected the seeds of a cell to be of the same data, got {found}; delete those of others")
    return {
        "cell": cell.label,
        "key": cell.key,
        "control": control,
        "env": cell.resolved["env"],
        **{name: last.get(name) for name in ("env_id", "dataset", "dataset_hash", "method", "update", "target_return")},
        "seeds": [run.seed for run in runs],
        "heldout_loss": float(np.mean(errors)) if errors else None,
        "seconds": [seconds for run in runs if (seconds := run.seconds()) is not None],
        "command": cell.sweep_command([run.seed for run in runs]),
        **{
            name: functools.reduce(said, (row.get(name) for row in newest), None)
            for name in ("commit", "backend", "dtype", "versions")
        },
        "time": last.get("time"),
        "typed": cell.typed,
        "flags": cell.resolved,
        **measured,
    }


def said(old: Any, new: Any) -> Any:
    """What both say of where they were measured, and where they differ both: `0.10.2, 0.11.2`."""
    if isinstance(old, dict) or isinstance(new, dict):
        one, other = old or {}, new or {}
        return {name: said(one.get(name), other.get(name)) for name in one | other}
    texts = [text for each in (old, new) if each is not None for text in str(each).split(", ")]
    return ", ".join(dict.fromkeys(texts)) if texts else None


def _collect(env: str, runs: Sequence[Run]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The newest row of each run's results.jsonl, and what a cell's row holds of all.

    Protocols are those that the results of all seeds name; a matrix has no gaps, so it has the chains that all have.
    """
    found: dict[str, dict[int, np.ndarray]] = {}
    newest: list[dict[str, Any]] = []
    data = np.zeros(0)
    for run in runs:
        data = np.array(json.loads((run.folder / "dataset.json").read_text())["returns"])
        path = run.folder / "results.jsonl"
        rows = of_the_run(read_rows(path)) if path.is_file() else []
        newest += rows[-1:]
        for protocol in dict.fromkeys(row["protocol"] for row in rows if row["update"] == rows[-1]["update"]):
            if chains := newest_chains(rows, protocol, rows[-1]["update"]):
                found.setdefault(protocol, {})[run.seed] = np.stack(list(chains.values()))
    returns = {}
    for protocol, by_seed in found.items():
        if len(by_seed) < len(runs):
            continue
        chains, episodes = np.min([matrix.shape for matrix in by_seed.values()], axis=0)
        returns[protocol] = np.stack([matrix[:chains, :episodes] for matrix in by_seed.values()])
    best = float(data.max())
    card = {"best": best, "mean": float(data.mean()), "episodes": len(data)}
    return newest, {"data": card} | of_returns(returns, best, env)


def of_returns(returns: Mapping[str, np.ndarray], data_best: float, env: str) -> dict[str, Any]:
    """Protocol -> [S, C, E], as the fields of a row."""
    return {
        "chains": {protocol: matrix.shape[1] for protocol, matrix in returns.items()},
        "episodes": {protocol: matrix.shape[2] for protocol, matrix in returns.items()},
        "statistics": {protocol: _plain(measure(matrix, data_best), env) for protocol, matrix in returns.items()},
        "returns": {protocol: rounded(matrix.tolist()) for protocol, matrix in returns.items()},
    }


def _plain(measured: Measured, env: str) -> dict[str, Any]:
    """Statistics for JSON: raw, and beside it on the scale of the reference returns; null where there is no number."""

    def score(value: float) -> float | None:
        found = normalised_score(env, value)
        return None if found is None else rounded(found)

    plain: dict[str, Any] = {}
    for name, interval in measured.statistics.items():
        ends = interval._asdict()
        plain[name] = {end: rounded(number) for end, number in ends.items()}
        if name != "falls":
            plain[name]["score"] = {end: score(number) for end, number in ends.items()}
    return plain


def read_stored_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of an ablation.jsonl. Raises ValueError, naming file and line, for what is none."""
    rows = []
    for number, row in numbered(path):
        of_kind = family_rows.NEEDED if family_rows.is_family(row) else ("returns",)
        if missing := [name for name in (*_NEEDED, *of_kind) if name not in row]:
            raise ValueError(f"{path}:{number}: expected a row of launch.ablate, {', '.join(missing)} missing")
        if family_rows.is_family(row):
            family_rows.check(row, f"{path}:{number}")
        rows.append(row)
    return rows


def store_row(path: Path, row: Mapping[str, Any], order: Sequence[str]) -> None:
    """Put a row in the place of the one of the same cell; the file is replaced in one move.

    order: keys of cells, which come first; those of other sweeps into the same folder stay behind them.
    """
    rows = {stored["key"]: stored for stored in (read_stored_rows(path) if path.is_file() else [])}
    if row["control"]:
        rows = {key: stored | {"control": False} for key, stored in rows.items()}
    rows[row["key"]] = dict(row)
    keys = [key for key in order if key in rows] + [key for key in rows if key not in order]
    write_atomically(
        path, "".join(json.dumps(rows[key], allow_nan=False, separators=(",", ":")) + "\n" for key in keys)
    )


def compare(rows: Sequence[Mapping[str, Any]]) -> list[Comparison]:
    """Rows -> a comparison for each environment and data set; the control of one is the cell whose other flags are the
    control's.
    """
    chosen = next((row for row in rows if row["control"]), rows[0] if rows else None)
    by_name: dict[str, list[dict[str, Any]]] = {}
    for name, row in zip(_names(rows), rows, strict=True):
        by_name.setdefault(name, []).append(dict(row))
    return [_compare(name, of_name, chosen or {}) for name, of_name in by_name.items()]


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is compared with what: rows of one environment, and of the same data where it has several."""
    data = {env: {row.get("dataset_hash") for row in rows if row["env"] == env} for env in {row["env"] for row in rows}}
    return [
        row["env"] if len(data[row["env"]]) == 1 else f"{row['env']}, {row['dataset']} {row['dataset_hash'][:8]}"
        for row in rows
    ]


def _compare(name: str, rows: list[dict[str, Any]], chosen: Mapping[str, Any]) -> Comparison:
    names = labels.name(rows)
    measured = [
        {name: measure(np.array(returns), row["data"]["best"]) for name, returns in row["returns"].items()}
        for row in rows
    ]
    alike = [sum(row["flags"].get(name) == value for name, value in chosen["flags"].items()) for row in rows]
    control = int(np.argmax(alike))
    lines = []
    for i, (row, words, label) in enumerate(zip(rows, names.words, names.labels(), strict=True)):
        lines.append(
            Line(
                label=label if len(rows) > 1 else row["cell"],
                trajs=row["flags"]["trajs"],
                others=" ".join(word for name, word in words.items() if name not in ("trajs", "chains")),
                row=row,
                measured=measured[i],
                differences={} if i == control else _differences(row, rows[control]),
                gains=_gains(row),
            )
        )
    return Comparison(name, lines, lines[control], names.common)


def _differences(row: Mapping[str, Any], control: Mapping[str, Any]) -> dict[str, tuple[Interval, Interval]]:
    """Protocol -> of the last episode, and of the episodes that both have; absent without common seeds.

    A control that was not played under a protocol, as one without a context with own episodes in it, is compared as it
    was played with an empty context.
    """
    found = {}
    for protocol, returns in row["returns"].items():
        against = control["returns"].get(protocol) or control["returns"].get("none")
        if against is None:
            continue
        one, other = _by_seed(row, returns), _by_seed(control, against)
        last = paired_difference(one, other, True, np.random.default_rng(0))
        same = paired_difference(one, other, False, np.random.default_rng(0))
        if last is not None and same is not None:
            found[protocol] = last, same
    return found


def _gains(row: Mapping[str, Any]) -> dict[str, Interval]:
    """What a context gives, by protocol; none where the cell was not played without."""
    none = row["returns"].get("none")
    found = {
        protocol: paired_difference(_by_seed(row, returns), _by_seed(row, none), False, np.random.default_rng(0))
        for protocol, returns in row["returns"].items()
        if none and protocol != "none"
    }
    return {protocol: gain for protocol, gain in found.items() if gain is not None}


def _by_seed(row: Mapping[str, Any], returns: Sequence[Any]) -> dict[int, np.ndarray]:
    """[S][C][E] -> seed to [C, E]."""
    return {seed: np.array(chains) for seed, chains in zip(row["seeds"], returns, strict=True)}
