"""Policies without a context, trained, stored and played as the transformer is: what context has to beat.

bc     behaviour cloning: the action from the observation
bc10   the same, on the tenth of the trajectories with the highest returns (BC-10% of the papers)
rvs    the action from the observation, what is still asked for, and the timestep: return-conditioned supervised
       learning with a multi-layer perceptron (RvS-R, arXiv 2112.10751)
random every action as likely as every other; its perceptron is never asked
"""

import itertools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from agent import heads
from agent.config import ModelConfig
from agent.tokens import PERIODS, timestep_features
from data.scaling import Scaling
from data.trajectory import Batch


class Perceptron(NamedTuple):
    """All that is learned; float32. The last layer gives what agent/heads.py reads."""

    matrices: tuple[Array, ...]  # [in, out]
    biases: tuple[Array, ...]  # [out]


def init_weights(key: Array, config: ModelConfig, observation_size: int, action_size: int) -> Perceptron:
    """`layers` hidden layers of `width`."""
    asked = 2 + 2 * len(PERIODS) if config.method == "rvs" else 0
    sizes = (observation_size + asked, *(config.width,) * config.layers, heads.parameters(config.head, action_size))
    keys = jax.random.split(key, len(sizes) - 1)
    pairs = list(itertools.pairwise(sizes))
    scales = [(2.0 / n) ** 0.5 for n, _ in pairs[:-1]] + [0.1 / sizes[-2] ** 0.5]
    return Perceptron(
        tuple(scale * jax.random.normal(k, pair) for k, pair, scale in zip(keys, pairs, scales, strict=True)),
        (*(jnp.zeros(n) for _, n in pairs[:-1]), heads.init_bias(config.head, action_size, jax.random.fold_in(key, 1))),
    )


def act(
    weights: Perceptron, config: ModelConfig, observations: Array, target_returns: Array, timesteps: Array
) -> Array:
    """[..., O] [...] [...] -> [..., A] in [-1, 1]; all scaled."""
    return heads.action(config.head, _outputs(weights, config, observations, target_returns, timesteps))


def _outputs(
    weights: Perceptron, config: ModelConfig, observations: Array, target_returns: Array, timesteps: Array
) -> Array:
    x = observations
    if config.method == "rvs":
        x = jnp.concatenate([x, target_returns[..., None], timestep_features(timesteps)], axis=-1)
    for i, (matrix, bias) in enumerate(zip(weights.matrices, weights.biases, strict=True)):
        x = x @ matrix + bias.reshape((1,) * (x.ndim - 1) + (-1,))
        x = jax.nn.relu(x) if i + 1 < len(weights.matrices) else x
    return x


def outputs(weights: Perceptron, config: ModelConfig, batch: Batch) -> Array:
    """Batch of [B, M] steps -> what the head says at every step, [B, M, P]. There is no dropout."""
    arrays = (batch.observations, batch.target_returns, batch.timesteps)
    return _outputs(weights, config, *map(jnp.asarray, arrays))


_act = jax.jit(act, static_argnames="config")


class PerceptronPolicy:
    """The policy of envs/rollout.py for B chains, of which it remembers nothing."""

    def __init__(self, weights: Perceptron, config: ModelConfig, scaling: Scaling, *, chains: int) -> None:
        self._act = partial(_act, jax.device_put(weights), config)
        self._scaling, self._chains = scaling, chains

    def reset(self) -> None:
        """Nothing to forget."""

    def begin(self, target_return: float) -> None:
        """Start an episode in every chain, asking for target_return in environment units."""
        self._left = np.full(self._chains, target_return)
        self._timestep = 0

    def act(self, observations: np.ndarray) -> np.ndarray:
        """[B, O] -> [B, A]."""
        left = self._scaling.scale_returns(self._left).astype(np.float32)
        timesteps = np.full(self._chains, self._timestep, np.int32)
        return np.asarray(self._act(self._scaling.scale_observations(observations), left, timesteps))

    def observe(self, rewards: np.ndarray, last: np.ndarray) -> None:
        """[B]: what the actions earned, in environment units."""
        self._left = self._left - rewards
        self._timestep += 1


class RandomPolicy:
    """The policy of envs/rollout.py that draws every action from [-1, 1]."""

    def __init__(self, action_size: int, *, chains: int, seed: int) -> None:
        self._shape, self._seed = (chains, action_size), seed

    def reset(self) -> None:
        """Nothing to forget."""

    def begin(self, target_return: float) -> None:
        """Start an episode in every chain; what is asked for changes nothing."""
        self._rng: np.random.Generator | None = None

    def act(self, observations: np.ndarray) -> np.ndarray:
        """[B, O] -> [B, A]; drawn by the seed and the first observations: no two processes draw the same."""
        if self._rng is None:
            self._rng = np.random.default_rng([self._seed, *observations.astype(np.float32).view(np.uint32).flat])
        return self._rng.uniform(-1, 1, self._shape).astype(np.float32)

    def observe(self, rewards: np.ndarray, last: np.ndarray) -> None:
        """Nothing to remember."""
