"""Random network distillation (Burda et al., arXiv 1810.12894): a bonus for observations that are new.

A network learns to predict what a fixed random one makes of an observation. Where it errs, the agent has
seldom been; the error, over its running standard deviation, is the reward of an agent that has no task.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from agent.explore.config import ExploreConfig
from agent.explore.networks import Layers, init_mlp, mlp

FEATURES = 64
CLIP = 5.0
"""Observations, standardised, beyond which nothing is newer: else one wild velocity outshines all else."""

MOMENTS_RATE = 0.01
"""How fast the moments of the error follow it, once a hundred updates have been averaged."""


class RNDState(NamedTuple):
    """The two networks, and the running moments of the error."""

    target: Layers
    """Fixed."""
    predictor: Layers
    optimizer: optax.OptState
    step: jax.Array
    """Updates made."""
    mean: jax.Array
    mean_square: jax.Array


def init_rnd(key: jax.Array, observation_size: int, config: ExploreConfig) -> RNDState:
    """Two networks that know nothing of each other."""
    target_key, predictor_key = jax.random.split(key)
    sizes = (observation_size, config.width, config.width, FEATURES)
    predictor = init_mlp(predictor_key, sizes)
    return RNDState(
        init_mlp(target_key, sizes),
        predictor,
        config.optimizer().init(predictor),
        jnp.zeros((), jnp.int32),
        jnp.zeros(()),
        jnp.zeros(()),
    )


def update_rnd(state: RNDState, observations: jax.Array, config: ExploreConfig) -> tuple[RNDState, jax.Array]:
    """The networks after a step on scaled observations [B, O], and the bonus [B] these earned before."""
    observations = jnp.clip(observations, -CLIP, CLIP)
    wanted = mlp(state.target, observations)

    def loss(predictor: Layers) -> tuple[jax.Array, jax.Array]:
        squares = (mlp(predictor, observations) - wanted) ** 2
        return jnp.mean(squares), _mean(squares.T)

    gradients, errors = jax.grad(loss, has_aux=True)(state.predictor)
    updates, optimizer_state = config.optimizer().update(gradients, state.optimizer)
    predictor = optax.apply_updates(state.predictor, updates)
    step = state.step + 1
    rate = jnp.maximum(MOMENTS_RATE, 1 / step)
    mean = state.mean + rate * (_mean(errors) - state.mean)
    mean_square = state.mean_square + rate * (_mean(errors**2) - state.mean_square)
    deviation = jnp.sqrt(jnp.maximum(mean_square - mean**2, 1e-12))
    bonus = errors / jnp.maximum(deviation, 1e-7)  # the maximum changes nothing but what XLA makes of it, as in mlp
    return RNDState(state.target, predictor, optimizer_state, step, mean, mean_square), bonus


def _mean(values: jax.Array) -> jax.Array:
    """[N, ...] -> [...], one after the other: a sum of XLA's has as many parts as the CPU has lanes."""
    none = jnp.zeros_like(values[0])
    return jax.lax.fori_loop(0, len(values), lambda i, total: total + values[i], none) / len(values)
