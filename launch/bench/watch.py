"""Work in a process of its own, and the memory that it and those that it starts hold meanwhile."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from multiprocessing import get_context
from os import getpid
from pathlib import Path
from typing import NamedTuple, TypeVar

Result = TypeVar("Result")


class Peak(NamedTuple):
    """Most bytes at once of a process and those that it starts, together."""

    private: int
    """Nobody else can give them back: RssAnon."""
    resident: int
    """With what is mapped from files."""
    largest: int
    """Resident bytes of the largest single process."""


def watched(work: Callable[..., Result], *arguments: object) -> tuple[Result, Peak]:
    """A function in a process of its own, with the most memory that this and those that it starts have held."""
    peak = Peak(0, 0, 0)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        future = pool.submit(work, *arguments)
        while not future.done():
            wait([future], timeout=0.1)
            held = list(map(memory, descendants(getpid())))
            if held:
                private, resident = (sum(each) for each in zip(*held, strict=True))
                largest = max(found for _, found in held)
                peak = Peak(*map(max, peak, (private, resident, largest)))
        return future.result(), peak


def descendants(pid: int) -> Iterator[int]:
    """The processes that a process has started, and those that they have; none where there is no /proc."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in path.read_text().split()]
        except OSError:  # it has ended
            continue
        for child in children:
            yield child
            yield from descendants(child)


def memory(pid: int) -> tuple[int, int]:
    """Private and resident bytes of a process; zeros where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    private, resident = (1024 * int(fields[key][0]) if key in fields else 0 for key in ("RssAnon", "VmRSS"))
    return private, resident
