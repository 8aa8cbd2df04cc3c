"""Stacks of layers, every way to compute them, against float64 layers written out plainly and against one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_attention import packed, seen_by_hand

from agent.attention import Visibility, cached_attention
from agent.bpt import feed_forward, init_layer, project
from agent.stack import Form, best_block, best_every, stack

B, E, F = 2, 16, 64
SEED = jnp.uint32(11)


WAYS = (
    Form(system="vanilla"),
    Form(system="memory_efficient"),
    Form(remat="output"),
    Form(remat="input"),
    Form(remat="minimal"),
)


def weights_of(heads, kv_heads=0, layers=1):
    """Weights with nothing at its initial 0 or 1, stacked on a first axis."""
    rng = np.random.default_rng(1)

    def draw(x):
        return jnp.asarray(rng.normal(size=(layers, *x.shape)) * (0.25 if x.ndim > 1 else 0.1), jnp.float32)

    one = jax.eval_shape(lambda key: init_layer(key, E, heads, F, 3, kv_heads), jax.random.key(1))
    weights = jax.tree.map(draw, one)
    return weights._replace(norm1_scale=1 + weights.norm1_scale, norm2_scale=1 + weights.norm2_scale)


def plain(weights, x, mask, rope, reversible):
    """The same layers with nothing clever in them, in the precision of their inputs."""
    x1, x2 = x, x
    for i in range(len(weights.norm1_scale)):
        one = jax.tree.map(lambda a, i=i: a[i], weights)
        y1 = x1 + plain_attention(one, x2, mask, rope)
        x1, x2 = y1, (x2 if reversible else y1) + plain_feed_forward(one, y1)
        if not reversible:
            x1 = x2
    return (x1 + x2) / 2


def norm(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    deviation = jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return centred / deviation * scale[None, None] + bias[None, None]


def plain_attention(weights, x, mask, rope):
    def turn(x):
        """Pairs of features as complex numbers, turned by their position."""
        half = x.shape[-1] // 2
        angles = np.arange(x.shape[1])[:, None] * 10_000.0 ** (-np.arange(half) / half)
        turned = (x[..., :half] + 1j * x[..., half:]) * jnp.asarray(np.exp(1j * angles))[None, :, None]
        return jnp.concatenate([turned.real, turned.imag], -1)

    heads = weights.out.shape[0]
    kv_heads = (weights.qkv.shape[1] - heads) // 2
    qkv = jnp.einsum("ble,ehd->blhd", norm(x, weights.norm1_scale, weights.norm1_bias), weights.qkv)
    q, k, v = jnp.split(qkv, [heads, heads + kv_heads], axis=2)
    if rope:
        q, k = turn(q), turn(k)
    k, v = (a[:, :, np.arange(heads) // (heads // kv_heads)] for a in (k, v))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    top = jnp.exp(scores) * mask[:, None]
    attended = jnp.einsum("bhqk,bkhd->bqhd", top / jnp.maximum(top.sum(-1, keepdims=True), 1e-30), v)
    return jnp.einsum("blhd,hde->ble", attended, weights.out)


def plain_feed_forward(weights, h):
    hidden = norm(h, weights.norm2_scale, weights.norm2_bias) @ weights.ffn_in + weights.ffn_in_bias[None, None]
    hidden = 0.5 * hidden * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    return hidden @ weights.ffn_out + weights.ffn_out_bias[None, None]


def value_and_gradients(function, weights, x, d_y):
    @jax.jit
    def run(weights, x, d_y):
        y, pull = jax.vjp(function, weights, x)
        return y, *pull(d_y)

    y, d_weights, d_x = first = run(weights, x, d_y)
    jax.tree.map(np.testing.assert_array_equal, run(weights, x, d_y), first)  # a second run gives the same bits
    arrays = {"y": y, "d_x": d_x} | d_weights._asdict()
    return {name: np.asarray(array, np.float64) for name, array in arrays.items()}


def assert_close(got, expected, tolerance, of=""):
    """Relative to the largest entry of each array."""
    for name, array in expected.items():
        error = np.abs(got[name] - array).max() / np.abs(array).max()
        assert error <= tolerance, f"{of} {name}: {error:.1e}"


def inputs(length, dtype=jnp.float32):
    """x and the gradient of y."""
    draws = np.random.default_rng(3).normal(size=(2, B, length, E))
    return [jnp.asarray(x.astype(np.float32), dtype) for x in draws]


def where_of(length):
    return Visibility(*map(jnp.asarray, packed(length)))


def name_of(way):
    return f"{way.system}-{way.remat}"


@pytest.mark.parametrize(
    ("length", "block", "heads", "kv_heads", "rope", "window", "span", "layers", "reversible", "dtype", "tolerance"),
    [
        (1, 16, 1, 0, False, None, None, 1, False, jnp.float32, 5e-6),
        (5, 64, 2, 1, True, 7, None, 1, False, jnp.float32, 5e-6),
        (64, 16, 1, 0, False, None, 2, 3, False, jnp.float32, 5e-6),
        (100, 16, 4, 2, False, None, None, 1, False, jnp.float32, 5e-6),
        (100, 64, 2, 0, True, 7, 2, 2, True, jnp.float32, 5e-6),
        (257, 0, 4, 1, False, 7, None, 1, False, jnp.float32, 5e-6),
        (100, 16, 2, 1, True, None, None, 2, False, jnp.bfloat16, 3e-2),
    ],
)
def test_every_way_gives_the_numbers_of_plain_layers(
    length, block, heads, kv_heads, rope, window, span, layers, reversible, dtype, tolerance
):
    weights, (x, d_y), where = weights_of(heads, kv_heads, layers), inputs(length, dtype), where_of(length)
    mask = seen_by_hand(*packed(length), window, span)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda array: jnp.asarray(np.asarray(array, np.float64)), (weights, x, d_y))
        expected = value_and_gradients(lambda weights, x: plain(weights, x, mask, rope, reversible), *wide)
    for way in WAYS:
        form = way._replace(block=block, rope=rope, window=window, span=span, reversible=reversible)

        def run(weights, x, form=form):
            return stack(weights, x, where, form)

        assert jax.eval_shape(run, weights, x).dtype == dtype
        assert_close(value_and_gradients(run, weights, x, d_y), expected, tolerance, name_of(way))


@pytest.mark.parametrize("remat", ["output", "input", "minimal"])
@pytest.mark.parametrize("every", [2, 3, 5])
def test_the_layers_between_kept_inputs_change_memory_not_the_answer(remat, every):
    weights, (x, d_y), where = weights_of(2, layers=5), inputs(40), where_of(40)
    settings = {"remat": remat, "block": 16, "dropout": 0.2}

    def run(every):
        form = Form(every=every, **settings)
        return value_and_gradients(lambda weights, x: stack(weights, x, where, form, SEED), weights, x, d_y)

    assert_close(run(every), run(1), 2e-6)


@pytest.mark.parametrize("reversible", [False, True])
def test_dropout_is_the_same_in_every_way_and_another_for_every_seed(reversible):
    length = 100
    weights, (x, d_y), where = weights_of(2, 1), inputs(length), where_of(length)
    results = []
    for way, block in zip(WAYS, (0, 64, 16, 64, 16), strict=True):
        form = way._replace(block=block, dropout=0.2, reversible=reversible)
        results.append(value_and_gradients(lambda w, x, form=form: stack(w, x, where, form, SEED), weights, x, d_y))
    for way, other in zip(WAYS, results, strict=True):
        assert_close(other, results[0], 5e-6, name_of(way))
    vanilla = jax.jit(
        lambda rate, seed: stack(weights, x, where, WAYS[0]._replace(dropout=rate, reversible=reversible), seed),
        static_argnums=0,
    )
    for other in (vanilla(0.2, SEED + 1), vanilla(0.0, None)):
        assert np.abs(other - results[0]["y"]).max() > 0.1


def test_the_two_branches_of_a_layer_drop_unrelated_features():
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape[1:]), weights_of(1))
    zeros, ones = jnp.zeros((B, 50, E)), jnp.ones((B, 50, 1, E))
    kept = [
        np.asarray(feed_forward(weights, zeros, ones, dropout_rate=0.5, dropout_seed=SEED)) > 0
        for weights in (nothing._replace(out=jnp.eye(E)[None]), nothing._replace(ffn_out_bias=jnp.ones(E)))
    ]
    # 1,600 features: the standard deviation of the share is 0.0125.
    assert abs((kept[0] != kept[1]).mean() - 0.5) < 0.06


@pytest.mark.parametrize("way", WAYS, ids=name_of)
def test_no_output_knows_the_future_another_chain_or_padding(way):
    length, touched = 50, 20
    weights, (x, _), where = weights_of(2), inputs(length), where_of(length)
    run = jax.jit(lambda x: stack(weights, x, where, way._replace(block=16)))
    before, after = run(x), run(x.at[:, touched].multiply(-1.0))
    changed = np.asarray((before != after).any(-1))
    np.testing.assert_array_equal(before, run(x))  # a second run gives the same bits
    chains = np.asarray(where.chains)
    np.testing.assert_array_equal(changed, (np.arange(length) >= touched) & (chains == chains[:, touched, None]))
    d_x = jax.grad(lambda x: (run(x) * (where.chains == 1)[..., None]).sum())(x)
    np.testing.assert_array_equal(d_x[chains != 1], 0)


def test_a_number_that_is_none_stays_where_it_is():
    length = 48
    weights, (x, d_y), where = weights_of(2), inputs(length), where_of(length)
    for way in WAYS[2:]:
        run = jax.jit(
            lambda x, d_y, way=way: jax.vjp(lambda x: stack(weights, x, where, way._replace(block=16)), x)[1](d_y)
        )
        bad = np.asarray(run(x, d_y.at[0, 0, 0].set(jnp.nan))[0])
        assert np.isnan(bad[0, 0]).any()
        np.testing.assert_array_equal(bad[1], np.asarray(run(x, d_y)[0])[1])


@pytest.mark.parametrize("rope", [False, True])
def test_a_cached_decoder_made_of_the_same_pieces_gives_the_same_row(rope):
    length = 6
    weights, (x, _) = weights_of(4, 2), inputs(length)
    where = Visibility(jnp.ones((B, length), jnp.int32), jnp.zeros((B, length), jnp.int32))
    expected = jax.jit(lambda x: stack(weights, x, where, Form(block=4, rope=rope)))(x)
    one = jax.tree.map(lambda a: a[0], weights)
    q, k, v = project(one, x, 0 if rope else None)
    for i in range(length):
        mask = (jnp.arange(length) <= i)[None, None]
        attended = cached_attention(q[:, i : i + 1], k.swapaxes(1, 2), v.swapaxes(1, 2), mask)
        y = feed_forward(one, x[:, i : i + 1], attended)
        np.testing.assert_allclose(y, expected[:, i : i + 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (Form(system="flash"), r"system: expected one of bpt, memory_efficient, vanilla, got 'flash'"),
        (Form(remat="all"), r"remat: expected one of output, input, minimal, got 'all'"),
        (Form(dropout=0.1), r"dropout_seed: expected a uint32 scalar for dropout_rate 0.1, got None"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(form, message):
    with pytest.raises(ValueError, match=message):
        stack(weights_of(1), inputs(2)[0], where_of(2), form)


def test_a_layer_starts_with_unit_gain_and_small_residual_branches():
    weights = init_layer(jax.random.key(0), 64, 4, 256, depth=8)
    assert [x.shape for x in (weights.qkv, weights.out)] == [(64, 12, 16), (4, 16, 64)]
    assert init_layer(jax.random.key(0), 64, 4, 256, depth=8, kv_heads=1).qkv.shape == (64, 6, 16)
    deviations = {"qkv": 1 / 8, "out": 1 / 8 / 4, "ffn_in": 1 / 8, "ffn_out": 1 / 16 / 4}
    for name, expected in deviations.items():
        np.testing.assert_allclose(np.std(getattr(weights, name)), expected, rtol=0.05)


def test_the_block_grows_with_the_row():
    lengths = (1, 32, 128, 512, 2047, 2048, 128_000)
    assert [best_block(length, 128, "minimal") for length in lengths] == [1, 32, 128, 128, 128, 512, 512]
    assert best_block(8192, 512, "minimal") == 256 and best_block(8192, 512, "input") == 512
    assert best_block(8192, 512, "input", "gpu") == 4096 and best_block(64, 512, "input", "gpu") == 64


def test_the_layers_between_kept_inputs_grow_with_the_root_of_the_depth():
    assert [best_every(layers, "input") for layers in (1, 3, 8, 9, 24, 100)] == [1, 1, 1, 3, 4, 10]
    assert best_every(24, "output") == 3
