"""Where the episodes of a file are, when it holds the steps of all of them end to end, as D4RL's do.

1. An episode ends where `terminals` or `timeouts` say so. A step that is terminal right after a terminal step is the
   same end marked again (antmaze marks every step at the goal): dropped.
2. Where the observation after a step and the next step's own disagree, an end was not marked: one is there.
3. What still has no mark at its end, or lies in a file without `timeouts`, ends after as many steps as the environment
   allows; this is D4RL's rule for files without `timeouts`. Where that number is not known either: refused.
4. Pieces that then have neither a marked end nor the full length are dropped: the tail of a file cut at a round number
   of steps, above all. Their returns say nothing of how an episode went.
5. An episode of more than twice the length that the environment allows is several, their ends unmarked: refused.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np


class UnknownEnds(Exception):
    """The ends of the episodes cannot be known: rules 3 and 5."""


class Tally:
    """What was not as it should be in a file, for the notes that are printed."""

    def __init__(self, limit: int) -> None:
        """limit: the steps after which the environment truncates an episode; 0: not known."""
        self.limit = limit
        self.unmarked = self.counted = self.repeated = self.pieces = self.steps = self.long = self.longest = 0

    def notes(self) -> list[str]:
        """One line for each kind of thing that happened."""
        lines = {
            f"{self.unmarked} ends not marked: next_observations disagree with the observation that follows; "
            "split there": self.unmarked,
            f"{self.counted} ends not marked: split after {self.limit} steps": self.counted,
            f"{self.repeated} ends marked again, one step each: dropped": self.repeated,
            f"{self.pieces} pieces of episodes whose end is not in the file, {self.steps} steps: dropped": self.pieces,
            f"{self.long} episodes longer than the environment's {self.limit} steps, up to {self.longest}": self.long,
        }
        return [line for line, count in lines.items() if count]


def spans(
    terminals: np.ndarray,
    timeouts: np.ndarray | None,
    breaks: Callable[[int, int], np.ndarray],
    tally: Tally,
) -> Iterator[tuple[int, int]]:
    """The first row of each whole episode and the row after its last.

    Args:
      terminals, timeouts: [N] bool, the marks of every step.
      breaks: (first, last) -> the rows strictly between at which another episode begins, in order.
      tally: has the limit, and counts meanwhile.

    Raises UnknownEnds.
    """
    if timeouts is None and not tally.limit:
        raise UnknownEnds("timeouts missing, and the length of an episode is not known; expected one of them")
    marked = terminals if timeouts is None else terminals | timeouts
    ends = [0, *(int(row) + 1 for row in np.flatnonzero(marked))]
    if ends[-1] < len(marked):
        ends.append(len(marked))
    for first, last in pairwise(ends):
        if last - first == 1 and first and terminals[first] and terminals[first - 1]:
            tally.repeated += 1
            continue
        starts = [first, *(int(row) for row in breaks(first, last)), last]
        tally.unmarked += len(starts) - 2
        for start, stop in pairwise(starts):
            yield from _whole(start, stop, bool(marked[stop - 1]), timeouts is None, tally)


def _whole(start: int, stop: int, marked: bool, count: bool, tally: Tally) -> Iterator[tuple[int, int]]:
    """The whole episodes between two boundaries; `marked`: the second is an end; `count`: steps count all the same."""
    limit = tally.limit
    while limit and stop - start > limit and (count or not marked):
        tally.counted += 1
        yield start, start + limit
        start += limit
    length = stop - start
    if not marked and length != limit:
        tally.pieces, tally.steps = tally.pieces + 1, tally.steps + length
        return
    if limit and length > 2 * limit:
        raise UnknownEnds(
            f"rows {start} to {stop - 1} are one episode by their marks, expected at most twice {limit} steps"
        )
    tally.counted += not marked
    if limit and length > limit:
        tally.long, tally.longest = tally.long + 1, max(tally.longest, length)
    yield start, stop
