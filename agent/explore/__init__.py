"""Agents that make data: TD3 on the task's reward, uniform actions, TD3 on a bonus for novelty.

What an agent has learned is a pure function of a seed and of the episodes in its replay: the caller may let it learn
on one thread and act on another, stop it and go on, and always gets the same agent.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agent.explore.config import ExploreConfig
from agent.explore.networks import Layers, mlp
from agent.explore.replay import Replay, Transitions
from agent.explore.rnd import RNDState, init_rnd, update_rnd
from agent.explore.td3 import TD3State, init_td3, update_td3

__all__ = ["AGENTS", "ExploreConfig", "Explorer", "Policy", "Replay", "Transitions", "init", "learn"]

AGENTS = ("td3", "random", "rnd")
CHUNK = 50
"""Updates in one compiled call."""


class Explorer(NamedTuple):
    """An agent and what it has learned. `random` has neither networks nor bonus, `td3` no bonus."""

    mean: jax.Array
    """[O]: of the observations of the random episodes."""
    deviation: jax.Array
    """[O]."""
    td3: TD3State | None
    rnd: RNDState | None


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


def learn(explorer: Explorer, replay: Replay, seed: int, config: ExploreConfig) -> Explorer:
    """The agent after the updates due for the episode that the replay will hold next."""
    episode = replay.episodes
    if explorer.td3 is None or episode < config.random_episodes:
        return explorer
    if episode == config.random_episodes:
        mean, deviation = replay.moments()
        explorer = explorer._replace(mean=jnp.asarray(mean), deviation=jnp.asarray(deviation + 1e-3))
    rng = np.random.default_rng((seed, episode))
    key = jax.random.fold_in(jax.random.key(seed), episode)
    n_step = 1 if explorer.rnd else config.n_step
    for _ in range(config.updates // CHUNK):
        batches = replay.sample(rng, (CHUNK, config.batch_size), n_step, config.discount)
        explorer = _updates(explorer, batches, key, config)
    return jax.block_until_ready(explorer)


@functools.partial(jax.jit, static_argnames="config")
def _updates(explorer: Explorer, batches: Transitions, key: jax.Array, config: ExploreConfig) -> Explorer:
    """One update on each of the minibatches, [U, B, ...]."""

    def body(explorer: Explorer, batch: Transitions) -> tuple[Explorer, None]:
        return _update(explorer, batch, jax.random.fold_in(key, explorer.td3.step), config), None

    return jax.lax.scan(body, explorer, batches)[0]
