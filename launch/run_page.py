"""What the pages of all runs have in common: losses, the film of a rollout, the data, and how to run it again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from launch import page
from launch.metrics import read_metrics
from launch.plan import command_again


def read_object(path: Path) -> dict[str, Any]:
    """A file of one JSON object. Raises FileNotFoundError or ValueError, naming the file, for what is none."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: train or evaluate into {path.parent} first")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected a JSON object: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {content!r:.40}")
    return content


def losses(out: Path) -> dict[str, np.ndarray]:
    """Columns of a run's metrics.csv that end in "loss" or "error" -> their finite points (step, value) [points, 2];
    none without the file."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in read_metrics(out / "metrics.csv") if (out / "metrics.csv").is_file() else []:
        for name, value in row.items():
            if name.endswith(("loss", "error")) and np.isfinite(value):
                points.setdefault(name, []).append((row["step"], value))
    return {name: np.array(found) for name, found in points.items()}


def training_figure(png: bytes, config: Mapping[str, Any]) -> list[str]:
    """launch.plots' picture of losses and returns over updates, below its heading."""
    short = config.get("short_updates", 0)
    dotted = f" Dotted: until update {short:,} of short windows, whose losses are others." if short else ""
    caption = f"Thin: every logged value. Thick: a running mean.{dotted}"
    return [page.element("h2", "Training"), page.figure(png, "png", caption)]


def rollout_figure(path: Path) -> list[str]:
    """The figure of launch.video's animated picture, which says itself what it shows; nothing where there is none."""
    if not path.is_file():
        return []
    from PIL import Image

    with Image.open(path) as picture:
        caption = picture.info.get("comment", b"One rollout of the policy.").decode()
    return [page.figure(path.read_bytes(), "gif", caption)]


def closing(row: Mapping[str, Any], config: Mapping[str, Any], card: Mapping[str, Any], about_data: str) -> list[str]:
    """The last parts of a page: the data, the command that makes the run again, where it was measured, its flags."""
    return [
        page.element("h2", "The data"),
        page.element("p", about_data),
        page.facts({**card, "data set": row["dataset"], "hash": row["dataset_hash"]}),
        page.element("h2", "Run it again"),
        page.element("pre", command_again({"env": row["env"], **config}, row["dataset"])),
        page.facts({"measured by": row["command"], "commit": row["commit"], **row["versions"]}),
        f"<details open>{page.element('summary', 'Configuration')}{page.facts(config)}</details>",
    ]


def heading(row: Mapping[str, Any], asked: str) -> list[str]:
    """The first parts: what was played, and when."""
    shown: Sequence[str] = [row["method"], f"update {row['update']:,}", f"data set {row['dataset']}"]
    return [
        page.element("h1", row["env"]),
        page.element("p", " · ".join([*shown, f"seed {row['seed']}", asked, row["time"]]), "quiet"),
    ]
