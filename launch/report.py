"""results.jsonl -> a table, plots and one self-contained HTML page: `python -m launch.report --out DIR`.

`python -m launch.report results/` draws the tables and figures of sweeps again, from the rows that launch.ablate left,
and the tables of README.md and docs/ that are made of them.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from envs.family import find as find_family
from envs.scores import normalised_score, reference
from launch import ablation_report, documents, family_report, page, program, run_page, sections
from launch.metrics import read_rows, write_atomically
from launch.plan import PROTOCOLS
from launch.plots import draw
from launch.statistics import Estimate, Result, newest_result

PROTOCOL = (
    "Several chains each play one episode after another in one context (“own”), asked for the same target "
    "return each time; the policy is causal, so the first n episodes of the longest chain are the chain of "
    "n trajectories. The control (“none”) plays as many episodes with the same weights and an empty context, "
    "so only what own episodes reach above it comes from context; prompts of the data's best or worst trajectories "
    "stand in the context before every episode, one's own never. The best of n episodes rises with n for "
    "any policy that varies."
)


def report(out: Path, trajs: Sequence[int] | None = None) -> str:
    """Reads a run and writes its report; returns the table as plain text.

    Reads results.jsonl, config.json (flags, configs), dataset.json ({"card": {...}, "returns": [...]}) and,
    where they exist, metrics.csv and rollout.gif. Writes results.csv, returns_by_episode.png,
    returns_vs_trajs.png, training.png (of losses, or several updates) and report.html, each in one move.
    A run on a family of tasks is launch/family_report.py's.

    Args:
        out: the folder of the run.
        trajs: the numbers of trajectories in context to report; None for 1, 2, 4, ... and the whole chain.

    Raises:
        FileNotFoundError: one of the first three files is not there.
        ValueError: a file does not hold what it should, or no chain has so many trajectories.
    """
    config, dataset = run_page.read_object(out / "config.json"), run_page.read_object(out / "dataset.json")
    family = find_family(config.get("env", ""))
    played = out / ("tasks.jsonl" if family else "results.jsonl")
    if not played.is_file():
        raise FileNotFoundError(f"{played} is missing: train or evaluate into {out} first")
    if family:
        return family_report.report(out, family)
    data = np.array(dataset.get("returns", []))
    if data.ndim != 1 or not data.size or data.dtype.kind not in "if" or not np.isfinite(data).all():
        raise ValueError(f"{out / 'dataset.json'}: returns: expected a list of finite numbers, got {data}")
    result = newest_result(read_rows(out / "results.jsonl"), data, trajs)
    images = draw(result, run_page.losses(out), config.get("short_updates", 0))
    for name, image in images.items():
        write_atomically(out / f"{name}.png", image)
    write_atomically(out / "results.csv", _csv_table(result))
    rollout = run_page.rollout_figure(out / "rollout.gif")
    write_atomically(out / "report.html", _page(result, images, config, dataset.get("card", {}), rollout))
    return _text(result)


# ---- Tables and sentences ----

_STATISTICS = ("first", "last", "mean", "median", "max")
_PROMPTED = {
    "own": "Own episodes",
    "ranked": "Own episodes, ranked by return,",
    "best": "The data's best trajectories",
    "worst": "The data's worst trajectories",
}
_HEADER = ("trajs", "context", *_STATISTICS, "falls %", "last/best %")
_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def _csv_table(result: Result) -> str:
    """One line per protocol and number of trajectories; a column `_95` is half of a 95% interval."""
    shared = ("env", "dataset", "dataset_hash", "method", "seed", "update", "target_return")
    estimates = (*_STATISTICS, "fall_rate")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [name + end for name in estimates for end in ("", "_95")]
    writer.writerow([*shared, "protocol", "trajs", "chains", *columns, "last_of_best"])
    for summary in result.summaries:
        numbers = [number for name in estimates for number in getattr(summary, name)]
        numbers.append(summary.last_of_best)
        cells = [summary.protocol, summary.trajs, summary.chains, *(f"{number:.6g}" for number in numbers)]
        writer.writerow([*(result.row[name] for name in shared), *cells])
    return text.getvalue()


def _show(value: Estimate, plus_minus: str, scale: float = 1, digits: int = 1) -> str:
    if np.isnan(value.mean):
        return "-"
    text = f"{scale * value.mean:.{digits}f}"
    return text if np.isnan(value.margin) else f"{text} {plus_minus} {scale * value.margin:.{digits}f}"


def _cells(result: Result, plus_minus: str) -> list[list[str]]:
    """The table below its header: a line per protocol and number of trajectories, the data last."""
    lines = [
        [
            str(summary.trajs),
            summary.protocol,
            *(_show(getattr(summary, name), plus_minus) for name in _STATISTICS),
            _show(summary.fall_rate, plus_minus, scale=100, digits=0),
            "-" if np.isnan(summary.last_of_best) else f"{100 * summary.last_of_best:.0f}",
        ]
        for summary in result.summaries
    ]
    data, best = result.data, result.data.max()
    numbers = [f"{number:.1f}" for number in (data.mean(), np.median(data), best)]
    falls = f"{100 * np.mean(data < best / 2):.0f}" if best > 0 else "-"
    return [*lines, ["", "data", "", "", *numbers, falls, ""]]


def _data_sentence(result: Result) -> str:
    quantiles = ", ".join(f"{100 * q:.0f}%: {np.quantile(result.data, q):.1f}" for q in _QUANTILES)
    return f"{len(result.data)} episodes of {result.row['dataset']}, quantiles of their returns: {quantiles}"


def _headline(result: Result, plus_minus: str) -> list[str]:
    """What the run found, in sentences: the last episode of the chain, its score, what context changed."""
    protocol = next(iter(result.chains))
    whole = [summary for summary in result.summaries if summary.protocol == protocol][-1]
    where, seen = "in context", result.row["trajs"]
    if protocol != "own":
        where = f"with {PROTOCOLS[protocol]}"
    elif whole.trajs > seen:
        where = f"in a row, the latest {seen} in context, as trained"
    chains = f"{whole.chains} chains" if whole.chains > 1 else "1 chain, so no interval"
    best = f"the best episode in the data ({result.data.max():.1f})"
    share = f"beside {best}" if np.isnan(whole.last_of_best) else f"{100 * whole.last_of_best:.0f}% of {best}"
    sentences = [f"Last episode of {whole.trajs} {where}: {_show(whole.last, plus_minus)} ({chains}), {share}."]
    score, scale = normalised_score(result.row["env"], whole.last.mean), reference(result.row["env"])
    if score is not None and scale is not None:
        ends = f"0 is {scale.low:g}, 100 is {scale.high:g} ({scale.source})"
        sentences.append(f"Normalised score {score:.1f}: {ends}.")
    if result.gain is not None:
        sign = "+" if result.gain.mean > 0 else ""
        sentences.append(
            f"Own episodes in context change the last episode by {sign}{_show(result.gain, plus_minus)}, chain by "
            "chain, against the same weights with an empty context."
        )
    for protocol, gain in result.prompts.items():
        sign = "+" if gain.mean > 0 else ""
        sentences.append(
            f"{_PROMPTED[protocol]} in context change the mean episode by "
            f"{sign}{_show(gain, plus_minus)}, against an empty context."
        )
    return sentences


def _text(result: Result) -> str:
    row = result.row
    lines = [
        f"{row['env']}, {row['method']}, update {row['update']}, asked for {row['target_return']:.1f}; "
        "mean over chains +- half of the 95% interval",
        *sections.aligned([_HEADER, *_cells(result, "+-")], ">"),
        f"data: {_data_sentence(result)}",
        *_headline(result, "+-"),
    ]
    return "\n".join(line.rstrip() for line in lines)


# ---- The page ----

_CAPTIONS = {
    "returns_by_episode": "Bands are 95% Student-t intervals over chains, dots are single episodes. Left, on "
    "the same axis: every episode of the data.",
    "returns_vs_trajs": "The same chains, cut after n episodes. Right: the best of n, which rises without "
    "any learning in context; read it against the control only.",
}


def _page(
    result: Result,
    images: dict[str, bytes],
    config: dict[str, Any],
    card: dict[str, Any],
    rollout: Sequence[str],
) -> str:
    row = result.row
    cells = _cells(result, "±")
    figures = {name: page.figure(images[name], "png", caption) for name, caption in _CAPTIONS.items()}
    parts = [
        *run_page.heading(row, f"asked for a return of {row['target_return']:.1f}"),
        page.lead(_headline(result, "±")),
        figures["returns_by_episode"],
        figures["returns_vs_trajs"],
        *rollout,
        page.element("h2", "Return against the number of trajectories in context"),
        page.table(_HEADER, cells, [line[1] for line in cells]),
        page.element(
            "p",
            "Each chain gives one number; shown is the mean over chains ± half of its 95% Student-t "
            "interval. Falls: episodes below half of the best episode in the data.",
            "quiet",
        ),
        page.element("h2", "What was measured"),
        page.element("p", PROTOCOL),
    ]
    if "training" in images:
        parts += run_page.training_figure(images["training"], config)
    parts += run_page.closing(row, config, card, f"{_data_sentence(result)}.")
    return page.document(row["env"], parts)


def report_all(place: Path) -> str:
    """Every .jsonl of a folder, or one, each the rows of a sweep, -> its figures and page beside it, and the tables of
    the documents beside the folder that are drawn from them (launch/documents.py); returns the tables.

    Raises FileNotFoundError when there is none, ValueError for a file of anything else.
    """
    sources = [place] if place.is_file() else sorted(place.glob("*.jsonl"))
    if not sources:
        raise FileNotFoundError(f"{place}: expected files of rows, such as launch.ablate's ablation.jsonl, found none")
    folder = sources[0].parent.resolve()
    found = {f"{folder.name}/{source.name}": ablation_report.write(source, folder) for source in sources}
    changed = documents.refresh_all(folder.parent, found)
    texts = [sections.text(section) for of_source in found.values() for section in of_source]
    return "\n\n".join([*texts, *(f"tables drawn anew in {path}" for path in changed)])


def main(words: Sequence[str]) -> None:
    places = words[1:]
    if bool(places) == bool(flags.FLAGS.out):
        raise ValueError("expected --out with the folder of a run, or rows, such as results/ or results/td3.jsonl")
    print("\n\n".join(report_all(Path(place)) for place in places) if places else report(Path(flags.FLAGS.out)))


if __name__ == "__main__":
    # Not above main: programs that import report() define an --out of their own.
    flags.DEFINE_string("out", "", "Folder of the run to report on.")
    program.run(main, words=True)
