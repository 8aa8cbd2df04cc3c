"""Agents that make data: TD3 on the task's reward, uniform actions, TD3 on a bonus for novelty.

What an agent has learned is a pure function of a seed and of the episodes in its replay: the caller may let
it learn on one thread and act on another, stop it and go on, and always gets the same agent. It is the same on
every x86 CPU with AVX2 and on any number of cores: learned on the CPU, also where there is a GPU, by sums in one order
and without approximate instructions; what BLAS and LAPACK compute is rounded.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agent.explore.config import ExploreConfig
from agent.explore.networks import DECIMALS
from agent.explore.replay import Replay, Transitions
from agent.explore.rnd import RNDState, init_rnd, update_rnd
from agent.explore.td3 import TD3State, act, init_td3, update_td3

__all__ = ["AGENTS", "ExploreConfig", "Explorer", "Replay", "init", "learn", "policy"]

AGENTS = ("td3", "random", "rnd")
CHUNK = 50
"""Updates in one compiled call, at most."""

PORTABLE = {"xla_cpu_multi_thread_eigen": False, "xla_cpu_experimental_ynn_fusion_type": ""}
"""Options of XLA for sums in the same order everywhere. The second: none of YNNPACK's kernels, chosen by the CPU."""


class Explorer(NamedTuple):
    """An agent and what it has learned. `random` has neither networks nor bonus, `td3` no bonus."""

    mean: jax.Array
    """[O]: of the observations of the random episodes."""
    deviation: jax.Array
    """[O]."""
    td3: TD3State | None
    rnd: RNDState | None


@contextlib.contextmanager
def _on_cpu() -> Iterator[None]:
    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError as error:
        raise ValueError(f"agents that make data learn on the CPU; name cpu in JAX_PLATFORMS too ({error})") from error
    with jax.default_device(cpu):
        yield


@_on_cpu()
def init(agent: str, seed: int, observation_size: int, action_size: int, config: ExploreConfig) -> Explorer:
    """An agent that knows nothing. Raises ValueError when there is none of that name."""
    if agent not in AGENTS:
        raise ValueError(f"unknown agent {agent!r}, expected one of: {', '.join(AGENTS)}")
    td3_key, rnd_key = jax.random.split(jax.random.key(seed))
    return Explorer(
        jnp.zeros(observation_size),
        jnp.ones(observation_size),
        None if agent == "random" else init_td3(td3_key, observation_size, action_size, config),
        init_rnd(rnd_key, observation_size, config) if agent == "rnd" else None,
    )


def policy(
    explorer: Explorer, episode: int, action_size: int, rng: np.random.Generator, config: ExploreConfig
) -> Callable[[np.ndarray], np.ndarray]:
    """How the agent acts in an episode, counted from 0: observation [O] -> action [A] in [-1, 1], noisy.

    In NumPy: the networks are too small, at one observation, to be worth a call of XLA. In double precision and
    rounded, for the action to be the same on every CPU.
    """
    if explorer.td3 is None or episode < config.random_episodes:
        return lambda observation: rng.uniform(-1, 1, action_size).astype(np.float32)
    actor = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), explorer.td3.actor)
    mean, deviation = np.asarray(explorer.mean), np.asarray(explorer.deviation)
    scale = np.float32(config.noise(episode))

    def noisy(observation: np.ndarray) -> np.ndarray:
        action = act(actor, ((observation - mean) / deviation)[None], np)[0].round(DECIMALS).astype(np.float32)
        return np.clip(action + scale * rng.standard_normal(action_size, np.float32), -1, 1)

    return noisy


@_on_cpu()
def learn(explorer: Explorer, replay: Replay, seed: int, config: ExploreConfig) -> Explorer:
    """The agent after the updates due once the replay holds its present number of episodes.

    None are due while the episodes are random; the first ones fix the scale of the observations.
    """
    episodes = replay.episodes
    if explorer.td3 is None or episodes < config.random_episodes:
        return explorer
    if episodes == config.random_episodes:
        moments = replay.moments()
        explorer = explorer._replace(mean=jnp.asarray(moments[0]), deviation=jnp.asarray(moments[1] + 1e-3))
    td3, rnd = explorer.td3, explorer.rnd
    mean, deviation = np.asarray(explorer.mean), np.asarray(explorer.deviation)
    rng = np.random.default_rng((seed, episodes))
    root = jax.random.fold_in(jax.random.key(seed), episodes)
    n_step = 1 if rnd else config.n_step
    for first in range(0, config.updates, CHUNK):
        updates = min(CHUNK, config.updates - first)
        batches = replay.sample(rng, (updates, config.batch_size), n_step, config.discount)
        batches = batches._replace(
            observations=(batches.observations - mean) / deviation,
            next_observations=(batches.next_observations - mean) / deviation,
        )
        keys = jax.random.split(jax.random.fold_in(root, first), updates)
        td3, rnd = _updates(td3, rnd, batches, keys, config)
    return jax.block_until_ready(explorer._replace(td3=td3, rnd=rnd))


@functools.partial(jax.jit, static_argnames="config", compiler_options=PORTABLE)
def _updates(
    td3: TD3State, rnd: RNDState | None, batches: Transitions, keys: jax.Array, config: ExploreConfig
) -> tuple[TD3State, RNDState | None]:
    """One update on each of the minibatches [U, B, ...], observations standardised."""
    Learned = tuple[TD3State, RNDState | None]

    def body(learned: Learned, xs: tuple[Transitions, jax.Array]) -> tuple[Learned, None]:
        (td3, rnd), (batch, key) = learned, xs
        if rnd is not None:
            rnd, bonus = update_rnd(rnd, batch.next_observations, config)
            batch = batch._replace(rewards=bonus)
        return (update_td3(td3, batch, key, config), rnd), None

    return jax.lax.scan(body, (td3, rnd), (batches, keys))[0]
