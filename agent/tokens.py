"""Token kinds and their order: the only file that knows how steps become tokens.

    interleaved   R_t  s_t  a_t  r_t      the papers' (arXiv 2305.16554 and 2305.19370): 4 tokens a step;
                                          the reward token also carries the completion flag d_t
    fused         (R_t, s_t, a_t-1, r_t-1, d)   one token a step; d as in Batch.previous_completions

The action is read where everything before it is known: at s_t, or at the fused token.
"""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from data.trajectory import Batch

PERIODS = (4, 16, 64, 256, 1024)


class TokenWeights(NamedTuple):
    """One projection per quantity, shared by both layouts."""

    target: Array  # [E]
    observation: Array  # [O, E]
    action: Array  # [A, E]
    reward: Array  # [E]
    completion: Array  # [E]
    timestep: Array  # [1 + 2 * len(PERIODS), E]
    kind: Array  # [K, E]


class StepInputs(NamedTuple):
    """The fields of Batch that become tokens, [B, M, ...]."""

    target_returns: Array
    observations: Array
    actions: Array
    rewards: Array
    completions: Array
    previous_actions: Array
    previous_rewards: Array
    previous_completions: Array
    timesteps: Array


def tokens_per_step(layout: str) -> int:
    """K: 4 interleaved, 1 fused."""
    return {"interleaved": 4, "fused": 1}[layout]


def tokens_after_action(layout: str) -> int:
    """How many of them only the action and its reward complete."""
    return {"interleaved": 2, "fused": 0}[layout]


def init_tokens(key: Array, layout: str, observation_size: int, action_size: int, width: int) -> TokenWeights:
    """Every projected quantity adds about the same variance to its token.

    The completion flag starts at zero: in sorted chains it never precedes an action in training
    (it marks the very last step), and an input that was never trained must not disturb a rollout.
    """
    sizes = (1, observation_size, action_size, 1, 1 + 2 * len(PERIODS), tokens_per_step(layout))
    target, observation, action, reward, timestep, kind = (
        0.5 * jax.random.normal(k, (n, width)) / n**0.5
        for k, n in zip(jax.random.split(key, len(sizes)), sizes, strict=True)
    )
    return TokenWeights(target[0], observation, action, reward[0], jnp.zeros(width), timestep, kind)


def timestep_features(timesteps: Array) -> Array:
    """[...] int -> [..., 1 + 2 * len(PERIODS)]: t / 500 - 1, and a sine and cosine of every period, in steps."""
    t = timesteps.astype(jnp.float32)
    waves = [f(2 * jnp.pi * t / period) for period in PERIODS for f in (jnp.sin, jnp.cos)]
    return jnp.stack([t / 500 - 1, *waves], axis=-1)


def embed_before_action(
    w: TokenWeights,
    target_returns: Array,
    observations: Array,
    previous_actions: Array,
    previous_rewards: Array,
    previous_completions: Array,
    timesteps: Array,
) -> Array:
    """The tokens of a step that are known before its action.

    [B, M] [B, M, O] [B, M, A] [B, M] [B, M] [B, M] -> [B, M, k, E] with k = 2 interleaved, 1 fused.
    The action is read at the last of them.
    """
    time = timestep_features(timesteps) @ w.timestep
    target = target_returns[..., None] * _row(w.target, 3)
    observation = observations @ w.observation
    if w.kind.shape[0] == 4:
        tokens = jnp.stack([target + time, observation + time], axis=2)
        return tokens + w.kind[None, None, :2]
    previous = (
        previous_actions @ w.action
        + previous_rewards[..., None] * _row(w.reward, 3)
        + previous_completions[..., None] * _row(w.completion, 3)
    )
    return (target + observation + previous + time)[:, :, None] + w.kind[None, None]


def embed_after_action(w: TokenWeights, actions: Array, rewards: Array, completions: Array, timesteps: Array) -> Array:
    """The tokens of a step that only its action and its reward complete.

    [B, M, A] [B, M] [B, M] [B, M] -> [B, M, k, E] with k = 2 interleaved, 0 fused.
    """
    if w.kind.shape[0] == 1:
        return jnp.zeros((*timesteps.shape, 0, w.kind.shape[1]))
    time = timestep_features(timesteps) @ w.timestep
    reward = rewards[..., None] * _row(w.reward, 3) + completions[..., None] * _row(w.completion, 3)
    return jnp.stack([actions @ w.action + time, reward + time], axis=2) + w.kind[None, None, 2:]


def embed(w: TokenWeights, batch: Batch | StepInputs) -> Array:
    """[B, M] steps -> tokens [B, M * K, E]."""
    s = cast(StepInputs, batch)  # a Batch holds NumPy arrays of the same names
    previous = (s.previous_actions, s.previous_rewards, s.previous_completions)
    before = embed_before_action(w, s.target_returns, s.observations, *previous, s.timesteps)
    after = embed_after_action(w, s.actions, s.rewards, s.completions, s.timesteps)
    return jnp.concatenate([before, after], axis=2).reshape(s.timesteps.shape[0], -1, w.kind.shape[1])


def per_token(values: ArrayLike, layout: str) -> Array:
    """[B, M] -> [B, M * K]: every token of a step takes the value of its step."""
    return jnp.repeat(values, tokens_per_step(layout), axis=1)


def at_action(tokens: Array, layout: str) -> Array:
    """[B, M * K, E] -> [B, M, E]: the token of each step at which its action is read."""
    rows, length, width = tokens.shape
    kinds = tokens_per_step(layout)
    return tokens.reshape(rows, length // kinds, kinds, width)[:, :, {4: 1, 1: 0}[kinds]]


def _row(vector: Array, rank: int) -> Array:
    return vector.reshape((1,) * (rank - 1) + vector.shape)
