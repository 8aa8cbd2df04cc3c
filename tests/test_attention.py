"""Dense, blockwise and cached attention against a float64 reference written out by hand, and against one another."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent.attention import (
    Visibility,
    cached_attention,
    dense_attention,
    dropout,
    site,
    visible,
)
from agent.blockwise import blockwise_attention

B, D = 2, 8
SEED = jnp.uint32(7)


def packed(length):
    """Two rows of chains of short trajectories: [3/5 one chain, 1/4 another, padding] and [one chain]."""
    places = np.arange(length)
    first, second = -(-length * 3 // 5), -(-length * 17 // 20)
    chains = np.stack([np.where(places < first, 1, np.where(places < second, 2, 0)), np.ones(length)])
    within = np.stack([np.where(places < first, places, places - first), places])
    trajectories = np.where(chains > 0, within // 9, 0)
    return chains.astype(np.int32), trajectories.astype(np.int32)


def seen_by_hand(chains, trajectories, window, span):
    """[B, L, L] bool, the rule spelled out one pair at a time."""
    rows, length = chains.shape
    mask = np.zeros((rows, length, length), bool)
    for b, i, j in np.ndindex(mask.shape):
        if j > i or chains[b, i] == 0 or chains[b, i] != chains[b, j]:
            continue
        age = trajectories[b, i] - trajectories[b, j]
        near = window is None or age != 0 or i - j < window
        mask[b, i, j] = near and (span is None or age < span)
    return mask


def reference(q, k, v, d_out, mask, keep=1.0):
    """Attention and its three gradients in float64; keep: [B, H, L, L], factors of dropout."""
    q, k, v, d_out = (np.asarray(x, np.float64).swapaxes(1, 2) for x in (q, k, v, d_out))
    scale = q.shape[-1] ** -0.5
    weights = np.where(mask[:, None], np.exp(q @ k.swapaxes(2, 3) * scale), 0)
    total = weights.sum(-1, keepdims=True)
    weights = weights / np.where(total == 0, 1, total)
    out, d_v = (weights * keep) @ v, (weights * keep).swapaxes(2, 3) @ d_out
    d_weights = (d_out @ v.swapaxes(2, 3)) * keep
    d_scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdims=True)) * scale
    return [x.swapaxes(1, 2) for x in (out, d_scores @ k, d_scores.swapaxes(2, 3) @ q, d_v)]


def inputs(length, heads, dtype=jnp.float32, seed=0):
    """q, k, v and the gradient of the output."""
    draws = np.random.default_rng(seed).normal(size=(4, B, length, heads, D))
    return [jnp.asarray(x.astype(np.float32), dtype) for x in draws]


def value_and_gradients(attention, q, k, v, d_out):
    @jax.jit
    def run(q, k, v, d_out):
        out, pull = jax.vjp(attention, q, k, v)
        return out, *pull(d_out)

    return [np.asarray(x, np.float64) for x in run(q, k, v, d_out)]


def assert_close(got, expected, tolerance):
    """Relative to the largest entry of each array, or to 0.1: a token that sees only itself has d_q = d_k = 0."""
    for name, g, e in zip(("value", "d_q", "d_k", "d_v"), got, expected, strict=True):
        error = np.abs(g - e).max() / max(np.abs(e).max(), 0.1)
        assert error <= tolerance, f"{name}: {error:.1e}"


def test_a_token_sees_its_past_its_window_and_its_span():
    places, trajectories = jnp.arange(5), jnp.array([0, 0, 0, 1, 2])
    look = partial(visible, places[:, None], places[None], trajectories[:, None], trajectories[None])

    def table(**rule):
        return ["".join(map(str, row)) for row in np.asarray(look(**rule), int)]

    assert table(window=None, span=None) == ["10000", "11000", "11100", "11110", "11111"]
    assert table(window=2, span=None) == ["10000", "11000", "01100", "11110", "11111"]
    assert table(window=None, span=2) == ["10000", "11000", "11100", "11110", "00011"]
    assert table(window=1, span=1) == ["10000", "01000", "00100", "00010", "00001"]


# Every pair of settings meets at least once.
@pytest.mark.parametrize(
    ("length", "block", "heads", "window", "span"),
    [
        (1, 16, 1, None, None),
        (1, 64, 2, 7, 2),
        (1, 128, 1, 7, None),
        (5, 16, 2, 7, None),
        (5, 64, 1, None, 2),
        (5, 128, 2, None, None),
        (64, 16, 1, 7, 2),
        (64, 64, 2, None, None),
        (64, 128, 1, None, 2),
        (100, 16, 2, None, 2),
        (100, 64, 1, 7, None),
        (100, 128, 2, 7, 2),
        (257, 16, 1, 7, 1),
        (257, 64, 2, 7, 2),
        (257, 128, 1, None, None),
    ],
)
def test_blocks_change_memory_not_the_answer(length, block, heads, window, span):
    chains, trajectories = packed(length)
    q, k, v, d_out = inputs(length, heads)
    expected = reference(q, k, v, d_out, seen_by_hand(chains, trajectories, window, span))
    where = Visibility(jnp.asarray(chains), jnp.asarray(trajectories))
    settings = {"where": where, "window": window, "span": span}
    for attention in (dense_attention, partial(blockwise_attention, block=block)):
        assert_close(value_and_gradients(partial(attention, **settings), q, k, v, d_out), expected, 5e-6)


@pytest.mark.parametrize("attention", [dense_attention, partial(blockwise_attention, block=16)])
def test_bfloat16_keeps_its_sums_in_float32(attention):
    chains, trajectories = packed(100)
    q, k, v, d_out = inputs(100, 2, jnp.bfloat16)
    expected = reference(q, k, v, d_out, seen_by_hand(chains, trajectories, None, None))
    where = Visibility(jnp.asarray(chains), jnp.asarray(trajectories))
    got = value_and_gradients(partial(attention, where=where, window=None, span=None), q, k, v, d_out)
    assert_close(got, expected, 1.5e-2)


def test_dropout_takes_the_same_weights_whatever_the_blocks_and_its_gradient_is_exact():
    length, heads, rate = 40, 2, 0.25
    where = Visibility(jnp.ones((B, length), jnp.int32), jnp.zeros((B, length), jnp.int32))
    settings = {"where": where, "window": None, "span": None, "dropout_rate": rate, "dropout_seed": SEED}
    # Equal scores and one-hot values lay the weights bare: 1 / (i + 1) where kept, before scaling.
    nothing = jnp.zeros((B, length, heads, length))
    one_hot = jnp.broadcast_to(jnp.eye(length)[None, :, None], nothing.shape)
    weights = jax.jit(partial(dense_attention, **settings))(nothing, nothing, one_hot)
    weights = np.asarray(weights).swapaxes(1, 2)
    kept = weights > 0
    lower = np.broadcast_to(np.tri(length, dtype=bool), kept.shape)
    np.testing.assert_allclose(weights, kept / np.arange(1, length + 1)[:, None] / (1 - rate), rtol=1e-6)
    # 4 x 820 weights: the standard deviation of the share is 0.0076.
    assert abs(kept[lower].mean() - (1 - rate)) < 0.03
    assert not (kept[0, 0] == kept[0, 1]).all() and not (kept[0, 0] == kept[1, 0]).all()

    q, k, v, d_out = inputs(length, heads)
    expected = reference(q, k, v, d_out, lower[:, 0], kept / (1 - rate))
    for attention in (
        dense_attention,
        partial(blockwise_attention, block=16),
        partial(blockwise_attention, block=64),
    ):
        assert_close(value_and_gradients(partial(attention, **settings), q, k, v, d_out), expected, 5e-6)


def test_rows_heads_and_neighbouring_seeds_drop_unrelated_weights():
    rows, heads, length = 4, 2, 32
    where = Visibility(jnp.ones((rows, length), jnp.int32), jnp.zeros((rows, length), jnp.int32))
    nothing = jnp.zeros((rows, length, heads, length))
    one_hot = jnp.broadcast_to(jnp.eye(length)[None, :, None], nothing.shape)

    @jax.jit
    def weights(seed):
        rule = {"window": None, "span": None, "dropout_rate": 0.5, "dropout_seed": seed}
        return dense_attention(nothing, nothing, one_hot, where, **rule).swapaxes(1, 2)

    kept = np.concatenate([np.asarray(weights(jnp.uint32(seed))) > 0 for seed in range(8, 12)])
    kept = kept.reshape(-1, length, length)[:, np.tri(length, dtype=bool)]
    # 528 weights: the standard deviation of the share in which two masks differ is 0.022.
    for a, b in zip(*np.triu_indices(len(kept), 1), strict=True):
        assert abs((kept[a] != kept[b]).mean() - 0.5) < 0.11


def test_the_dropouts_of_neighbouring_layers_have_each_their_own_seed():
    seeds = [int(site(jnp.uint32(seed), number)) for seed in range(64) for number in (1, 2, 3)]
    assert len(set(seeds)) == len(seeds)


def test_scores_of_thousands_neither_overflow_nor_lose_the_answer():
    where = Visibility(*map(jnp.asarray, packed(64)))
    q, k, v, d_out = inputs(64, 1)
    for attention in (dense_attention, partial(blockwise_attention, block=16)):
        got = value_and_gradients(partial(attention, where=where, window=None, span=None), 1000 * q, k, v, d_out)
        assert all(np.isfinite(array).all() for array in got)
        # One key takes all: the output is its value.
        top = np.abs(got[0][0, :, None, 0] - np.asarray(v, np.float64)[0, None, :, 0]).max(-1).min(-1)
        assert np.median(top[packed(64)[0][0] > 0]) < 1e-6


def test_feature_dropout_keeps_its_share_and_does_not_depend_on_cuts():
    x = jnp.ones((3, 64, 128))
    whole = dropout(x, 0.1, SEED)
    parts = [dropout(x[:, :24], 0.1, SEED), dropout(x[:, 24:], 0.1, SEED, first=24)]
    np.testing.assert_array_equal(whole, np.concatenate(parts, 1))
    np.testing.assert_allclose(np.unique(whole), [0, 1 / 0.9], rtol=1e-6)
    # 24,576 features: the standard deviation of the share is 0.0019.
    assert abs(float((whole > 0).mean()) - 0.9) < 0.008
    assert (whole != dropout(x, 0.1, SEED + 1)).any()
    assert dropout(x, 0.0, None) is x


def test_dropout_without_a_seed_is_refused():
    q, k, v, _ = inputs(4, 1)
    where = Visibility(*map(jnp.asarray, packed(4)))
    for attention in (dense_attention, partial(blockwise_attention, block=4)):
        with pytest.raises(ValueError, match=r"dropout_seed: expected a uint32 scalar for dropout_rate 0.1, got None"):
            attention(q, k, v, where, window=None, span=None, dropout_rate=0.1)
    with pytest.raises(ValueError, match="dropout_seed"):
        dropout(q[:, :, 0], 0.1, None)


@pytest.mark.parametrize("attention", [dense_attention, partial(blockwise_attention, block=16)])
def test_padding_is_zero_in_value_and_gradient(attention):
    length = 50
    chains, trajectories = packed(length)
    chains[1] = 0  # a row of nothing but padding
    padding = chains == 0
    where = Visibility(jnp.asarray(chains), jnp.asarray(trajectories))
    got = value_and_gradients(partial(attention, where=where, window=7, span=2), *inputs(length, 2))
    for array in got:
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(array[padding], 0)
    assert (got[0][~padding] != 0).any(-1).all()


@pytest.mark.parametrize("attention", [dense_attention, partial(blockwise_attention, block=16)])
def test_the_future_does_not_reach_back(attention):
    length, touched = 50, 20
    where = Visibility(jnp.ones((B, length), jnp.int32), jnp.zeros((B, length), jnp.int32))
    run = jax.jit(partial(attention, where=where, window=None, span=None))
    q, k, v, _ = inputs(length, 2)
    before = run(q, k, v)
    after = run(*(x.at[:, touched].add(1.0) for x in (q, k, v)))
    np.testing.assert_array_equal(before[:, :touched], after[:, :touched])
    assert (before[:, touched:] != after[:, touched:]).any((0, 2, 3)).all()
    np.testing.assert_array_equal(before, run(q, k, v))  # and a second run gives the same bits


@pytest.mark.parametrize(
    ("chain", "trajectory", "rule"),
    [(2, 0, {"window": None, "span": None}), (1, 3, {"window": None, "span": 3}), (1, 0, {"window": 16, "span": None})],
)
def test_blocks_that_nobody_sees_are_not_read(chain, trajectory, rule):
    length = 64
    late = jnp.arange(length)[None] >= 32
    where = Visibility(jnp.where(late, chain, 1), jnp.where(late, trajectory, 0))
    q, k, v, _ = (x[:1] for x in inputs(length, 1))
    poisoned = v.at[:, :16].set(jnp.nan)
    run = jax.jit(partial(blockwise_attention, where=where, block=16, **rule))
    out, clean = np.asarray(run(q, k, poisoned)), np.asarray(run(q, k, v))
    np.testing.assert_array_equal(out[:, 32:], clean[:, 32:])
    assert np.isnan(out[:, :16]).all()
    above_the_diagonal = np.asarray(run(q, k, v.at[:, 48:].set(jnp.nan)))
    np.testing.assert_array_equal(above_the_diagonal[:, :48], clean[:, :48])


def test_new_queries_over_a_cache_see_what_the_row_sees():
    length, new = 40, 3
    where = Visibility(jnp.ones((B, length), jnp.int32), jnp.broadcast_to(jnp.arange(length)[None] // 9, (B, length)))
    q, k, v, _ = inputs(length, 2)
    expected = jax.jit(partial(dense_attention, where=where, window=7, span=2))(q, k, v)[:, -new:]
    slots = jnp.asarray(np.random.default_rng(0).permutation(length))
    trajectories = where.trajectories[:1]
    mask = visible(
        jnp.arange(length - new, length)[None, :, None],
        slots[None, None],
        trajectories[:, -new:, None],
        trajectories[:, slots][:, None],
        window=7,
        span=2,
    )
    keys, values = (x[:, slots].swapaxes(1, 2) for x in (k, v))
    np.testing.assert_allclose(cached_attention(q[:, -new:], keys, values, mask), expected, atol=1e-6)
    nothing = cached_attention(q[:, -1:], keys, values, jnp.zeros((1, 1, length), bool))
    np.testing.assert_array_equal(nothing, jnp.zeros_like(nothing))
