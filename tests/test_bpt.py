"""The three systems of the layer against a float64 layer written out plainly, and against one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_attention import packed, seen_by_hand

from agent.attention import Visibility, cached_attention
from agent.bpt import SYSTEMS, best_block, feed_forward, init_layer, layer, project

B, E, F = 2, 16, 64
SEED = jnp.uint32(11)


def weights_of(heads):
    """Weights with nothing at its initial 0 or 1."""
    rng = np.random.default_rng(1)

    def draw(x):
        return jnp.asarray(rng.normal(size=x.shape) * (0.25 if x.ndim > 1 else 0.1), jnp.float32)

    weights = jax.tree.map(draw, jax.eval_shape(lambda key: init_layer(key, E, heads, F, 3), jax.random.key(1)))
    return weights._replace(norm1_scale=1 + weights.norm1_scale, norm2_scale=1 + weights.norm2_scale)


def plain_layer(weights, x, mask):
    """The same layer with nothing clever in it, in the precision of its inputs."""

    def norm(x, scale, bias):
        centred = x - x.mean(-1, keepdims=True)
        deviation = jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return centred / deviation * scale[None, None] + bias[None, None]

    qkv = jnp.einsum("ble,ethd->tbhld", norm(x, weights.norm1_scale, weights.norm1_bias), weights.qkv)
    scores = jnp.einsum("bhqd,bhkd->bhqk", qkv[0], qkv[1]) / np.sqrt(qkv.shape[-1])
    top = jnp.exp(scores) * mask[:, None]
    attended = jnp.einsum("bhqk,bhkd->bqhd", top / jnp.maximum(top.sum(-1, keepdims=True), 1e-30), qkv[2])
    h = x + jnp.einsum("blhd,hde->ble", attended, weights.out)
    hidden = norm(h, weights.norm2_scale, weights.norm2_bias) @ weights.ffn_in + weights.ffn_in_bias[None, None]
    hidden = 0.5 * hidden * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    return h + hidden @ weights.ffn_out + weights.ffn_out_bias[None, None]


def value_and_gradients(function, weights, x, d_y):
    @jax.jit
    def run(weights, x, d_y):
        y, pull = jax.vjp(function, weights, x)
        return y, *pull(d_y)

    y, d_weights, d_x = run(weights, x, d_y)
    arrays = {"y": y, "d_x": d_x} | d_weights._asdict()
    return {name: np.asarray(array, np.float64) for name, array in arrays.items()}


def assert_close(got, expected, tolerance):
    """Relative to the largest entry of each array."""
    for name, array in expected.items():
        error = np.abs(got[name] - array).max() / np.abs(array).max()
        assert error <= tolerance, f"{name}: {error:.1e}"


def inputs(length, dtype=jnp.float32):
    """x and the gradient of y."""
    draws = np.random.default_rng(3).normal(size=(2, B, length, E))
    return [jnp.asarray(x.astype(np.float32), dtype) for x in draws]


def where_of(length):
    return Visibility(*map(jnp.asarray, packed(length)))


@pytest.mark.parametrize(
    ("length", "block", "heads", "window", "span", "dtype", "tolerance"),
    [
        (1, 16, 1, None, None, jnp.float32, 5e-6),
        (5, 64, 2, 7, None, jnp.float32, 5e-6),
        (64, 16, 1, None, 2, jnp.float32, 5e-6),
        (100, 64, 2, 7, 2, jnp.float32, 5e-6),
        (257, 0, 2, 7, None, jnp.float32, 5e-6),
        (100, 16, 2, None, None, jnp.bfloat16, 3e-2),
    ],
)
def test_the_three_systems_give_the_numbers_of_a_plain_layer(length, block, heads, window, span, dtype, tolerance):
    weights, (x, d_y), where = weights_of(heads), inputs(length, dtype), where_of(length)
    mask = seen_by_hand(*packed(length), window, span)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda array: jnp.asarray(np.asarray(array, np.float64)), (weights, x, d_y))
        expected = value_and_gradients(lambda weights, x: plain_layer(weights, x, mask), *wide)
    for system in SYSTEMS:

        def run(weights, x, system=system):
            return layer(weights, x, where, system=system, block=block, window=window, span=span)

        assert jax.eval_shape(run, weights, x).dtype == dtype
        assert_close(value_and_gradients(run, weights, x, d_y), expected, tolerance)


def test_dropout_is_the_same_in_the_three_systems_and_another_for_every_seed():
    length = 100
    weights, (x, d_y), where = weights_of(2), inputs(length), where_of(length)
    results = []
    for system, block in (("vanilla", 0), ("memory_efficient", 64), ("bpt", 16)):

        def run(weights, x, system=system, block=block):
            return layer(weights, x, where, system=system, block=block, dropout_rate=0.2, dropout_seed=SEED)

        results.append(value_and_gradients(run, weights, x, d_y))
    for other in results[1:]:
        assert_close(other, results[0], 5e-6)
    vanilla = jax.jit(
        lambda rate, seed: layer(weights, x, where, system="vanilla", dropout_rate=rate, dropout_seed=seed),
        static_argnums=0,
    )
    for other in (vanilla(0.2, SEED + 1), vanilla(0.0, None)):
        assert np.abs(other - results[0]["y"]).max() > 0.1


def test_the_two_branches_of_a_layer_drop_unrelated_features():
    nothing = jax.tree.map(jnp.zeros_like, weights_of(1))
    zeros, ones = jnp.zeros((B, 50, E)), jnp.ones((B, 50, 1, E))
    kept = [
        np.asarray(feed_forward(weights, zeros, ones, dropout_rate=0.5, dropout_seed=SEED)) > 0
        for weights in (nothing._replace(out=jnp.eye(E)[None]), nothing._replace(ffn_out_bias=jnp.ones(E)))
    ]
    # 1,600 features: the standard deviation of the share is 0.0125.
    assert abs((kept[0] != kept[1]).mean() - 0.5) < 0.06


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_output_knows_the_future_another_chain_or_padding(system):
    length, touched = 50, 20
    weights, (x, _), where = weights_of(2), inputs(length), where_of(length)
    run = jax.jit(lambda x: layer(weights, x, where, system=system, block=16))
    before, after = run(x), run(x.at[:, touched].multiply(-1.0))
    changed = np.asarray((before != after).any(-1))
    np.testing.assert_array_equal(before, run(x))  # a second run gives the same bits
    chains = np.asarray(where.chains)
    np.testing.assert_array_equal(changed, (np.arange(length) >= touched) & (chains == chains[:, touched, None]))
    d_x = jax.grad(lambda x: (run(x) * (where.chains == 1)[..., None]).sum())(x)
    np.testing.assert_array_equal(d_x[chains != 1], 0)


def test_a_cached_decoder_made_of_the_same_pieces_gives_the_same_row():
    length = 6
    weights, (x, _) = weights_of(2), inputs(length)
    where = Visibility(jnp.ones((B, length), jnp.int32), jnp.zeros((B, length), jnp.int32))
    expected = jax.jit(lambda x: layer(weights, x, where, system="bpt", block=4))(x)
    q, k, v = project(weights, x)
    for i in range(length):
        mask = (jnp.arange(length) <= i)[None, None]
        attended = cached_attention(q[:, i : i + 1], k.swapaxes(1, 2), v.swapaxes(1, 2), mask)
        y = feed_forward(weights, x[:, i : i + 1], attended)
        np.testing.assert_allclose(y, expected[:, i : i + 1], rtol=1e-5, atol=1e-5)


def test_an_unknown_system_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"system: expected one of vanilla, memory_efficient, bpt, got 'flash'"):
        layer(weights_of(1), inputs(2)[0], where_of(2), system="flash")


def test_a_layer_starts_with_unit_gain_and_small_residual_branches():
    weights = init_layer(jax.random.key(0), 64, 4, 256, depth=8)
    assert [x.shape for x in (weights.qkv, weights.out)] == [(64, 3, 4, 16), (4, 16, 64)]
    deviations = {"qkv": 1 / 8, "out": 1 / 8 / 4, "ffn_in": 1 / 8, "ffn_out": 1 / 16 / 4}
    for name, expected in deviations.items():
        np.testing.assert_allclose(np.std(getattr(weights, name)), expected, rtol=0.05)


def test_the_block_grows_with_the_row():
    lengths = (1, 32, 128, 512, 2047, 2048, 128_000)
    assert [best_block(length) for length in lengths] == [1, 32, 128, 128, 128, 512, 512]
