"""List the data sets: what is on disk, and what can be collected or downloaded.

python -m launch.datasets --data_dir datasets
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from data import catalog
from launch import program

_DATA_DIR = flags.DEFINE_string("data_dir", "datasets", "Where data sets lie, as <domain>/<data set>/buffer.")


def table(data_dir: Path) -> Iterator[str]:
    """The lines of the listing."""
    found = catalog.on_disk(data_dir)
    yield f"On disk in {data_dir}:" if found else f"On disk in {data_dir}: nothing yet."
    for row in found:
        episodes = f"{row.episodes:,} episodes"
        yield f"  {row.domain:<16} {row.dataset:<13} {episodes:>16} {_size(row.bytes):>9}  {row.path}"
    yield ""
    yield "To collect (python -m launch.collect --env walker_run --agent AGENT):"
    yield f"  {', '.join(catalog.COLLECTED)}"
    yield ""
    yield "To download, the ExoRL release (unzip into the folder; sizes where known):"
    for domain in catalog.DOMAINS:
        known = [f"{dataset} {_size(size)}" for (of, dataset), size in catalog.DOWNLOAD_BYTES.items() if of == domain]
        url = catalog.DOWNLOAD_URL.format(domain=domain, dataset="DATASET")
        yield f"  {url} -> {data_dir / domain / 'DATASET'}" + (f"  ({', '.join(known)})" if known else "")
    yield f"  DATASET is one of {', '.join(catalog.DOWNLOADS)}"


def _size(size: int) -> str:
    """[bytes] in the unit that fits."""
    for unit, worth in (("GB", 1e9), ("MB", 1e6)):
        if size >= worth:
            return f"{size / worth:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


def main(_: Sequence[str]) -> None:
    print("\n".join(table(Path(_DATA_DIR.value))))


if __name__ == "__main__":
    program.run(main)
