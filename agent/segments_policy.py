"""Acting behind a prompt of segments (data/segments.py), step by step from the key/value cache.

The prompt is read once, in one pass; the running episode lies in a ring of its latest `window` steps behind it. It
equals one forward pass over prompt and episode under the mask of training: tests/test_segments.py.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from agent import tokens, transformer
from agent.config import ModelConfig
from agent.transformer import Cache, Weights
from data.trajectory import Batch


@partial(jax.jit, static_argnames="config", donate_argnames="cache")
def _read(weights: Weights, config: ModelConfig, cache: Cache, prompt: tokens.StepInputs, trajectories: Array) -> Cache:
    """Write a prompt [B, P] into the first P slots."""
    x = tokens.embed(weights.tokens, prompt)
    position = jnp.zeros(x.shape[0], jnp.int32)
    return transformer.extend(weights, config, cache, x, position, position + x.shape[1], trajectories, jnp.int32(0))[1]


@partial(jax.jit, static_argnames=("config", "ring"), donate_argnames="cache")
def _act(
    weights: Weights, config: ModelConfig, ring: int, cache: Cache, inputs: Array, prompted: Array, timestep: Array
) -> tuple[Array, Cache]:
    """inputs [B, 2 + O]: target, previous reward, observation -> actions [B, A]. prompted: int32, P."""
    rows, nothing = inputs.shape[0], jnp.zeros((inputs.shape[0], 1))
    x = tokens.embed_before_action(
        weights.tokens,
        target_returns=inputs[:, :1],
        observations=inputs[:, None, 2:],
        previous_actions=jnp.zeros((rows, 1, weights.tokens.action.shape[0])),
        previous_rewards=inputs[:, 1:2],
        previous_completions=nothing,
        timesteps=nothing.astype(jnp.int32),
    )[:, 0]
    position = jnp.broadcast_to(prompted + timestep, (rows,))
    slot = cache.positions.shape[1] - ring + timestep % ring
    trajectory = jnp.int32(config.trajs - 1)
    x, cache = transformer.extend(weights, config, cache, x, position, jnp.ones_like(position), trajectory, slot)
    return transformer.actions_at(weights, config, x[:, -1]), cache


class SegmentsPolicy:
    """B chains in lockstep, all their arrays as the network sees them."""

    def __init__(self, weights: Weights, config: ModelConfig, *, chains: int, steps: int) -> None:
        """steps: the longest prompt, P. Raises ValueError for a model of other tokens, or without a window."""
        if config.tokens != "fused" or not config.window:
            raise ValueError(
                f"--tokens, --window: expected fused and a window to act behind segments, got {config.tokens}, "
                f"{config.window}"
            )
        self._weights, self._config = jax.device_put(transformer.unstack(weights)), config
        self._chains, self._steps = chains, steps
        self.prompt(None)

    def prompt(self, prompt: Batch | None) -> None:
        """Forget everything, and read a prompt [B, P] of chains without their last trajectory; None is an empty one.

        Raises ValueError when it is longer than `steps`.
        """
        length = 0 if prompt is None else prompt.timesteps.shape[1]
        if length > self._steps:
            raise ValueError(f"prompt: expected {self._steps} steps or fewer, got {length}")
        self._cache = transformer.empty_cache(self._config, self._chains, self._steps + self._config.window)
        self._prompted, self._timestep = np.int32(length), 0
        if prompt is None:
            return
        steps = tokens.StepInputs(*(getattr(prompt, name) for name in tokens.StepInputs._fields))
        self._cache = _read(self._weights, self._config, self._cache, steps, prompt.trajectories[0])

    def act(self, observations: np.ndarray, target: np.ndarray, previous_rewards: np.ndarray) -> np.ndarray:
        """[B, O], [B], [B] -> [B, A] in [-1, 1]: the next action of the running episode."""
        inputs = np.concatenate((target[:, None], previous_rewards[:, None], observations), axis=1, dtype=np.float32)
        actions, self._cache = _act(
            self._weights,
            self._config,
            self._config.window,
            self._cache,
            inputs,
            self._prompted,
            np.int32(self._timestep),
        )
        self._timestep += 1
        return np.asarray(actions)
