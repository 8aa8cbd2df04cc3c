"""The steps of a cached policy (agent/policy.py), compiled: where tokens lie in the cache, and what writes them."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from agent import tokens, transformer
from agent.config import ModelConfig
from agent.transformer import Cache, Weights


class Slots(NamedTuple):
    """Where tokens lie in the cache. Hashable, so that jit can specialise on it."""

    trajs: int
    keep: int
    ring: int
    """Steps of the current trajectory that are held; with keep = 0 it is every step of an episode."""
    kinds: int

    @classmethod
    def of(cls, config: ModelConfig, keep: int, episode_length: int) -> "Slots":
        # One step more than the window: a step is written whole before its first token looks back.
        ring = min(config.window + 1, episode_length) if keep and config.window else episode_length
        return cls(config.context, keep, ring, tokens.tokens_per_step(config.tokens))

    @property
    def past(self) -> int:
        """Slots of the past trajectories, when they are kept apart from the current one."""
        return self.trajs * self.keep * self.kinds if self.trajs > 1 else 0

    @property
    def total(self) -> int:
        """C."""
        return self.past + self.ring * self.kinds * (1 if self.keep else self.trajs)

    def of_step(self, trajectory: Any, timestep: Any) -> Any:
        """The first slot of a step of the current trajectory."""
        if self.keep:
            return self.past + (timestep % self.ring) * self.kinds
        return ((trajectory % self.trajs) * self.ring + timestep) * self.kinds

    def follows(self, timestep: int) -> bool:
        """Whether a step lies right behind the one before it."""
        return timestep > 0 and not (self.keep and timestep % self.ring == 0)

    def of_kept(self, trajectory: Any) -> Any:
        """The first slot of the kept steps of a past trajectory."""
        return (trajectory % self.trajs) * self.keep * self.kinds


class Clock(NamedTuple):
    """Where in their chains the new tokens of a step stand; int32."""

    trajectory: Array  # []
    timestep: Array  # []
    positions: Array  # [B]: place of the first new token
    real: Array  # [B]: how many of the new tokens are its own: fewer, or none, where an episode has ended


def _embed_before(weights: Weights, inputs: Array, timestep: Array) -> Array:
    """[B, 1 + O + A + 2]: target, observation, previous action, reward and completion -> [B, k, E]."""
    observation_size, action_size = weights.tokens.observation.shape[0], weights.tokens.action.shape[0]
    target, observations, actions, rewards, completions = jnp.split(
        inputs[:, None], np.cumsum([1, observation_size, action_size, 1]), axis=-1
    )
    return tokens.embed_before_action(
        weights.tokens,
        target[..., 0],
        observations,
        actions,
        rewards[..., 0],
        completions[..., 0],
        jnp.broadcast_to(timestep, (len(inputs), 1)),
    )[:, 0]


def _embed_after(weights: Weights, inputs: Array, timestep: Array) -> Array:
    """[B, A + 2]: action, reward, completion -> [B, k, E]."""
    actions, rewards, completions = inputs[:, None, :-2], inputs[:, None, -2], inputs[:, None, -1]
    timesteps = jnp.broadcast_to(timestep, (len(inputs), 1))
    return tokens.embed_after_action(weights.tokens, actions, rewards, completions, timesteps)[:, 0]


@partial(jax.jit, static_argnames=("config", "slots"), donate_argnames="cache")
def before_action(
    weights: Weights, config: ModelConfig, slots: Slots, cache: Cache, inputs: Array, clock: Clock
) -> tuple[Array, Cache]:
    """inputs of `_embed_before` -> actions [B, A]."""
    x = _embed_before(weights, inputs, clock.timestep)
    slot = slots.of_step(clock.trajectory, clock.timestep)
    x, cache = transformer.extend(weights, config, cache, x, clock.positions, clock.real, clock.trajectory, slot)
    return transformer.actions_at(weights, config, x[:, -1]), cache


@partial(jax.jit, static_argnames=("config", "slots"), donate_argnames="cache")
def after_action(
    weights: Weights, config: ModelConfig, slots: Slots, cache: Cache, inputs: Array, clock: Clock
) -> Cache:
    """inputs of `_embed_after`."""
    x = _embed_after(weights, inputs, clock.timestep)
    slot = slots.of_step(clock.trajectory, clock.timestep) + slots.kinds - x.shape[1]
    return transformer.extend(weights, config, cache, x, clock.positions, clock.real, clock.trajectory, slot)[1]


@partial(jax.jit, static_argnames=("config", "slots"), donate_argnames="cache")
def between_actions(
    weights: Weights, config: ModelConfig, slots: Slots, cache: Cache, after: Array, before: Array, clock: Clock
) -> tuple[Array, Cache]:
    """`after_action` of the step before and `before_action` in one: weights and cache are read once."""
    last = _embed_after(weights, after, clock.timestep - 1)
    x = jnp.concatenate([last, _embed_before(weights, before, clock.timestep)], axis=1)
    slot = slots.of_step(clock.trajectory, clock.timestep) - last.shape[1]
    x, cache = transformer.extend(weights, config, cache, x, clock.positions, clock.real, clock.trajectory, slot)
    return transformer.actions_at(weights, config, x[:, -1]), cache


@partial(jax.jit, static_argnames="slots", donate_argnames="cache")
def empty_ring(slots: Slots, cache: Cache) -> Cache:
    """Forget the current trajectory."""
    return cache._replace(positions=cache.positions.at[:, slots.past :].set(transformer.EMPTY))


@partial(jax.jit, static_argnames="config", donate_argnames="cache")
def append(
    weights: Weights, config: ModelConfig, cache: Cache, steps: tokens.StepInputs, clock: Clock, slot: Array
) -> Cache:
    """Append finished steps [B, S] of a trajectory to the context."""
    x = tokens.embed(weights.tokens, steps)
    return transformer.extend(weights, config, cache, x, clock.positions, clock.real, clock.trajectory, slot)[1]
