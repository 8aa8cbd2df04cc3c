"""A language model of the same layers: a loss worked out by hand, in blocks or not, and three systems that agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent import language
from agent.stack import Form

SYSTEMS = ("vanilla", "memory_efficient", "bpt")


@pytest.fixture(scope="module")
def weights():
    weights = language.init_language(jax.random.key(0), 32, 2, 2)
    return weights._replace(head=10 * weights.head)


def text(length, rows=2, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, (rows, length + 1)), jnp.int32)


def form(system="bpt"):
    return Form(system=system, rope=True, block=16)


def test_a_model_that_knows_nothing_pays_eight_bits_a_byte(weights):
    blank = weights._replace(head=jnp.zeros_like(weights.head))
    assert float(language.loss(blank, text(40), form())) / np.log(2) == pytest.approx(8, abs=1e-5)


def test_the_loss_is_the_log_of_the_softmax_at_the_next_byte(weights):
    """One layer norm and one head, in NumPy."""
    x = np.random.default_rng(1).normal(size=(2, 5, 32)).astype(np.float32)
    targets = np.random.default_rng(2).integers(0, 256, (2, 5))
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    logits = np.float64(normed @ np.asarray(weights.head))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(p, targets[..., None], -1)).sum()
    assert float(language.cross_entropy(weights, jnp.asarray(x), jnp.asarray(targets), 2)) == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("block", [1, 16, 27, 512])
def test_blocks_of_logits_change_neither_loss_nor_gradient(weights, block):
    def of(block):
        return jax.value_and_grad(lambda w: language.loss(w, text(27), form(), block))(weights)

    (value, gradient), (expected, reference) = of(block), of(27)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()) + 1e-9)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_learns_from_the_same_gradient(weights, system):
    def of(system):
        return jax.value_and_grad(lambda w: language.loss(w, text(50), form(system)))(weights)

    (value, gradient), (expected, reference) = of(system), of("vanilla")
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()) + 1e-9)


def test_no_byte_is_predicted_from_itself_or_from_later_ones(weights):
    """The loss of the first ten bytes does not move when those after them do, and does when they do."""
    row = text(20, rows=1)
    later, earlier = row.at[0, 11].add(1), row.at[0, 9].add(1)
    first = [float(language.loss(weights, r[:, :11], form())) for r in (row, later, earlier)]
    assert first[0] == first[1] != first[2]
    whole = [float(language.loss(weights, r, form())) for r in (row, later)]
    assert whole[0] != whole[1]


def test_order_matters():
    """To one layer without rotary positions the bytes before the last are a bag of bytes."""
    weights = language.init_language(jax.random.key(0), 32, 2, 1)
    weights = weights._replace(head=10 * weights.head)
    row = text(12, rows=1)
    swapped = row.at[0, :2].set(row[0, 1::-1])

    def last(text, rope):
        f = form()._replace(rope=rope)
        return 12 * float(language.loss(weights, text, f)) - 11 * float(language.loss(weights, text[:, :-1], f))

    assert abs(last(row, False) - last(swapped, False)) < 1e-4
    assert abs(last(row, True) - last(swapped, True)) > 1e-3


def test_the_logits_of_a_row_never_exist_at_once():
    """16,384 bytes of text: all logits would be 16 MiB."""
    shapes = jax.eval_shape(lambda: language.init_language(jax.random.key(0), 16, 1, 1))
    row = jax.ShapeDtypeStruct((1, 16_385), jnp.int32)
    step = jax.jit(jax.value_and_grad(lambda w, t: language.loss(w, t, Form(rope=True))))
    memory = step.lower(shapes, row).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 12 * 2**20
