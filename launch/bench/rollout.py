"""Rollouts: environment steps a second, where a step's time goes, and what the cache saves at the longest context.

Weights are random: what a step costs does not depend on them. Episodes that fall cost as much as others, for none ends
before its last step.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium
import numpy as np

import envs
from launch.bench import Plot, Row, Settings, timing
from launch.bench.data import ENV, preset
from launch.evaluate import policy_of
from launch.workers import count

if TYPE_CHECKING:
    from agent.config import ModelConfig
    from agent.transformer import Cache
    from data.scaling import Scaling
    from data.trajectory import Batch
    from envs.rollout import Policy

HELP = "environment steps per second end to end, their parts, and the cache against re-running the context"
PLOT = Plot(bars=("protocol", "part", "context"), values=("steps/s", "ms", "times faster"))

FULL = 32 * 1000 * 4
"""Tokens of the whole context of the preset accelerator."""
MakePolicy = Callable[[Sequence[int]], "Policy"]


def run(settings: Settings) -> list[Row]:
    """The tables of whole rollouts, of a step's parts, and of the cache."""
    return end_to_end(settings) + parts(settings) + cache_against_context(settings)


def _scaling() -> "Scaling":
    from data.scaling import Scaling

    size = envs.spec(ENV).observation_size
    return Scaling(np.zeros(size, np.float32), np.ones(size, np.float32), 500.0, 0.5)


def cpu_policy(seed: int, trajs: int = 0) -> MakePolicy:
    """The preset cpu with random weights, made in the process that plays it; trajs: 0 is the preset's."""
    import jax

    from agent import transformer

    plan, size = preset("cpu"), envs.spec(ENV)
    model = replace(plan.model, trajs=trajs or plan.model.trajs)
    weights = transformer.init_weights(jax.random.key(seed), model, size.observation_size, size.action_size)
    weights = jax.tree.map(np.asarray, weights)
    world = _scaling(), plan.rules, plan.run.keep, size.episode_length
    return partial(policy_of, weights, model, *world, seed, (), False)


def end_to_end(settings: Settings) -> list[Row]:
    """As launch.evaluate plays: short and long chains in turn; what the longer take more is no start-up."""
    from envs import rollout

    chains, (short, long), rounds = (2, (1, 2), 1) if settings.quick else (8, (2, 6), min(settings.repeats, 3))
    processes = count()

    def play(make_policy: MakePolicy, context: bool, episodes: int) -> None:
        rollout.play(
            partial(envs.make, ENV),
            make_policy,
            chains=chains,
            episodes=episodes,
            target_return=500.0,
            seed=settings.seed,
            processes=processes,
            context=context,
        )

    found: list[Row] = []
    for protocol, context in (("own context", True), ("empty context", False))[: 1 if settings.quick else 2]:
        make_policy = cpu_policy(settings.seed, trajs=0 if context else 1)
        seconds: dict[int, list[float]] = {short: [], long: []}
        for _ in range(rounds):
            for episodes, times in seconds.items():
                start = perf_counter()
                play(make_policy, context, episodes)
                times.append(perf_counter() - start)
        length = chains * envs.spec(ENV).episode_length
        table = f"{ENV}, {chains} chains, preset cpu, {processes} processes"
        found.append({"table": table, "protocol": protocol} | rates(seconds, length))
    return found


def rates(seconds: dict[int, list[float]], length: int) -> Row:
    """Seconds of every round, by episodes played (few, then many), each of `length` steps over all chains -> a row."""
    (short, long), rounds = seconds, len(next(iter(seconds.values())))
    took = {episodes: median(times) for episodes, times in seconds.items()}
    each = (took[long] - took[short]) / (long - short) / length
    found: Row = {"steps": long * length, "seconds": took[long], "steps/s": long * length / took[long]}
    if each <= 0:
        return found | {"note": "the longer chains took no longer than the shorter: too noisy to tell more"}
    startup = took[short] - short * length * each
    return found | {
        "start-up s": startup,
        "steps/s after it": 1 / each,
        "steps/s of 32 episodes": 32 * length / (startup + 32 * length * each),
        "note": f"32 episodes: from start-up and rate; medians of {rounds}",
    }


class Watch:
    """Seconds by part, from the third episode on: by then everything is compiled."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.steps = self.episodes = 0
        self.begun = 0.0

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time added to a part."""

        def call(*arguments: Any, **named: Any) -> Any:
            start = perf_counter()
            result = function(*arguments, **named)
            self.seconds[part] = self.seconds.get(part, 0.0) + perf_counter() - start
            return result

        return call

    def begin(self) -> None:
        """An episode begins."""
        self.episodes += 1
        if self.episodes == 3:
            self.seconds, self.steps, self.begun = {}, 0, perf_counter()

    def watch(self, make_policy: MakePolicy, chains: Sequence[int]) -> "Policy":
        """A policy that is timed."""
        policy: Any = make_policy(chains)
        begin, policy.act = self.timed("policy", policy.begin), self.timed("policy", policy.act)
        policy.observe = self.timed("policy", policy.observe)

        def begin_episode(target_return: float) -> None:
            self.begin()
            begin(target_return)

        policy.begin = begin_episode
        return policy


class _Timed(gymnasium.Wrapper):
    def __init__(self, watch: Watch) -> None:
        super().__init__(envs.make(ENV))
        self._watch, self._step = watch, watch.timed("environment", self.env.step)

    def step(self, action: Any) -> Any:
        self._watch.steps += 1
        return self._step(action)


def _watched(make_policy: MakePolicy, chains: int, episodes: int, seed: int) -> dict[str, float]:
    """Play in this process, kept to one core as the processes of a rollout are -> seconds by part."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    from envs import dmc, rollout

    watch = Watch()
    dmc.advance = watch.timed("physics", dmc.advance)
    rollout.play(
        partial(_Timed, watch),
        partial(watch.watch, make_policy),
        chains=chains,
        episodes=episodes,
        target_return=500.0,
        seed=seed,
        processes=1,
        context=True,
    )
    return watch.seconds | {"whole": perf_counter() - watch.begun, "steps": watch.steps}


def parts(settings: Settings) -> list[Row]:
    """Where the time of one process goes: four chains side by side."""
    chains, episodes = (2, 3) if settings.quick else (4, 5)
    work = partial(_watched, cpu_policy(settings.seed), chains, episodes, settings.seed)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        seconds = pool.submit(work).result()
    steps = seconds["steps"]
    shown = {
        "physics": (seconds["physics"], "MuJoCo's own steps"),
        "observation and reward": (seconds["environment"] - seconds["physics"], "the rest of the environment"),
        "policy": (seconds["policy"], f"{chains} chains at once, context kept after each episode"),
        "rest": (seconds["whole"] - seconds["environment"] - seconds["policy"], "resets, and between the parts"),
        "whole": (seconds["whole"], f"{steps / seconds['whole']:,.0f} steps a second in this process"),
    }
    return [
        {
            "table": f"one process, one core, {chains} chains: milliseconds of an environment step",
            "part": part,
            "ms": 1e3 * took / steps,
            "share %": 100 * took / seconds["whole"],
            "note": note,
        }
        for part, (took, note) in shown.items()
    ]


class Context(NamedTuple):
    """A model whose context holds so many tokens of one chain: whole trajectories, interleaved tokens."""

    model: "ModelConfig"
    tokens: int

    @property
    def steps(self) -> int:
        return self.tokens // 4


def cache_against_context(settings: Settings) -> list[Row]:
    """A step of the policy at the end of a full context: four new tokens over the cache, or the whole row again."""
    model = replace(preset("accelerator").model, dtype="float32", dropout=0.0)
    lengths, full = ([256, 512, 1024], 4096) if settings.quick else ([1024, 2048, 4096, 8192, 16_384], FULL)
    thunks: dict[str, timing.Thunk] = {}
    for tokens in lengths:
        thunks[f"again {tokens}"] = again(Context(model, tokens), settings.seed)
    for tokens in (*lengths, full):
        thunks[f"cache {tokens}"] = cached(Context(model, tokens), settings.seed)
    took = {name: found.median for name, found in timing.interleave(thunks, settings.repeats).items()}
    last = lengths[-3:]
    growth = float(np.polyfit(np.log(last), [np.log(took[f"again {tokens}"]) for tokens in last], 1)[0])
    rerun = {tokens: took[f"again {tokens}"] for tokens in lengths}
    rerun[full] = rerun[lengths[-1]] * (full / lengths[-1]) ** growth
    note = f"re-running is extrapolated: it grew with tokens^{growth:.2f} from {last[0]:,} to {last[-1]:,}"
    return [
        {
            "table": f"a step of the policy, {model.layers} layers of width {model.width}, float32",
            "context": tokens,
            "ms with cache": 1e3 * took[f"cache {tokens}"],
            "ms re-running": 1e3 * seconds,
            "times faster": seconds / took[f"cache {tokens}"],
            "note": note if tokens == full else None,
        }
        for tokens, seconds in rerun.items()
    ]


def again(context: Context, seed: int) -> timing.Thunk:
    """The last action of a row, by one forward pass over it."""
    import jax

    from agent import network

    weights = network.init_weights(jax.random.key(seed), context.model, *_sizes())
    batch = jax.tree.map(jax.numpy.asarray, row(context, seed))
    predict = jax.jit(lambda weights, batch: network.predict(weights, context.model, batch)[:, -1])
    return lambda: jax.block_until_ready(predict(weights, batch))


def cached(context: Context, seed: int) -> timing.Thunk:
    """The same action from a full cache: the tokens of the last reward and of the new observation, in one call."""
    import jax
    import jax.numpy as jnp

    from agent import transformer

    model = context.model
    weights = transformer.unstack(transformer.init_weights(jax.random.key(seed), model, *_sizes()))
    cache = transformer.empty_cache(model, 1, context.tokens)
    places = jnp.arange(len(cache.trajectories), dtype=jnp.int32)
    state = [cache._replace(positions=places[None], trajectories=places * model.trajs // len(places))]
    x, first, new = jnp.ones((1, 4, model.width)), jnp.int32(context.tokens - 4), jnp.full(1, 4, jnp.int32)

    def step(weights: transformer.Weights, cache: "Cache") -> Any:
        x_new, cache = transformer.extend(weights, model, cache, x, first[None], new, jnp.int32(model.trajs - 1), first)
        return transformer.actions_at(weights, model, x_new[:, -1]), cache

    compiled = jax.jit(step, donate_argnums=1)

    def act() -> object:
        actions, state[0] = compiled(weights, state[0])
        return jax.block_until_ready((actions, state[0]))

    return act


def row(context: Context, seed: int) -> "Batch":
    """Noise in walker's sizes: one chain of `trajs` equal trajectories."""
    from data.trajectory import Batch

    rng, (observation, action), steps = np.random.default_rng(seed), _sizes(), context.steps
    sizes = {"observations": (observation,), "actions": (action,), "previous_actions": (action,)}
    arrays: dict[str, Any] = {
        name: rng.uniform(-1, 1, (1, steps, *sizes.get(name, ()))).astype(np.float32) for name in Batch._fields
    }
    trajectory, timestep = np.divmod(np.arange(steps, dtype=np.int32)[None], steps // context.model.trajs)
    return Batch(**arrays | {"timesteps": timestep, "trajectories": trajectory, "chains": 0 * trajectory + 1})


def _sizes() -> tuple[int, int]:
    size = envs.spec(ENV)
    return size.observation_size, size.action_size
