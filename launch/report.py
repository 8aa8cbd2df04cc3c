"""results.jsonl -> a table, plots and one self-contained HTML page: `python -m launch.report --out DIR`."""

import base64
import csv
import html
import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from absl import app, flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from envs.scores import normalised_score, reference
from launch.metrics import read_metrics, read_rows, write_atomically
from launch.statistics import Estimate, Result, Summary, estimate, newest_result, stack

PROTOCOL = (
    "Several chains each play one episode after another in one context (“own”), asked for the same target "
    "return each time; the policy is causal, so the first n episodes of the longest chain are the chain of "
    "n trajectories. The control (“none”) plays as many episodes with the same weights and an empty context, "
    "so only what own episodes reach above it comes from context; the best of n episodes rises with n for "
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

    with matplotlib.rc_context(_STYLE):
        plots = {"returns_by_episode": _plot_by_episode(result), "returns_vs_trajs": _plot_by_trajs(result)}
        if losses or len(result.history) > 1:
            plots["training"] = _plot_training(losses, result.history)
        images = {name: _png(figure) for name, figure in plots.items()}
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


# ---- Plots ----

_COLOURS = {"own": "#0b6fb8", "none": "#d1630f"}
_LABELS = {"own": "own episodes\nin context", "none": "empty context\n(control)"}
_LOSS_COLOURS = ("#5b8c3e", "#7a3e9d", "#b08900", "#1d7f86")
_GREY, _INK = "#8a929b", "#2b3138"
_STYLE: dict[Any, Any] = {
    "figure.dpi": 100,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": "#c4cad0",
    "axes.labelcolor": _INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e8ebee",
    "xtick.color": "#5b636b",
    "ytick.color": "#5b636b",
    "lines.linewidth": 2,
    "lines.markersize": 4,
}

_Label = tuple[float, str, str]
"""The height at which a line ends, its name, its colour."""


def _plot_by_episode(result: Result) -> Figure:
    """The data's returns as a sideways histogram; beside it, on the same axis, the episodes of the chains."""
    figure = Figure(figsize=(9.4, 4.2))
    data, axes = figure.subplots(1, 2, sharey=True, width_ratios=[1, 4.5])
    figure.subplots_adjust(left=0.07, right=0.85, top=0.92, bottom=0.13, wspace=0.03)
    _draw_data_lines(data, result.data)
    bars = {"color": "#c9ced4", "edgecolor": "white", "linewidth": 0.6, "zorder": 0.5}
    data.hist(result.data, bins=24, orientation="horizontal", **bars)
    data.invert_xaxis()
    data.set_xticks([])
    data.grid(False)
    data.spines["bottom"].set_visible(False)
    data.set_title("The data")
    data.set_xlabel(f"{len(result.data)} episodes")
    data.set_ylabel("return")

    labels = _draw_data_lines(axes, result.data)
    for protocol, chains in result.chains.items():
        returns = stack(chains)
        episodes = np.arange(1, returns.shape[1] + 1)
        single = {"s": 7, "alpha": 0.4, "color": _COLOURS[protocol], "linewidths": 0}
        axes.scatter(np.tile(episodes, len(returns)), returns, **single)
        labels.append(_draw_line(axes, episodes, [estimate(column) for column in returns.T], protocol))
    axes.set_xlim(0.5, max(stack(chains).shape[1] for chains in result.chains.values()) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.tick_params(axis="y", left=False)
    axes.set_title(f"The policy: mean over chains ({len(returns)}), 95% interval and single episodes")
    axes.set_xlabel("episode of the chain")
    _set_return_limits(axes, result)
    _write_labels(axes, labels)
    return figure


def _plot_by_trajs(result: Result) -> Figure:
    """Two panels over the number of trajectories: the return of the last episode, and of the best."""
    figure = Figure(figsize=(9.4, 3.9))
    last, best = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.07, right=0.85, top=0.92, bottom=0.13, wspace=0.08)
    ticks = sorted({summary.trajs for summary in result.summaries})
    for axes, field in ((last, "last"), (best, "max")):
        labels = _draw_data_lines(axes, result.data)
        for protocol in result.chains:
            points = [summary for summary in result.summaries if summary.protocol == protocol]
            trajs = np.array([summary.trajs for summary in points])
            labels.append(_draw_line(axes, trajs, [getattr(one, field) for one in points], protocol, marker="o"))
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.minorticks_off()
        axes.set_xlabel("trajectories in context")
    last.set_title("Return of the last episode")
    last.set_ylabel("return")
    best.set_title("Best of all episodes so far")
    _set_return_limits(last, result)
    _write_labels(best, labels)
    return figure


def _plot_training(losses: dict[str, np.ndarray], history: dict[int, Summary]) -> Figure:
    """The losses, and the returns where several updates were measured: a panel each, over the updates."""
    panels = bool(losses) + (len(history) > 1)
    figure = Figure(figsize=(9.4, 3.3 * panels))
    axes = list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])
    figure.subplots_adjust(left=0.07, right=0.85, top=1 - 0.09 / panels, bottom=0.15 / panels, hspace=0.2)
    axes[-1].set_xlabel("update")
    labels = []
    if losses:
        labels.append(_draw_losses(axes[0], losses))
    if len(history) > 1:
        labels.append(_draw_history(axes[-1], history))
    for panel, names in zip(axes, labels, strict=True):
        _write_labels(panel, names)
    return figure


def _draw_losses(axes: Axes, losses: dict[str, np.ndarray]) -> list[_Label]:
    """Thin, every value; thick, a running mean over a fiftieth of them. A log axis where all are positive."""
    labels = []
    for (name, points), colour in zip(losses.items(), itertools.cycle(_LOSS_COLOURS), strict=False):
        steps, values = points.T
        window = max(1, len(values) // 50)
        smooth = np.convolve(values, np.full(window, 1 / window), "valid")
        if window > 1:
            axes.plot(steps, values, color=colour, linewidth=1, alpha=0.3)
        axes.plot(steps[window - 1 :], smooth, color=colour, marker="o" if len(values) < 20 else "")
        labels.append((float(smooth[-1]), name.replace("_", " "), colour))
    if all((points[:, 1] > 0).all() for points in losses.values()):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.set_title("Loss")
    return labels


def _draw_history(axes: Axes, history: dict[int, Summary]) -> list[_Label]:
    updates = np.array(list(history))
    last, mean = [one.last for one in history.values()], [one.mean for one in history.values()]
    labels = [
        _draw_line(axes, updates, last, "own", marker="o", label="last episode"),
        _draw_line(axes, updates, mean, "own", marker="o", style=":", label="mean episode"),
    ]
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_title("Return with own episodes in context")
    return labels


def _draw_line(
    axes: Axes,
    x: np.ndarray,
    values: Sequence[Estimate],
    protocol: str,
    marker: str = "",
    style: str = "-",
    label: str | None = None,
) -> _Label:
    mean, margin = np.array(values).T
    colour = _COLOURS[protocol]
    axes.fill_between(x, mean - margin, mean + margin, color=colour, alpha=0.13, linewidth=0)
    axes.plot(x, mean, style, color=colour, marker=marker)
    return float(mean[-1]), label or _LABELS[protocol], colour


def _draw_data_lines(axes: Axes, data: np.ndarray) -> list[_Label]:
    labels = []
    for name, height in (("best in the data", float(data.max())), ("mean of the data", float(data.mean()))):
        axes.axhline(height, color=_GREY, linewidth=1.2, linestyle=(0, (5, 4)), zorder=1)
        labels.append((height, f"{name}\n{height:.0f}", _GREY))
    return labels


def _set_return_limits(axes: Axes, result: Result) -> None:
    returns = np.concatenate([result.data, *(stack(chains).ravel() for chains in result.chains.values())])
    low, high = min(0.0, float(returns.min())), max(0.0, float(returns.max()))
    axes.set_ylim(low, high + 0.06 * (high - low or 1.0))


def _write_labels(axes: Axes, labels: Sequence[_Label]) -> None:
    """Names at the right of the axes, in the colours of their lines, moved apart where lines end close."""
    labels = sorted(labels)
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = [to_axes.transform((axes.get_xlim()[1], height))[1] for height, _, _ in labels]
    line_height = 18.0 / axes.get_window_extent().height
    sizes = [line_height * (1 + name.count("\n")) for _, name, _ in labels]
    gaps = [(below + above) / 2 for below, above in itertools.pairwise(sizes)]
    for y, (_, name, colour) in zip(_spread(wanted, gaps), labels, strict=True):
        axes.text(1.015, y, name, transform=axes.transAxes, color=colour, va="center", fontsize=9, linespacing=1.1)


def _spread(wanted: Sequence[float], gaps: Sequence[float]) -> np.ndarray:
    """Rising heights -> the nearest heights, in least squares, that keep the gaps between neighbours.

    Heights less the gaps below them must not fall: isotonic regression, by pooling adjacent violators.
    """
    below = np.concatenate([[0.0], np.cumsum(gaps)])
    pools: list[list[float]] = []
    for height in np.asarray(wanted) - below:
        pools.append([float(height)])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    return np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools]) + below


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, facecolor="white")
    return buffer.getvalue()


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
    "the same axis: every episode of the data that the policy was trained on.",
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
    app.run(main)
