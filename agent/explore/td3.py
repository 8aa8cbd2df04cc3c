"""TD3 (Fujimoto et al., arXiv 1802.09477) with layer-normalised networks and n-step returns.

Pure functions on arrays. `learn` runs many updates in one compiled call, over minibatches drawn beforehand.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Params = Any


@dataclasses.dataclass(frozen=True)
class TD3Config:
    """The numbers of the agent."""

    width: int = 256
    batch_size: int = 256
    updates_per_step: float = 0.5
    learning_rate: float = 5e-4
    discount: float = 0.99
    n_step: int = 3
    target_rate: float = 0.01
    target_noise: float = 0.2
    target_noise_clip: float = 0.3
    policy_delay: int = 2
    random_episodes: int = 4
    first_noise: float = 0.5
    last_noise: float = 0.1
    noise_episodes: int = 50


class Transitions(NamedTuple):
    """Minibatches of n-step transitions; leading axes as the function says."""

    observations: jax.Array
    actions: jax.Array
    rewards: jax.Array
    discounts: jax.Array
    next_observations: jax.Array


class TD3State(NamedTuple):
    """All that learning changes."""

    actor: Params
    critics: Params
    target_critics: Params
    actor_optimizer: optax.OptState
    critic_optimizer: optax.OptState
    step: jax.Array


def init(key: jax.Array, observation_size: int, action_size: int, config: TD3Config) -> TD3State:
    actor_key, *critic_keys = jax.random.split(key, 3)
    width = config.width
    actor = init_mlp(actor_key, (observation_size, width, width, action_size))
    sizes = (observation_size + action_size, width, width, 1)
    critics = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[init_mlp(k, sizes) for k in critic_keys])
    optimizer = optax.adam(config.learning_rate)
    return TD3State(
        actor, critics, jax.tree.map(jnp.copy, critics), optimizer.init(actor), optimizer.init(critics), jnp.zeros((), jnp.int32)
    )


def init_mlp(key: jax.Array, sizes: tuple[int, ...]) -> list[tuple[jax.Array, jax.Array]]:
    keys = jax.random.split(key, len(sizes) - 1)
    orthogonal = jax.nn.initializers.orthogonal(2**0.5)
    return [(orthogonal(k, (a, b)), jnp.zeros(b)) for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def mlp(params: Params, inputs: Any, np: Any = jnp) -> Any:
    x = inputs
    for layer, (weights, bias) in enumerate(params):
        x = x @ weights + bias[None]
        if layer == 0:
            x = x - x.mean(-1, keepdims=True)
            x = np.tanh(x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5))
        elif layer < len(params) - 1:
            x = np.maximum(x, 0)
    return x


def policy(actor: Params, observations: Any, np: Any = jnp) -> Any:
    return np.tanh(mlp(actor, observations, np))


def values(critics: Params, observations: jax.Array, actions: jax.Array) -> jax.Array:
    """[B, O], [B, A] -> [2, B]."""
    return jax.vmap(mlp, (0, None))(critics, jnp.concatenate((observations, actions), -1))[..., 0]


def update(state: TD3State, batch: Transitions, key: jax.Array, config: TD3Config) -> TD3State:
    optimizer = optax.adam(config.learning_rate)
    noise = config.target_noise * jax.random.normal(key, batch.actions.shape)
    noise = jnp.clip(noise, -config.target_noise_clip, config.target_noise_clip)
    next_actions = jnp.clip(policy(state.actor, batch.next_observations) + noise, -1, 1)
    next_values = values(state.target_critics, batch.next_observations, next_actions).min(0)
    targets = batch.rewards + batch.discounts * next_values

    def critic_loss(critics: Params) -> jax.Array:
        return jnp.mean((values(critics, batch.observations, batch.actions) - targets[None]) ** 2)

    gradients = jax.grad(critic_loss)(state.critics)
    updates, critic_optimizer = optimizer.update(gradients, state.critic_optimizer)
    critics = optax.apply_updates(state.critics, updates)

    def actor_loss(actor: Params) -> jax.Array:
        q = jax.tree.map(lambda leaf: leaf[0], critics)
        a = policy(actor, batch.observations)
        return -jnp.mean(mlp(q, jnp.concatenate((batch.observations, a), -1)))

    def improve(actor: Params, opt: Any) -> tuple[Params, Any]:
        updates, opt = optimizer.update(jax.grad(actor_loss)(actor), opt)
        return optax.apply_updates(actor, updates), opt

    actor, actor_optimizer = jax.lax.cond(
        state.step % config.policy_delay == 0, improve, lambda *a: a, state.actor, state.actor_optimizer
    )
    target_critics = optax.incremental_update(critics, state.target_critics, config.target_rate)
    return TD3State(actor, critics, target_critics, actor_optimizer, critic_optimizer, state.step + 1)


@functools.partial(jax.jit, static_argnames="config", donate_argnums=0)
def learn(state: TD3State, batches: Transitions, key: jax.Array, config: TD3Config) -> TD3State:
    def body(state: TD3State, batch: Transitions) -> tuple[TD3State, None]:
        return update(state, batch, jax.random.fold_in(key, state.step), config), None

    return jax.lax.scan(body, state, batches)[0]
