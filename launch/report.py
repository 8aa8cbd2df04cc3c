"""results.jsonl -> a table, plots and one self-contained HTML page: `python -m launch.report --out DIR`."""

import base64
import csv
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from envs.scores import normalised_score, reference
from launch import program
from launch.metrics import read_metrics, read_rows, write_atomically
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

    Args:
        out: the folder of the run.
        trajs: the numbers of trajectories in context to report; None for 1, 2, 4, ... and the whole chain.

    Raises:
        FileNotFoundError: one of the first three files is not there.
        ValueError: a file does not hold what it should, or no chain has so many trajectories.
    """
    for name in ("results.jsonl", "config.json", "dataset.json"):
        if not (out / name).is_file():
            raise FileNotFoundError(f"{out / name} is missing: train or evaluate into {out} first")
    config, dataset = _read_object(out / "config.json"), _read_object(out / "dataset.json")
    data = np.array(dataset.get("returns", []))
    if data.ndim != 1 or not data.size or data.dtype.kind not in "if" or not np.isfinite(data).all():
        raise ValueError(f"{out / 'dataset.json'}: returns: expected a list of finite numbers, got {data}")
    result = newest_result(read_rows(out / "results.jsonl"), data, trajs)
    losses = _losses(read_metrics(out / "metrics.csv")) if (out / "metrics.csv").is_file() else {}
    rollout = (out / "rollout.gif").read_bytes() if (out / "rollout.gif").is_file() else None

    images = draw(result, losses)
    for name, image in images.items():
        write_atomically(out / f"{name}.png", image)
    write_atomically(out / "results.csv", _csv_table(result))
    write_atomically(out / "report.html", _page(result, images, config, dataset.get("card", {}), rollout))
    return _text(result)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected a JSON object: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {content!r:.40}")
    return content


def _losses(metrics: list[dict[str, float]]) -> dict[str, np.ndarray]:
    """Columns that end in "loss" or "error" -> their finite points (step, value) [points, 2]."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in metrics:
        for name, value in row.items():
            if name.endswith(("loss", "error")) and np.isfinite(value):
                points.setdefault(name, []).append((row["step"], value))
    return {name: np.array(found) for name, found in points.items()}


# ---- Tables and sentences ----

_STATISTICS = ("first", "last", "mean", "median", "max")
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
            f"{100 * summary.last_of_best:.0f}",
        ]
        for summary in result.summaries
    ]
    data, best = result.data, result.data.max()
    numbers = [f"{number:.1f}" for number in (data.mean(), np.median(data), best)]
    return [*lines, ["", "data", "", "", *numbers, f"{100 * np.mean(data < best / 2):.0f}", ""]]


def _data_sentence(result: Result) -> str:
    quantiles = ", ".join(f"{100 * q:.0f}%: {np.quantile(result.data, q):.1f}" for q in _QUANTILES)
    return f"{len(result.data)} episodes of {result.row['dataset']}, quantiles of their returns: {quantiles}"


def _headline(result: Result, plus_minus: str) -> list[str]:
    """What the run found, in sentences: the last episode of the chain, its score, what context changed."""
    protocol = next(iter(result.chains))
    whole = [summary for summary in result.summaries if summary.protocol == protocol][-1]
    where = "in context" if protocol == "own" else "with an empty context"
    chains = f"{whole.chains} chains" if whole.chains > 1 else "1 chain, so no interval"
    sentences = [
        f"Last episode of {whole.trajs} {where}: {_show(whole.last, plus_minus)} ({chains}), "
        f"{100 * whole.last_of_best:.0f}% of the best episode in the data ({result.data.max():.1f})."
    ]
    score, scale = normalised_score(result.row["env"], whole.last.mean), reference(result.row["env"])
    if score is not None and scale is not None:
        ends = f"0 is {scale.low:g}, 100 is {scale.high:g} ({scale.source})"
        sentences.append(f"Normalised score {score:.1f}: {ends}.")
    if result.gain is not None:
        sign = "+" if result.gain.mean > 0 else ""
        sentences.append(
            f"Context changes the last episode by {sign}{_show(result.gain, plus_minus)}, chain by chain, "
            "against the same weights with an empty context."
        )
    for protocol, gain in result.prompts.items():
        sign = "+" if gain.mean > 0 else ""
        sentences.append(
            f"The data's {protocol} trajectories in context change the mean episode by "
            f"{sign}{_show(gain, plus_minus)}, against an empty context."
        )
    return sentences


def _text(result: Result) -> str:
    table = [list(_HEADER), *_cells(result, "+-")]
    widths = [max(len(line[column]) for line in table) for column in range(len(_HEADER))]
    row = result.row
    lines = [
        f"{row['env']}, {row['method']}, update {row['update']}, asked for {row['target_return']:.1f}; "
        "mean over chains +- half of the 95% interval",
        *("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in table),
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
    "training": "Thin: every logged value. Thick: a running mean.",
}
_CSS = """
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: #2b3138;
       max-width: 940px; margin: 32px auto 64px; padding: 0 24px; background: #fff; }
h1 { font-size: 27px; margin: 0 0 2px; }
h2, summary { font-size: 19px; font-weight: 700; margin: 36px 0 8px; }
.lead { background: #f3f7fb; border-left: 4px solid #0b6fb8; padding: 12px 18px; margin: 18px 0; }
.lead p { margin: 4px 0; } .lead p:first-child { font-size: 18px; font-weight: 600; }
.quiet, figcaption { color: #5b636b; font-size: 14px; }
figure { margin: 14px 0 26px; } img { max-width: 100%; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: 5px 8px; border-bottom: 1px solid #e8ebee; text-align: right; white-space: nowrap; }
th { color: #5b636b; font-weight: 600; }
.own { color: #0b6fb8; } .none { color: #b4530a; } .data { color: #5b636b; }
.best { color: #2e7d32; } .worst { color: #7a3e9d; }
.facts th, .facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
.facts th { width: 30%; font-weight: 400; }
pre { background: #f6f7f9; padding: 12px 14px; font-size: 13.5px; white-space: pre-wrap; }
pre { overflow-wrap: anywhere; } summary { cursor: pointer; }
"""


def _page(
    result: Result,
    images: dict[str, bytes],
    config: dict[str, Any],
    card: dict[str, Any],
    rollout: bytes | None,
) -> str:
    row = result.row
    asked = f"asked for a return of {row['target_return']:.1f}"
    shown = [row["method"], f"update {row['update']:,}", f"data set {row['dataset']}", f"seed {row['seed']}"]
    figures = {name: _figure(image, "png", _CAPTIONS[name]) for name, image in images.items()}
    parts = [
        _element("h1", row["env"]),
        _element("p", " · ".join([*shown, asked, row["time"]]), "quiet"),
        f'<div class="lead">{"".join(_element("p", line) for line in _headline(result, "±"))}</div>',
        figures["returns_by_episode"],
        figures["returns_vs_trajs"],
        _element("h2", "Return against the number of trajectories in context"),
        _result_table(result),
        _element(
            "p",
            "Each chain gives one number; shown is the mean over chains ± half of its 95% Student-t "
            "interval. Falls: episodes below half of the best episode in the data.",
            "quiet",
        ),
        _element("h2", "What was measured"),
        _element("p", PROTOCOL),
    ]
    if rollout is not None:
        parts.append(_figure(rollout, "gif", "One rollout of the policy."))
    if "training" in figures:
        parts += [_element("h2", "Training"), figures["training"]]
    parts += [
        _element("h2", "The data"),
        _element("p", f"{_data_sentence(result)}."),
        _facts(card | {"data set": row["dataset"], "hash": row["dataset_hash"]}),
        _element("h2", "Run it again"),
        _element("pre", row["command"]),
        _facts({"commit": row["commit"], **row["versions"]}),
        f"<details open>{_element('summary', 'Configuration')}{_facts(config)}</details>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">{_element("title", row["env"])}'
        f"<style>{_CSS}</style></head>\n<body>\n{chr(10).join(parts)}\n</body></html>\n"
    )


def _element(tag: str, text: str, kind: str = "") -> str:
    attributes = f' class="{kind}"' if kind else ""
    return f"<{tag}{attributes}>{html.escape(text)}</{tag}>"


def _result_table(result: Result) -> str:
    lines = [f"<tr>{''.join(_element('th', name) for name in _HEADER)}</tr>"]
    for cells in _cells(result, "±"):
        lines.append(f'<tr class="{cells[1]}">{"".join(_element("td", cell) for cell in cells)}</tr>')
    return f"<table>{''.join(lines)}</table>"


def _figure(image: bytes, kind: str, caption: str) -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    words = html.escape(caption)
    return f'<figure><img alt="{words}" src="{source}"><figcaption>{words}</figcaption></figure>'


def _facts(facts: dict[str, Any]) -> str:
    lines = [f"<tr>{_element('th', name)}{_element('td', text)}</tr>" for name, text in _flat(facts)]
    return f'<table class="facts">{"".join(lines)}</table>'


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """{"model": {"width": 128}} -> [("model.width", "128")]."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{name}.")
        else:
            lines.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)))
    return lines


def main(_: Sequence[str]) -> None:
    print(report(Path(flags.FLAGS.out)))


if __name__ == "__main__":
    # Not above main: programs that import report() define an --out of their own.
    flags.DEFINE_string("out", None, "Folder of the run to report on.", required=True)
    program.run(main)
