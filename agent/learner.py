"""One gradient update: (state, batch) -> (state, metrics). Everything that training changes is in TrainState."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from agent import heads, network
from agent.baselines import Perceptron
from agent.config import ModelConfig, OptimizerConfig
from agent.network import Weights
from data.trajectory import Batch

Metrics = dict[str, Array]


class TrainState(NamedTuple):
    weights: Weights
    opt_state: optax.OptState
    step: Array  # int32: updates done


def learning_rate(config: OptimizerConfig) -> optax.Schedule:
    """Linear from 0 over `lr_warmup` updates, then linear to 0 at the last update.

    The warm-up takes at most a tenth of all updates, so that short runs still reach the peak.
    """
    warmup = min(config.lr_warmup, config.updates // 10)
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.learning_rate, max(warmup, 1)),
            optax.linear_schedule(config.learning_rate, 0.0, max(config.updates - warmup, 1)),
        ],
        [warmup],
    )


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW, or Muon (github.com/KellerJordan/Muon) on the layers' matrices."""
    schedule = learning_rate(config)
    if config.optimizer == "adamw":
        rule = optax.adamw(schedule, b1=0.9, b2=0.999, weight_decay=config.weight_decay)
    else:
        rule = optax.contrib.muon(
            schedule,
            adam_b2=0.95,
            weight_decay=config.weight_decay,
            adam_weight_decay=config.weight_decay,
            muon_weight_dimension_numbers=matrices,
        )
    return optax.chain(optax.clip_by_global_norm(config.clip), rule)


def matrices(weights: Weights) -> Weights:
    """For every array its Muon axes, or None where AdamW is used: one orthogonalised matrix per layer."""
    axes = optax.contrib.MuonDimensionNumbers
    none = jax.tree.map(lambda _: None, weights)
    if isinstance(weights, Perceptron):
        hidden = axes(reduction_axis=0, output_axis=1)
        return none._replace(matrices=(*(hidden for _ in weights.matrices[:-1]), None))
    layers = none.layers._replace(
        qkv=axes(reduction_axis=1, output_axis=(2, 3)),
        out=axes(reduction_axis=(1, 2), output_axis=3),
        ffn_in=axes(reduction_axis=1, output_axis=2),
        ffn_out=axes(reduction_axis=1, output_axis=2),
    )
    w = none.tokens._replace(
        observation=axes(reduction_axis=0, output_axis=1), timestep=axes(reduction_axis=0, output_axis=1)
    )
    return none._replace(tokens=w, layers=layers)


def init_state(
    key: Array, config: ModelConfig, optimizer: OptimizerConfig, observation_size: int, action_size: int
) -> TrainState:
    weights = network.init_weights(key, config, observation_size, action_size)
    return TrainState(weights, make_optimizer(optimizer).init(weights), jnp.zeros((), jnp.int32))


def make_train_step(
    config: ModelConfig, optimizer: OptimizerConfig, seed: int
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """-> train_step(state, batch), to be jitted with its state donated.

    The randomness of update n comes from (seed, n) alone, so a resumed run repeats an unbroken one.
    Metrics: loss (of the action head, mean over the batch), grad_norm (before clipping), learning_rate.
    """
    rule, schedule = make_optimizer(optimizer), learning_rate(optimizer)

    def loss_sum(weights: Weights, part: Batch, dropout_seed: Array | None) -> Array:
        outputs = network.outputs(weights, config, part, dropout_seed)
        return heads.loss(config.head, outputs, part.actions, part.loss_weights)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        seeds = jax.random.bits(key, (optimizer.accumulate,), jnp.uint32)
        total = jnp.maximum(jnp.sum(batch.loss_weights), 1.0)
        parts = jax.tree.map(lambda a: a.reshape(optimizer.accumulate, -1, *a.shape[1:]), batch)

        def add(carry: tuple[Array, Weights], part: tuple[Batch, Array]) -> tuple[tuple[Array, Weights], None]:
            value, gradient = jax.value_and_grad(loss_sum)(state.weights, *part)
            return (carry[0] + value, jax.tree.map(jnp.add, carry[1], gradient)), None

        if optimizer.accumulate == 1:
            loss, gradient = jax.value_and_grad(loss_sum)(state.weights, batch, seeds[0])
        else:
            zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.weights))
            (loss, gradient), _ = jax.lax.scan(add, zeros, (parts, seeds))
        gradient = jax.tree.map(lambda g: g / total, gradient)
        update, opt_state = rule.update(gradient, state.opt_state, state.weights)
        metrics = {
            "loss": loss / total,
            "grad_norm": optax.tree.norm(gradient),
            "learning_rate": schedule(state.step),
        }
        return TrainState(optax.apply_updates(state.weights, update), opt_state, state.step + 1), metrics

    return train_step


def make_error(config: ModelConfig) -> Callable[[Weights, Batch], Array]:
    """-> error(weights, batch): mean squared error of the action that would be played, whatever the head learns from,
    without dropout; what is held out is measured with it.
    """

    def error(weights: Weights, batch: Batch) -> Array:
        predicted = network.predict(weights, config, batch)
        total = jnp.maximum(jnp.sum(batch.loss_weights), 1.0)
        return heads.action_error(predicted, batch.actions, batch.loss_weights) / total

    return error
