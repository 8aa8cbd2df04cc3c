"""Reading a long cache block by block gives what reading it at once gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent import decode
from agent.attention import cached_attention
from agent.config import ModelConfig
from agent.policy import CachedPolicy
from agent.transformer import init_weights
from data.chain import ChainRules
from data.scaling import Scaling

SLOTS, WIDTH, BATCH = 64, 8, 2


@pytest.fixture(autouse=True)
def eight_slots_per_block(monkeypatch):
    monkeypatch.setattr(decode, "MATRIX_BYTES", 0)

    def of(kv_heads):
        monkeypatch.setattr(decode, "BLOCK_BYTES", 8 * BATCH * kv_heads * WIDTH * 4)
        assert decode.slots_per_block(BATCH, kv_heads, WIDTH, 4) == 8

    return of


def cache(kv_heads, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=(BATCH, kv_heads, SLOTS, WIDTH)), jnp.float32) for _ in "kv")


def queries(heads, number):
    return jnp.asarray(np.random.default_rng(1).normal(size=(BATCH, number, heads, WIDTH)), jnp.float32)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (2, 2), (4, 2), (4, 1)])
@pytest.mark.parametrize("shown", [slice(0, 1), slice(0, 64), slice(3, 17), slice(60, 64), slice(1, 64, 5)])
def test_blocks_give_what_the_whole_cache_gives(eight_slots_per_block, number, heads, kv_heads, shown):
    eight_slots_per_block(kv_heads)
    mask = np.zeros((1, number, SLOTS), bool)
    mask[:, :, shown] = True
    mask[:, -1, shown.start] = number == 1  # queries see different things
    keys, values = cache(kv_heads)
    # Far more than any score that is seen, where the mask hides it.
    hidden = jnp.asarray(~mask.any((0, 1)))[None, None, :, None]
    keys = jnp.where(hidden, 1e3, keys)
    q = queries(heads, number)
    found = decode.attend(q, keys, values, jnp.asarray(mask))
    np.testing.assert_allclose(found, cached_attention(q, keys, values, jnp.asarray(mask)), atol=2e-6)


def test_slots_before_the_first_and_after_the_last_seen_are_not_read(eight_slots_per_block):
    eight_slots_per_block(1)
    mask = np.zeros((1, 2, SLOTS), bool)
    mask[:, :, 20:30] = True
    keys, values = cache(1)
    unread = np.r_[0:16, 32:64]
    values = values.at[:, :, unread].set(np.nan)
    assert np.isfinite(decode.attend(queries(1, 2), keys, values, jnp.asarray(mask))).all()


def test_a_cache_is_rounded_up_to_whole_blocks_when_it_has_several(monkeypatch):
    monkeypatch.setattr(decode, "BLOCK_BYTES", 2 * 3 * 16 * 4 * 8)
    assert decode.slots_per_block(2, 3, 16, 4) == 8
    sizes = [decode.whole_blocks(slots, 2, 3, 16, 4) for slots in (5, 15, 16, 17, 24)]
    assert sizes == [5, 15, 16, 24, 24]


def test_a_short_cache_is_read_at_once(eight_slots_per_block):
    eight_slots_per_block(1)
    short = jax.make_jaxpr(decode.attend)(queries(1, 2), *(x[:, :, :8] for x in cache(1)), jnp.ones((1, 2, 8), bool))
    long = jax.make_jaxpr(decode.attend)(queries(1, 2), *cache(1), jnp.ones((1, 2, SLOTS), bool))
    assert "while" not in str(short)
    assert "while" in str(long)


@pytest.mark.parametrize("keep", [0, 3])
def test_a_policy_acts_alike_whether_its_cache_is_read_in_blocks_or_at_once(monkeypatch, keep):
    config = ModelConfig(layers=2, width=16, heads=2, window=4, trajs=3, attention="vanilla")
    weights = init_weights(jax.random.key(0), config, 3, 2)
    scaling = Scaling(np.zeros(3, np.float32), np.ones(3, np.float32), 9.0, 0.75)

    def act(block_bytes):
        monkeypatch.setattr(decode, "BLOCK_BYTES", block_bytes)
        jax.clear_caches()
        policy = CachedPolicy(
            weights, config, scaling, ChainRules(completion=True), keep=keep, episode_length=9, chains=range(2)
        )
        rng, actions = np.random.default_rng(0), []
        for _ in range(4):
            policy.begin(9.0)
            for t in range(9):
                actions.append(policy.act(rng.normal(size=(2, 3)).astype(np.float32)))
                policy.observe(rng.uniform(size=2).astype(np.float32), np.full(2, t == 8))
        return np.array(actions)

    np.testing.assert_allclose(act(2 * 2 * 8 * 4 * 8), act(2**20), atol=2e-6)
