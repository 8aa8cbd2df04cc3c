"""Families of tasks: their data, batches of chains, and what a policy makes of a task that its context alone tells.

Beside the policy behind 0, 1, 4, ... segments of the data, and behind its own episodes, stand the controls: a
perceptron that is told the task and one that is not, a rule made by hand (the first, told what the best segment of the
context achieves), and the policy behind segments that are labelled with another task.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import envs
from agent.config import ModelConfig, OptimizerConfig
from data import catalog
from data.segment_chains import SegmentSampler
from data.segments import Episodes, Featured, Segments
from envs.family import Family, find
from launch import workers
from launch.actors import Brain, Experienced, Memoryless, Prompted

if TYPE_CHECKING:
    from envs.family_rollout import Actor, Played
    from launch.checkpoint import Meta
    from launch.plan import Plan

PROMPTS = (0, 1, 4, 16)
"""Segments in the prompts that are played, beside as many as a training chain has."""
OWN_EPISODES = 8
PERCEPTRON = ModelConfig(method="rvs", layers=3, width=256)
PERCEPTRON_OPTIMIZER = OptimizerConfig(learning_rate=1e-3, clip=1.0, lr_warmup=50, updates=2500)
TASKS_TO_ASK = 256
"""Tasks whose best rates decide what is asked for."""
PERCEPTRON_SEGMENTS = 32
"""Segments in a batch of the perceptrons."""


class FamilyData(NamedTuple):
    """A data set, under all tasks of a family at once."""

    trajectories: list[Featured]
    card: catalog.Card


def dataset(family: Family, plan: "Plan") -> FamilyData:
    """The data set that a run names, or the family's own, collected where it is absent, and to its end where it is not
    whole. More than it was begun for is launch.collect's to ask: other runs may have learned from it."""
    from launch import commands

    run, data_dir = plan.run, Path(plan.run.data_dir)
    if run.dataset:
        return load(family, run.dataset, data_dir, run.max_steps)
    folder = data_dir / family.domain / family.dataset
    begun = catalog.unfinished(folder)
    if begun or not (folder / catalog.ORIGIN).is_file():
        episodes, seed = begun.get("episodes", run.episodes), begun.get("seed", run.seed)
        commands.collect(family, "commands", episodes, seed, data_dir)
    return load(family, family.dataset, data_dir, run.max_steps)


def load(family: Family, dataset: str, data_dir: Path, max_steps: int = 0) -> FamilyData:
    """A data set of the family's domain, whoever made it, with features computed from its physics states and cached.

    The returns of its card are means over the held-out tasks. Raises as data.catalog.load does.
    """
    columns = []
    for column in range(len(family.axes) + 1):
        size = envs.spec(family.start)._replace(name=f"{family.name}-{column}")
        reward_fn = partial(family.feature, column)
        found = catalog.load(size, dataset, data_dir, reward_fn=reward_fn, workers=workers.cores(), max_steps=max_steps)
        columns.append([trajectory.rewards for trajectory in found.trajectories])
    features = [np.stack(of_episode, axis=-1) for of_episode in zip(*columns, strict=True)]
    tasks = np.array(family.held_out, np.float32)
    totals = [family.rewards(each[:, None], tasks[None]).sum() / len(tasks) for each in features]
    low, first, median, third, high = (float(q) for q in np.quantile(totals, (0, 0.25, 0.5, 0.75, 1)))
    card = found.card._replace(
        env=family.name,
        return_min=low,
        return_25=first,
        return_50=median,
        return_75=third,
        return_mean=float(np.mean(totals)),
        return_max=high,
    )
    trajectories = [Featured(*each, of) for each, of in zip(found.trajectories, features, strict=True)]
    return FamilyData(trajectories, card)


def brain_of(meta: "Meta", weights: Any) -> Brain:
    """What a checkpoint knows. Raises ValueError when it is of no family."""
    family = find(meta.env)
    if family is None:
        raise ValueError(f"--env: expected a family of tasks, got {meta.env}")
    return Brain(weights, meta.model, meta.scaling, meta.rules, meta.segments, family, meta.target_return)


class Lanes(NamedTuple):
    """Tasks played at once, each from an initial state."""

    tasks: np.ndarray  # [B, G]
    starts: np.ndarray  # [B]: number of the initial state
    seeds: np.ndarray  # [B]: what draws it

    @classmethod
    def of(cls, family: Family, starts: int, seed: int) -> "Lanes":
        """Every held-out task from the same initial states."""
        from envs.rollout import initial_seed

        tasks = np.repeat(np.array(family.held_out, np.float32), starts, axis=0)
        numbers = np.tile(np.arange(starts), len(family.held_out))
        return cls(tasks, numbers, np.array([initial_seed(seed, (0, int(start))) for start in numbers]))

    def others(self) -> np.ndarray:
        """[B, G]: another held-out task for each, two before it in their list."""
        return np.roll(self.tasks, 2 * (int(self.starts.max()) + 1), axis=0)


class Result(NamedTuple):
    """What one way of acting came to; entry [b, e] is episode e of lane b."""

    name: str
    segments: int
    """In the context: of the data, or of own episodes from the second episode on."""
    returns: np.ndarray
    achieved: np.ndarray


def protocols(
    brain: Brain, told: Any, untold: Any, episodes: Episodes, lanes: Lanes, seed: int
) -> Iterator[tuple[str, int, int, Callable[[slice], Callable[[], "Actor"]]]]:
    """Every way of acting: its name, segments in context, episodes, and who plays a slice of the lanes."""
    rules, tasks, most = brain.rules, lanes.tasks, brain.model.trajs
    numbers = [(seed, lane) for lane in range(len(tasks))]
    counts = sorted({count for count in PROMPTS if count < most} | {most})

    def cut(count: int, labels: np.ndarray) -> tuple[Segments, np.ndarray]:
        """The segments of a prompt, the same for every policy, and what the best of each achieves."""
        places = episodes.draw(np.random.default_rng((seed, count)), tasks, count, brain.family)
        found = episodes.cut(*places, labels, brain.family)
        best = np.argmax(found.rates(rules.horizon)[..., 0], axis=1)[:, None]
        episode, start = (np.take_along_axis(each, best, axis=1)[:, 0] for each in places)
        return found, episodes.achieved(episode, start, start + rules.segment)[:, :-1].astype(np.float32)

    def memoryless(weights: Any, tell: bool, seen: np.ndarray) -> Callable[[slice], Callable[[], "Actor"]]:
        control = brain._replace(weights=weights, model=PERCEPTRON, rules=replace(rules, tell=tell))
        return lambda part: partial(Memoryless, control, seen[part])

    def prompted(count: int, labels: np.ndarray) -> Callable[[slice], Callable[[], "Actor"]]:
        prompt = brain.context(cut(count, labels)[0], labels) if count else None
        return lambda part: partial(
            Prompted, brain, tasks[part], prompt and type(prompt)(*(values[part] for values in prompt))
        )

    yield "told", 0, 1, memoryless(told, True, tasks)
    yield "not told", 0, 1, memoryless(untold, False, tasks)
    for count in counts:
        if count > 1:
            yield "rule", count, 1, memoryless(told, True, cut(count, tasks)[1])
    for count in counts:
        yield "data", count, 1, prompted(count, tasks)
    yield "wrong labels", most, 1, prompted(most, lanes.others())
    yield "own", most, OWN_EPISODES, lambda part: partial(Experienced, brain, tasks[part], most, numbers[part])


def play(
    family: Family, lanes: Lanes, make_actor: Callable[[slice], Callable[[], "Actor"]], episodes: int, each: Any
) -> "Played":
    """Play all lanes, a part of them in each process."""
    count = min(workers.count(), len(lanes.seeds))
    parts = [slice(int(p[0]), int(p[-1]) + 1) for p in np.array_split(np.arange(len(lanes.seeds)), count)]
    jobs = [(family, lanes.tasks[p], lanes.seeds[p], make_actor(p), episodes) for p in parts]
    played = list(each(_play, jobs))
    return type(played[0])(*(np.concatenate(parts) for parts in zip(*played, strict=True)))


def _play(job: tuple[Family, np.ndarray, np.ndarray, Callable[[], "Actor"], int]) -> "Played":
    from envs import family_rollout

    family, tasks, seeds, make_actor, episodes = job
    return family_rollout.play(family, tasks, seeds, make_actor(), episodes)


def results(brain: Brain, told: Any, untold: Any, episodes: Episodes, lanes: Lanes, seed: int) -> Iterator[Result]:
    """Play every protocol, one after another."""
    with workers.mapping() as each:
        for name, count, played_episodes, make_actor in protocols(brain, told, untold, episodes, lanes, seed):
            played = play(brain.family, lanes, make_actor, played_episodes, each)
            yield Result(name, count, played.returns, played.achieved)


def sampler(brain: Brain, trajectories: Sequence[Featured], trajs: int, rows: int, seed: int) -> SegmentSampler:
    """Batches to learn from; of `brain`, the weights are not read."""
    episodes = Episodes(trajectories, brain.rules)
    return SegmentSampler(episodes, brain.family, brain.telling, brain.chain_rules, trajs, rows, seed)


def rate_to_ask(brain: Brain, trajectories: Sequence[Featured], seed: int) -> float:
    """The best rate in a chain, on average over tasks: more is seldom seen, and then of those easy to reach."""
    episodes, rng = Episodes(trajectories, brain.rules), np.random.default_rng(seed)
    tasks = brain.family.draw(rng, TASKS_TO_ASK)
    found = episodes.cut(*episodes.draw(rng, tasks, brain.model.trajs, brain.family), tasks, brain.family)
    return float(found.rates(brain.rules.horizon)[..., 0].max(axis=1).mean())


def perceptron(brain: Brain, trajectories: Sequence[Featured], tell: bool, seed: int) -> Any:
    """The control without context, told the task or not, learned from the same segments."""
    import jax

    from agent import learner

    of = brain._replace(rules=replace(brain.rules, tell=tell, show_rewards="none"))
    batches = sampler(of, trajectories, PERCEPTRON_SEGMENTS, 1, seed)
    example = batches.batch(0)
    sizes = example.observations.shape[-1], example.actions.shape[-1]
    state = learner.init_state(jax.random.key(seed), PERCEPTRON, PERCEPTRON_OPTIMIZER, *sizes)
    step = jax.jit(learner.make_train_step(PERCEPTRON, PERCEPTRON_OPTIMIZER, seed), donate_argnums=0)
    for number in range(PERCEPTRON_OPTIMIZER.updates):
        state, _ = step(state, batches.batch(number))
    return jax.tree.map(np.asarray, state.weights)
