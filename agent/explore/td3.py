"""TD3 (Fujimoto et al., arXiv 1802.09477) on n-step returns: twin critics, late policy, smoothed targets."""

from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agent.explore.config import ExploreConfig
from agent.explore.networks import Layers, init_mlp, mlp
from agent.explore.replay import Transitions


class TD3State(NamedTuple):
    """All that an update changes."""

    actor: Layers
    critics: Layers
    """Both critics, stacked on a leading axis of 2."""
    target_critics: Layers
    actor_optimizer: optax.OptState
    critic_optimizer: optax.OptState
    step: jax.Array
    """Updates made."""


def init_td3(key: jax.Array, observation_size: int, action_size: int, config: ExploreConfig) -> TD3State:
    """Fresh networks, the target critics equal to the critics."""
    actor_key, *critic_keys = jax.random.split(key, 3)
    hidden = (config.width, config.width)
    actor = init_mlp(actor_key, (observation_size, *hidden, action_size))
    twins = [init_mlp(k, (observation_size + action_size, *hidden, 1)) for k in critic_keys]
    critics = jax.tree.map(lambda *leaves: jnp.stack(leaves), *twins)
    optimizer = config.optimizer()
    return TD3State(actor, critics, critics, optimizer.init(actor), optimizer.init(critics), jnp.zeros((), jnp.int32))


def act(actor: Layers, observations: Any, xp: ModuleType = jnp) -> Any:
    """`[B, O] -> [B, A]` in [-1, 1], without noise, by jax.numpy or by NumPy."""
    return xp.tanh(mlp(actor, observations, xp))


def value(critic: Layers, observations: jax.Array, actions: jax.Array) -> jax.Array:
    """`[B, O], [B, A] -> [B]`: one critic's estimate of the discounted return."""
    return mlp(critic, jnp.concatenate((observations, actions), axis=-1))[:, 0]


def update_td3(state: TD3State, batch: Transitions, key: jax.Array, config: ExploreConfig) -> TD3State:
    """One update on a minibatch [B]: algorithm 1 of the paper, but that the target critics follow at every update."""
    values = jax.vmap(value, (0, None, None))
    targets = critic_targets(state, batch, key, config)

    def critic_loss(critics: Layers) -> jax.Array:
        return jnp.mean((values(critics, batch.observations, batch.actions) - targets[None]) ** 2)

    optimizer = config.optimizer()
    gradients = jax.grad(critic_loss)(state.critics)
    updates, critic_optimizer = optimizer.update(gradients, state.critic_optimizer)
    critics = optax.apply_updates(state.critics, updates)
    first_critic = jax.tree.map(lambda leaf: leaf[0], critics)

    def actor_loss(actor: Layers) -> jax.Array:
        return -jnp.mean(value(first_critic, batch.observations, act(actor, batch.observations)))

    def improve(actor: Layers, optimizer_state: optax.OptState) -> tuple[Layers, optax.OptState]:
        updates, optimizer_state = optimizer.update(jax.grad(actor_loss)(actor), optimizer_state)
        return optax.apply_updates(actor, updates), optimizer_state

    actor, actor_optimizer = jax.lax.cond(
        state.step % config.policy_delay == 0,
        improve,
        lambda *unchanged: unchanged,
        state.actor,
        state.actor_optimizer,
    )
    target_critics = optax.incremental_update(critics, state.target_critics, config.target_rate)
    return TD3State(actor, critics, target_critics, actor_optimizer, critic_optimizer, state.step + 1)


def critic_targets(state: TD3State, batch: Transitions, key: jax.Array, config: ExploreConfig) -> jax.Array:
    """[B]: `r + discount * min_i Q_i'(s', clip(pi(s') + noise))`, equation 14 of the paper.

    The action comes from the policy itself, not from a slow copy of it as in the paper.
    """
    noise = config.target_noise * jax.random.normal(key, batch.actions.shape)
    noise = jnp.clip(noise, -config.target_noise_clip, config.target_noise_clip)
    actions = jnp.clip(act(state.actor, batch.next_observations) + noise, -1, 1)
    values = jax.vmap(value, (0, None, None))(state.target_critics, batch.next_observations, actions)
    return batch.rewards + batch.discounts * values.min(axis=0)
