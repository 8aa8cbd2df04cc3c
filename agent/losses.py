"""Action losses."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def action_error(predicted: Array, actions: ArrayLike, weights: ArrayLike) -> Array:
    """Squared error of actions, the loss of Decision Transformer and Agentic Transformer.

    [B, M, A] [B, M, A] [B, M] -> scalar: the sum over steps of weight * mean over action dimensions.
    The caller divides by the sum of weights, which lets a batch be summed in parts.
    Source: arXiv 2106.01345, section 3; arXiv 2305.16554, section 3.
    """
    return jnp.sum(jnp.mean((predicted - actions) ** 2, axis=-1) * weights)
