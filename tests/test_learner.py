import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import TRAJECTORIES

from agent import heads, learner
from agent.config import ModelConfig, OptimizerConfig
from data.chain import ChainRules
from data.sampler import Sampler
from data.scaling import Scaling

SAMPLER = Sampler(TRAJECTORIES, Scaling.fit(TRAJECTORIES), ChainRules(), 4, 4, 8, 4, 0)
MODEL = ModelConfig(tokens="fused", attention="vanilla", layers=1, width=16, dropout=0.0, trajs=4)


def updated(model, optimizer, steps=1, state=None):
    state = state or learner.init_state(jax.random.key(0), model, optimizer, 3, 2)
    step = jax.jit(learner.make_train_step(model, optimizer, 0))
    for _ in range(steps):
        state, metrics = step(state, SAMPLER.batch(int(state.step)))
    return state, metrics


def test_the_error_counts_only_weighted_steps():
    predicted, actions = jnp.zeros((1, 3, 2)), jnp.array([[[1.0, 3.0], [9.0, 9.0], [1.0, 1.0]]])
    error = heads.action_error(predicted, actions, jnp.array([[1.0, 0.0, 0.5]]))
    assert float(error) == pytest.approx((1 + 9) / 2 + 0.5 * 1)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_accumulating_in_parts_changes_memory_not_the_update(name):
    whole, a = updated(MODEL, OptimizerConfig(optimizer=name, learning_rate=0.01, updates=10, lr_warmup=0))
    parts, b = updated(
        MODEL, OptimizerConfig(optimizer=name, learning_rate=0.01, updates=10, lr_warmup=0, accumulate=2)
    )
    assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-5)
    for one, two in zip(jax.tree.leaves(whole.weights), jax.tree.leaves(parts.weights), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-4)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_training_lowers_the_loss(name):
    optimizer = OptimizerConfig(optimizer=name, learning_rate=0.02, updates=60, lr_warmup=3, clip=1.0)
    _, first = updated(MODEL, optimizer)
    _, last = updated(MODEL, optimizer, steps=60)
    assert float(last["loss"]) < 0.7 * float(first["loss"])


def test_stopping_and_going_on_gives_the_same_bits_with_dropout():
    model = ModelConfig(tokens="fused", attention="vanilla", layers=1, width=16, dropout=0.2, trajs=4)
    optimizer = OptimizerConfig(learning_rate=0.01, updates=10, lr_warmup=2)
    straight, _ = updated(model, optimizer, steps=6)
    half, _ = updated(model, optimizer, steps=3)
    half = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), half)
    resumed, _ = updated(model, optimizer, steps=3, state=half)
    for one, two in zip(jax.tree.leaves(straight), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_learning_rate_rises_and_then_falls_to_zero_at_the_last_update():
    schedule = learner.learning_rate(OptimizerConfig(learning_rate=1.0, updates=100, lr_warmup=10))
    np.testing.assert_allclose([schedule(i) for i in (0, 5, 10, 55, 100)], [0, 0.5, 1, 0.5, 0], atol=1e-6)


def test_a_long_warm_up_does_not_swallow_a_short_run():
    schedule = learner.learning_rate(OptimizerConfig(learning_rate=1.0, updates=100, lr_warmup=10_000))
    assert float(schedule(10)) == pytest.approx(1.0)


def test_muon_gets_the_matrices_of_the_layers_and_nothing_else():
    state = learner.init_state(jax.random.key(0), MODEL, OptimizerConfig(optimizer="muon"), 3, 2)
    axes = learner.matrices(state.weights)
    assert axes.layers.ffn_in is not None and axes.layers.qkv is not None
    assert axes.head is None and axes.layers.norm1_scale is None and axes.tokens.target is None


def test_muon_takes_every_axis_of_a_matrix_once_and_the_layers_apart():
    """An axis beyond the last counts from the front again: it would mix the layers into one matrix, without a word."""
    weights = learner.init_state(jax.random.key(0), MODEL, OptimizerConfig(optimizer="muon"), 3, 2).weights
    axes = learner.matrices(weights)
    for first, arrays, chosen in ((1, weights.layers, axes.layers), (0, weights.tokens, axes.tokens)):
        taken = {
            name: sorted([*np.atleast_1d(of.reduction_axis), *np.atleast_1d(of.output_axis)])
            for name, of in chosen._asdict().items()
            if of is not None
        }
        assert taken == {name: list(range(first, getattr(arrays, name).ndim)) for name in taken}
        assert taken
