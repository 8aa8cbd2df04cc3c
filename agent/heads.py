"""Action heads: what the network says of an action, what is learned from it, and what is played.

deterministic  the action; squared error, the loss of Decision Transformer and Agentic Transformer
               (arXiv 2106.01345 and 2305.16554, section 3)
gaussian       a mean and a spread for every action dimension; negative log-likelihood
mixture        COMPONENTS of those, over whole actions; negative log-likelihood

Played is what is most likely: the mean, of the component with the largest weight. Outputs are [..., P] of
`parameters` numbers P, actions [..., A] in [-1, 1].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

COMPONENTS = 5
LOG_STD = (-3.0, 1.0)
"""Bounds of a spread. Actions that are clipped to -1 or 1 have none, and would take the likelihood to infinity."""


class Mixture(NamedTuple):
    """Normal distributions over actions, K of them."""

    log_weights: Array  # [..., K]
    means: Array  # [..., K, A]
    log_stds: Array  # [..., K, A]


def parameters(head: str, action_size: int) -> int:
    """P."""
    one = 2 * action_size
    return {"deterministic": action_size, "gaussian": one, "mixture": COMPONENTS * (one + 1)}[head]


def init_bias(head: str, action_size: int, key: Array) -> Array:
    """[P]: zeros, but for the means of a mixture, which start apart: alike they would stay alike."""
    bias = jnp.zeros(parameters(head, action_size))
    if head != "mixture":
        return bias
    means = jax.random.normal(key, (COMPONENTS * action_size,)) / 2
    return bias.at[COMPONENTS : COMPONENTS * (1 + action_size)].set(means)


def action(head: str, outputs: Array) -> Array:
    """[..., P] -> [..., A]: the action that is played."""
    if head == "deterministic":
        return jnp.tanh(outputs)
    found = _mixture(head, outputs)
    best = jnp.argmax(found.log_weights, axis=-1)[..., None, None]
    return jnp.take_along_axis(found.means, best, axis=-2)[..., 0, :]


def loss(head: str, outputs: Array, actions: ArrayLike, weights: ArrayLike) -> Array:
    """[B, M, P] [B, M, A] [B, M] -> scalar: the sum over steps of weight * what is learned, per action dimension.

    The caller divides by the sum of weights, which lets a batch be summed in parts.
    """
    if head == "deterministic":
        return action_error(action(head, outputs), actions, weights)
    found, played = _mixture(head, outputs), jnp.asarray(actions)[..., None, :]
    of_dimension = jax.scipy.stats.norm.logpdf(played, found.means, jnp.exp(found.log_stds))
    likelihood = jax.scipy.special.logsumexp(found.log_weights + jnp.sum(of_dimension, axis=-1), axis=-1)
    return -jnp.sum(likelihood * weights) / played.shape[-1]


def action_error(played: Array, actions: ArrayLike, weights: ArrayLike) -> Array:
    """[B, M, A] [B, M, A] [B, M] -> scalar: the sum over steps of weight * mean squared error over dimensions."""
    return jnp.sum(jnp.mean((played - actions) ** 2, axis=-1) * weights)


def _mixture(head: str, outputs: Array) -> Mixture:
    """[..., P] -> the distribution; a single one of weight 1 for gaussian."""
    count = COMPONENTS if head == "mixture" else 1
    logits = outputs[..., :count] if count > 1 else jnp.zeros((*outputs.shape[:-1], 1))
    means, log_stds = jnp.split(outputs[..., count if count > 1 else 0 :], 2, axis=-1)
    shape = (*outputs.shape[:-1], count, means.shape[-1] // count)
    return Mixture(
        jax.nn.log_softmax(logits),
        jnp.tanh(means.reshape(shape)),
        jnp.clip(log_stds.reshape(shape), *LOG_STD),
    )
