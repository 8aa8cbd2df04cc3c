"""Rows of a bench -> an aligned table, a JSON file that says where the numbers come from, and a plot of bars."""

import io
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.bench import Plot, Row, Settings
from launch.metrics import provenance, version, write_atomically
from launch.sections import aligned
from launch.workers import cores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PEERS = ("jaxlib", "torch", "transformers", "flax", "einops")
_OURS, _RIVAL = "#0b6fb8", "#b9c0c7"
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#c4cad0",
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
    "grid.color": "#e8ebee",
}


def text(rows: Sequence[Row]) -> str:
    """The rows under their headings, each table with the columns it has."""
    blocks = []
    for heading, part in sections(rows).items():
        names = columns(part)
        lines = [names, *([cell(row.get(name)) for name in names] for row in part)]
        sides = "".join("<>"[any(_is_number(row.get(name)) for row in part)] for name in names)
        blocks.append("\n".join([heading] * bool(heading) + [f"  {line}" for line in aligned(lines, sides)]))
    return "\n\n".join(blocks)


def sections(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by their `table`, in order of appearance; "" for rows without."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.get("table", ""), []).append(row)
    return found


def columns(rows: Sequence[Row]) -> list[str]:
    """The names that some row has a value for, in order of appearance, notes last."""
    names = dict.fromkeys(name for row in rows for name, value in row.items() if name != "table" and value is not None)
    return sorted(names, key=lambda name: name == "note")


def cell(value: Any) -> str:
    """Three digits of a float, all of a whole number; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        size = abs(value)
        return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:#.3g}".rstrip(".")
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def save(name: str, rows: Sequence[Row], settings: Settings, plot: Plot | None, load: float) -> list[Path]:
    """Writes <out>/<name>.json and, where there is something to draw, <out>/<name>.png -> the files written.

    load: what else the machine did when the program began, as of os.getloadavg.
    """
    path = settings.out / f"{name}.json"
    stamped: Row = {"name": name, "rows": list(rows), "settings": settings._asdict() | {"out": str(settings.out)}}
    stamped |= provenance() | {"machine": machine(), "load": load}
    write_atomically(path, json.dumps(stamped, indent=1, allow_nan=False))
    image = draw(rows, plot)
    if image is None:
        return [path]
    write_atomically(path.with_suffix(".png"), image)
    return [path, path.with_suffix(".png")]


def machine() -> dict[str, Any]:
    """Where the numbers were taken: device, cores this process may use, versions of the rivals."""
    import jax

    device = jax.devices()[0]
    return {
        "device": device.device_kind if device.platform != "cpu" else _processor(),
        "backend": device.platform,
        "devices": len(jax.devices()),
        "cores": cores(),
        "peers": {package: version(package) for package in _PEERS},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def draw(rows: Sequence[Row], plot: Plot | None) -> bytes | None:
    """A panel of bars per table, as PNG; None where no table has a number to draw."""
    import matplotlib
    from matplotlib.figure import Figure

    panels = [(heading, *bars) for heading, part in sections(rows).items() if (bars := _bars(part, plot)) is not None]
    if not panels:
        return None
    heights = [len(labels) for _, _, labels, _ in panels]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9.0, 0.26 * sum(heights) + 0.9 * len(panels)), layout="constrained")
        ratios = [height + 2 for height in heights]
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=ratios)[:, 0]
        for panel, (heading, column, labels, values) in zip(axes, panels, strict=True):
            _draw_panel(panel, f"{heading}: {column}" if heading else column, labels, values)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    return buffer.getvalue()


def _bars(rows: Sequence[Row], plot: Plot | None) -> tuple[str, list[str], list[float]] | None:
    """The column to draw, names and heights of its bars; without a plot's word, the first column of numbers."""
    names = columns(rows)
    numbers = [name for name in names if any(_is_number(row.get(name)) for row in rows)]
    wanted = [name for name in plot.values if name in numbers] if plot else numbers
    if not wanted:
        return None
    column = wanted[0]
    label = plot.bars if plot else [name for name in names if name not in numbers and name != "note"]
    drawn = [row for row in rows if _is_number(row.get(column))]
    labels = [", ".join(cell(row[name]) for name in label if row.get(name) is not None) for row in drawn]
    return column, labels, [float(row[column]) for row in drawn]


def _draw_panel(axes: "Axes", title: str, labels: Sequence[str], values: Sequence[float]) -> None:
    places = range(len(values))
    axes.barh(places, values, color=[_OURS if label.startswith("ours") else _RIVAL for label in labels], height=0.7)
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter("{x:,g}")
    for place, value in zip(places, values, strict=True):
        axes.annotate(cell(value), (value, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_title(title)
