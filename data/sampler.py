"""Batches of chains: batch(step) is a pure function of seed and step, so a resumed run sees the same ones."""

from collections.abc import Iterator, Sequence

import numpy as np

from data import chain
from data.chain import Attempt, ChainRules, Excerpt
from data.scaling import Scaling
from data.trajectory import Batch, Trajectory


class Sampler:
    """Draws chains of hindsight and packs them into rows of `steps_per_row` steps, M.

    A chain has n trajectories drawn without replacement, n uniform over 1, 2, 4, ... and `trajs` (`--draw powers`):
    1, because the first episode at test has no past; the lengths between, because every later one has a part of it. It
    shows `keep` steps of each past trajectory and `crop` in a row of the last; 0 is all (data/chain.py).

    A packed row ends with the first chain that no longer fits, so that short chains come more often than they are drawn
    where rows hold many: of whole trajectories of one length and trajs = 32, 21% of chains have one and 5% have 32.
    With the kept steps of the preset `cpu`, as without `pack`, all lengths come equally often.
    """

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        scaling: Scaling,
        rules: ChainRules,
        trajs: int,
        keep: int,
        crop: int,
        rows: int,
        seed: int,
        steps_per_row: int | None = None,
        pack: bool = True,
    ) -> None:
        """`rows` is B; `steps_per_row` defaults to one chain of `trajs` of the longest trajectories; without `pack` a
        row holds one chain.

        Raises ValueError when a number is out of range, or there are fewer trajectories than `trajs`.
        """
        for flag, value, least in (
            ("trajs", trajs, 1),
            ("keep", keep, 0),
            ("crop", crop, 0),
            ("rows", rows, 1),
        ):
            if value < least:
                raise ValueError(f"--{flag}: expected {least} or more, got {value}")
        if len(trajectories) < trajs:
            raise ValueError(
                f"--trajs: expected at most {len(trajectories)}, the trajectories in the data, got {trajs}; "
                f"ask for fewer, or collect more episodes"
            )
        self.scaling, self.rules = scaling, rules
        self.keep, self.crop, self.rows, self.seed, self.pack = keep, crop, rows, seed, pack
        self.attempts = [Attempt.of(trajectory) for trajectory in trajectories]
        self.totals = np.array([attempt.total for attempt in self.attempts])
        self.counts = chain_lengths(trajs, rules.draw)
        longest = max(attempt.length for attempt in self.attempts)
        one_chain = (trajs - 1) * chain.shown(longest, keep) + chain.shown(longest, crop)
        self.steps_per_row = steps_per_row or one_chain
        if self.steps_per_row < one_chain:
            raise ValueError(f"steps_per_row: expected at least {one_chain}, a chain of {trajs}, got {steps_per_row}")

    def batch(self, step: int) -> Batch:
        """The batch [B, M] of an update, scaled; a row depends on the seed, the step and its number alone."""
        excerpts, numbers, places = [], [], []
        for row in range(self.rows):
            start = row * self.steps_per_row
            rng = np.random.default_rng((self.seed, step, row))
            for number, excerpt in enumerate(self._row(rng), start=1):
                count = sum(len(steps) for steps in excerpt.kept)
                excerpts.append(excerpt)
                numbers.append(np.full(count, number))
                places.append(np.arange(start, start + count))
                start += count
        steps = chain.cut(excerpts, self.rules).scaled(self.scaling)._asdict() | {"chains": np.concatenate(numbers)}
        place = np.concatenate(places)
        return Batch(**{name: self._padded(values, place, _dtype(name)) for name, values in steps.items()})

    def _padded(self, values: np.ndarray, place: np.ndarray, dtype: type) -> np.ndarray:
        """[S, ...] -> [B, M, ...]: every step at its place in the batch, nought elsewhere."""
        flat = np.zeros((self.rows * self.steps_per_row, *values.shape[1:]), dtype)
        flat[place] = values
        return flat.reshape(self.rows, self.steps_per_row, *values.shape[1:])

    def _row(self, rng: np.random.Generator) -> Iterator[Excerpt]:
        """Whole chains, until the next does not fit."""
        left = self.steps_per_row
        while left:
            attempts = self._draw(rng)
            past = sum(chain.shown(attempt.length, self.keep) for attempt in attempts[:-1])
            left -= past + chain.shown(attempts[-1].length, self.crop)
            if left < 0:
                return
            yield chain.excerpt(attempts, self.rules, self.keep, self.crop, rng)
            if not self.pack:
                return

    def _draw(self, rng: np.random.Generator) -> list[Attempt]:
        """The attempts of one chain, in order."""
        count = self.counts[rng.integers(len(self.counts))]
        if count == 1:  # much faster than a choice and an order of one
            return [self.attempts[rng.integers(len(self.attempts))]]
        drawn = rng.choice(len(self.attempts), count, replace=False)
        return [self.attempts[i] for i in drawn[chain.order(self.totals[drawn], self.rules)]]


def _dtype(name: str) -> type:
    """Of a field of a batch."""
    return np.int32 if name in ("timesteps", "trajectories", "chains") else np.float32


def chain_lengths(trajs: int, draw: str = "powers") -> list[int]:
    """The numbers of trajectories that chains have, one as likely as another; powers: of two, below `trajs`."""
    if draw != "powers":
        return list(range(1, trajs + 1)) if draw == "uniform" else [trajs]
    return [2**i for i in range(trajs.bit_length()) if 2**i < trajs] + [trajs]


def train_count(trajectories: int, fraction: float) -> int:
    """How many are left to train on where a fraction is held out."""
    return trajectories - round(fraction * trajectories)


def split(trajectories: Sequence[Trajectory], fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (train, heldout), each increasing: a random `fraction`, rounded, is held out.

    Raises ValueError unless 0 <= fraction < 1 and a trajectory is left to train on.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"--heldout: expected a fraction of at least 0 and below 1, got {fraction}")
    left = train_count(len(trajectories), fraction)
    if not left:
        raise ValueError(f"--heldout: {fraction} of {len(trajectories)} trajectories leaves none to train on")
    shuffled = np.random.default_rng(seed).permutation(len(trajectories))
    return np.sort(shuffled[-left:]), np.sort(shuffled[:-left])
