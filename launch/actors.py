"""Who plays the tasks of a family: a policy behind segments, and the controls beside it. Made where they play."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from data import segment_chains, segments
from data.chain import ChainRules
from data.scaling import Scaling
from data.segment_chains import Telling
from data.segments import SegmentRules, Segments
from data.trajectory import Batch
from envs.family import Family


class Brain(NamedTuple):
    """A trained network and all that acting with it needs."""

    weights: Any
    model: Any
    scaling: Scaling
    chain_rules: ChainRules
    rules: SegmentRules
    family: Family
    ask: float
    """The rate that is asked for."""

    @property
    def telling(self) -> Telling:
        """How it sees observations."""
        low, high = (np.array([getattr(axis, name) for axis in self.family.axes]) for name in ("low", "high"))
        return Telling(self.scaling, self.rules, low, high)

    def context(self, found: Segments, tasks: np.ndarray) -> Batch:
        """Segments, labelled as they are, as a context [B, N * S]; tasks [B, G] are seen where they are told."""
        shown = np.full(found.first.shape, self.rules.show_rewards != "none")
        return segment_chains.chains(
            found, self.telling(found.observations, tasks), shown, self.chain_rules, self.rules
        )


class Prompted:
    """The policy behind a prompt, the same before every episode."""

    def __init__(self, brain: Brain, tasks: np.ndarray, prompt: Batch | None, steps: int = 0) -> None:
        """steps: of the longest prompt there will be, if longer than this one."""
        from agent.segments_policy import SegmentsPolicy

        self._brain, self._tasks, self._prompt, self._telling = brain, tasks, prompt, brain.telling
        steps = max(steps, 0 if prompt is None else prompt.timesteps.shape[1])
        # A prompt may hold as many segments as a training chain, and the running episode comes on top.
        model = replace(brain.model, trajs=brain.model.trajs + 1)
        self._policy = SegmentsPolicy(brain.weights, model, chains=len(tasks), steps=steps)

    def begin(self) -> None:
        """Forget the last episode."""
        self._policy.prompt(self._prompt)
        self._shown = np.zeros(len(self._tasks), np.float32)

    def act(self, observations: np.ndarray) -> np.ndarray:
        """[B, O] -> [B, A]."""
        target = segment_chains.scale_rate(np.full(len(observations), self._brain.ask, np.float32))
        return self._policy.act(self._telling(observations, self._tasks), target, self._shown)

    def observe(self, rewards: np.ndarray) -> None:
        """[B]: seen by the next step, where running episodes show their rewards."""
        if self._brain.rules.show_rewards == "all":
            self._shown = segment_chains.scale_shown(rewards)


class Experienced(Prompted):
    """The policy behind segments of its own earlier episodes: none before the first."""

    def __init__(self, brain: Brain, tasks: np.ndarray, count: int, seeds: Sequence[tuple[int, int]]) -> None:
        """count: segments in the context. seeds: of each task, for which segments they are."""
        super().__init__(brain, tasks, None, count * brain.rules.segment)
        self._count, self._rngs = count, [np.random.default_rng(seed) for seed in seeds]
        self._played: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._observations: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._rewards: list[np.ndarray] = []

    def begin(self) -> None:
        """Cut the episodes played into the context."""
        if self._rewards:
            observations, actions, rewards = (
                np.stack(each, axis=1) for each in (self._observations, self._actions, self._rewards)
            )
            self._played.append((observations, actions, rewards))
            self._observations, self._actions, self._rewards = [], [], []
            self._prompt = self._brain.context(self._cut(), self._tasks)
        super().begin()

    def _cut(self) -> Segments:
        """Chain by chain, so that nothing depends on how many play side by side."""
        cuts = []
        for chain, rng in enumerate(self._rngs):
            part = slice(chain, chain + 1)
            played = [(o[part], a[part], r[part]) for o, a, r in self._played]
            cuts.append(segments.cut_own(rng, played, self._count, self._brain.rules))
        return Segments(*(np.concatenate(values) for values in zip(*cuts, strict=True)))

    def act(self, observations: np.ndarray) -> np.ndarray:
        """[B, O] -> [B, A]."""
        self._observations.append(observations.copy())
        self._actions.append(super().act(observations))
        return self._actions[-1]

    def observe(self, rewards: np.ndarray) -> None:
        """[B]: what the actions earned."""
        self._rewards.append(rewards)
        super().observe(rewards)


class Memoryless:
    """A return-conditioned perceptron, which sees a step alone."""

    def __init__(self, brain: Brain, tasks: np.ndarray) -> None:
        """tasks: what it is told, where it is told."""
        import jax

        from agent import baselines

        self._tasks, self._telling, self._ask = tasks, brain.telling, brain.ask
        self._act = jax.jit(lambda *seen: baselines.act(brain.weights, brain.model, *seen))

    def begin(self) -> None:
        """There is nothing to forget."""

    def act(self, observations: np.ndarray) -> np.ndarray:
        """[B, O] -> [B, A]."""
        target = segment_chains.scale_rate(np.full(len(observations), self._ask, np.float32))
        seen = self._telling(observations, self._tasks)
        return np.asarray(self._act(seen, target, np.zeros(len(observations), np.int32)))

    def observe(self, rewards: np.ndarray) -> None:
        """It remembers nothing."""
