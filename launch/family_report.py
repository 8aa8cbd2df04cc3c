"""The tasks.jsonl of a run on a family of tasks -> a table, a figure and one self-contained HTML page."""

from pathlib import Path

from envs.family import Family
from launch import family_comparison, family_rows, page, plots, run_page, sections
from launch.metrics import write_atomically


def report(out: Path, family: Family) -> str:
    """Reads the newest evaluation of a run, whoever played it, and writes its report; returns the table as plain text.

    Reads tasks.jsonl, config.json, dataset.json and, where they exist, metrics.csv and rollout.gif. Writes tasks.txt,
    tasks.png, training.png and report.html, each in one move.

    Raises FileNotFoundError or ValueError, naming the file, where one is not there or wrong.
    """
    config = run_page.read_object(out / "config.json")
    card = run_page.read_object(out / "dataset.json").get("card", {})
    (newest,), points = family_rows.collect(family, [out], by_the_run=False)
    row = newest | points | {"seeds": [newest["seed"]]}
    section = family_comparison.section(row)

    text = sections.text(section)
    write_atomically(out / "tasks.txt", text + "\n")
    for name, figure in section.figures.items():
        write_atomically(out / f"{name}.png", figure.png)
    training = []
    if losses := run_page.losses(out):
        image = plots.draw_training(losses, short_updates=config.get("short_updates", 0))
        write_atomically(out / "training.png", image)
        training = run_page.training_figure(image, config)
    parts = [
        *run_page.heading(row, f"asked for a reward of {row['ask']:.2f} a step"),
        page.element("p", section.about, "quiet"),
        page.lead(section.headline),
        *(page.figure(figure.png, "png", figure.caption) for figure in section.figures.values()),
        *run_page.rollout_figure(out / "rollout.gif"),
        page.table(section.header, section.lines, section.kinds),
        page.element("h2", "What was measured"),
        page.element("p", section.method),
        *training,
        *run_page.closing(row, config, card, "Returns are means over the held-out tasks."),
    ]
    write_atomically(out / "report.html", page.document(row["env"], parts))
    return text
