"""The networks by method: the transformer, and the baselines beside it."""

from jax import Array

from agent import baselines, heads, transformer
from agent.baselines import Perceptron
from agent.config import BASELINES, ModelConfig
from data.trajectory import Batch

Weights = transformer.Weights | Perceptron


def init_weights(key: Array, config: ModelConfig, observation_size: int, action_size: int) -> Weights:
    """Of the network that `config.method` names."""
    init = baselines.init_weights if config.method in BASELINES else transformer.init_weights
    return init(key, config, observation_size, action_size)


def predict(weights: Weights, config: ModelConfig, batch: Batch) -> Array:
    """Batch of [B, M] steps -> the action that would be played at every step, [B, M, A] in [-1, 1]."""
    return heads.action(config.head, outputs(weights, config, batch))


def outputs(weights: Weights, config: ModelConfig, batch: Batch, dropout_seed: Array | None = None) -> Array:
    """Batch of [B, M] steps -> what the head says at every step, [B, M, P]."""
    if isinstance(weights, Perceptron):
        return baselines.outputs(weights, config, batch)
    return transformer.outputs(weights, config, batch, dropout_seed)
