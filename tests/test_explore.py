"""The agents that make data: their targets by hand, their learning as a pure function of seed and replay."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent import explore
from agent.explore import rnd, td3
from agent.explore.networks import init_mlp, mlp, product
from agent.explore.replay import Transitions
from agent.explore.rnd import init_rnd
from agent.explore.td3 import TD3State, act, init_td3, value

TINY = explore.ExploreConfig(width=8, batch_size=4, updates=6, n_step=2, random_episodes=1)
O, A, T = 3, 2, 10
update_td3 = jax.jit(td3.update_td3, static_argnames="config")
critic_targets = jax.jit(td3.critic_targets, static_argnames="config")
update_rnd = jax.jit(rnd.update_rnd, static_argnames="config")


def replay_of(episodes, seed=0):
    rng = np.random.default_rng(seed)
    replay = explore.Replay(8, T, O, A)
    for _ in range(episodes):
        replay.add(
            rng.normal(2, 3, (T + 1, O)).astype(np.float32),
            rng.uniform(-1, 1, (T, A)).astype(np.float32),
            rng.uniform(0, 1, T).astype(np.float32),
        )
    return replay


def batch_of(size, seed=0):
    rng = np.random.default_rng(seed)
    return Transitions(
        rng.normal(size=(size, O)).astype(np.float32),
        rng.uniform(-1, 1, (size, A)).astype(np.float32),
        rng.uniform(size=size).astype(np.float32),
        np.full(size, 0.9, np.float32),
        rng.normal(size=(size, O)).astype(np.float32),
    )


def leaves_equal(one, two):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(x, y)


def test_n_step_transitions_by_hand_also_at_the_end_of_an_episode():
    replay = explore.Replay(1, 3, 1, 1)
    replay.add(np.float32([[0], [1], [2], [3]]), np.float32([[10], [11], [12]]), np.float32([1, 2, 4]))
    drawn = replay.sample(np.random.default_rng(0), (50,), 2, 0.5)
    expected = {0: (10, 1 + 0.5 * 2, 0.25, 2), 1: (11, 2 + 0.5 * 4, 0.25, 3), 2: (12, 4, 0.5, 3)}
    assert set(drawn.observations[:, 0]) == set(expected)
    for row in zip(*drawn, strict=True):
        assert tuple(float(np.squeeze(x)) for x in row[1:]) == expected[int(row[0][0])]


def test_a_full_replay_forgets_its_oldest_episode():
    replay = explore.Replay(2, 1, 1, 1)
    for reward in (1, 2, 3):
        replay.add(np.zeros((2, 1), np.float32), np.zeros((1, 1), np.float32), np.float32([reward]))
    assert replay.episodes == 3
    assert set(replay.sample(np.random.default_rng(0), (40,), 1, 0.9).rewards) == {2, 3}


def test_a_network_gives_the_same_in_numpy_and_in_jax_and_as_written_out():
    layers = init_mlp(jax.random.key(0), (O, 8, 8, A))
    x = np.random.default_rng(0).normal(size=(5, O)).astype(np.float32)
    (w1, b1), (w2, b2), (w3, b3) = jax.tree.map(np.asarray, layers)
    h = x @ w1 + b1
    h = np.tanh((h - h.mean(1)[:, None]) / np.sqrt(h.var(1)[:, None] + 1e-5))
    expected = np.maximum(h @ w2 + b2, 0) @ w3 + b3
    np.testing.assert_allclose(mlp(layers, x), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mlp(jax.tree.map(np.asarray, layers), x, np), expected, rtol=1e-5, atol=1e-6)


def test_the_targets_of_td3_equal_those_written_out_in_numpy():
    state = init_td3(jax.random.key(0), O, A, TINY)
    other = init_td3(jax.random.key(1), O, A, TINY).critics
    state, batch, key = state._replace(target_critics=other), batch_of(64), jax.random.key
    noise = np.clip(0.2 * np.asarray(jax.random.normal(key(2), (64, A))), -0.3, 0.3)
    actions = np.clip(act(jax.tree.map(np.asarray, state.actor), batch.next_observations, np) + noise, -1, 1)
    inputs = np.concatenate((batch.next_observations, actions), 1)
    q1, q2 = (mlp(jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), other), inputs, np)[:, 0] for i in (0, 1))
    assert np.any(q1 < q2) and np.any(q2 < q1)
    expected = batch.rewards + 0.9 * np.minimum(q1, q2)
    np.testing.assert_allclose(critic_targets(state, batch, key(2), TINY), expected, rtol=1e-5, atol=1e-6)


def test_an_update_moves_each_network_as_the_algorithm_says():
    config = dataclasses.replace(TINY, learning_rate=1e-3)
    state, batch, key = init_td3(jax.random.key(0), O, A, config), batch_of(16), jax.random.key
    after = update_td3(state, batch, key(2), config)
    targets = critic_targets(state, batch, key(2), config)

    def critic_loss(critics):
        values = jax.vmap(value, (0, None, None))(critics, batch.observations, batch.actions)
        return float(jnp.mean((values - targets[None]) ** 2))

    def actor_value(actor):
        critic = jax.tree.map(lambda leaf: leaf[0], after.critics)
        return float(value(critic, batch.observations, act(actor, batch.observations)).mean())

    assert critic_loss(after.critics) < critic_loss(state.critics)
    assert actor_value(after.actor) > actor_value(state.actor)
    for target, new, old in zip(
        *map(jax.tree.leaves, (after.target_critics, after.critics, state.critics)), strict=True
    ):
        np.testing.assert_allclose(target, 0.01 * new + 0.99 * old, rtol=1e-5, atol=1e-7)
    later = update_td3(after, batch, key(3), config)
    leaves_equal(later.actor, after.actor)  # a critic's update in between
    assert int(later.step) == 2


def test_critics_learn_the_value_of_a_constant_reward():
    config = dataclasses.replace(TINY, width=32, learning_rate=3e-3, target_rate=0.1)
    batch = batch_of(64)._replace(rewards=np.ones(64, np.float32), discounts=np.full(64, 0.5, np.float32))
    state: TD3State = init_td3(jax.random.key(0), O, A, config)
    batches = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (300, *leaf.shape)), batch)
    state, _ = explore._updates(state, None, batches, jax.random.split(jax.random.key(1), 300), config)
    values = jax.vmap(value, (0, None, None))(state.critics, batch.observations, batch.actions)
    np.testing.assert_allclose(values.mean(1), 2.0, atol=0.06)  # 1 + 1/2 + 1/4 + ...


def test_what_was_seen_often_earns_a_smaller_bonus_than_what_is_new():
    config = dataclasses.replace(TINY, width=32)
    rng = np.random.default_rng(0)
    seen, new = (rng.normal(shift, 0.3, (32, O)).astype(np.float32) for shift in (-1, 1))
    state = init_rnd(jax.random.key(0), O, config)
    _, before = update_rnd(state, seen, config)
    learn = jax.jit(lambda state: jax.lax.fori_loop(0, 200, lambda _, s: rnd.update_rnd(s, seen, config)[0], state))
    state = learn(state)
    _, bonus = update_rnd(state, np.concatenate((seen, new)), config)
    assert bonus[:32].mean() < 0.2 * bonus[32:].mean()
    assert bonus[:32].mean() < 0.2 * before.mean()


def test_the_bonus_is_the_error_over_its_standard_deviation():
    observations = np.random.default_rng(0).normal(size=(16, O)).astype(np.float32)
    state = init_rnd(jax.random.key(0), O, TINY)
    errors = np.mean((mlp(state.predictor, observations) - mlp(state.target, observations)) ** 2, axis=1)
    np.testing.assert_allclose(update_rnd(state, observations, TINY)[1], errors / errors.std(), rtol=1e-3)


@pytest.mark.parametrize("agent", ["td3", "rnd"])
def test_learning_is_a_pure_function_of_seed_and_replay(agent):
    replay = replay_of(2)
    fresh = explore.init(agent, 0, O, A, TINY)
    one, two = (explore.learn(fresh, replay, 0, TINY) for _ in range(2))
    leaves_equal(one, two)
    assert int(one.td3.step) == TINY.updates
    other = explore.learn(fresh, replay, 1, TINY)
    assert not np.array_equal(one.td3.actor[0][0], other.td3.actor[0][0])


def test_nothing_is_learned_from_random_episodes_and_they_fix_the_scale():
    fresh = explore.init("td3", 0, O, A, TINY)
    leaves_equal(explore.learn(fresh, replay_of(0), 0, TINY), fresh)
    first = explore.learn(fresh, replay_of(1), 0, TINY)
    np.testing.assert_allclose(first.mean, 2, atol=3)
    assert np.all(np.asarray(first.deviation) > 1)
    later = explore.learn(first, replay_of(2), 0, TINY)
    np.testing.assert_array_equal(later.mean, first.mean)


def test_without_a_task_the_rewards_do_not_matter():
    replay, scaled = replay_of(2), replay_of(2)
    scaled._rewards *= 100
    fresh = explore.init("rnd", 0, O, A, TINY)
    leaves_equal(explore.learn(fresh, replay, 0, TINY), explore.learn(fresh, scaled, 0, TINY))


def test_a_policy_acts_at_random_first_then_with_noise_that_falls():
    assert [TINY.noise(episode) for episode in (0, 1, 26, 90)] == pytest.approx([0.5, 0.5, 0.1, 0.1])
    explorer = explore.learn(explore.init("td3", 0, O, A, TINY), replay_of(1), 0, TINY)
    observation = np.ones(O, np.float32)

    def actions(episode, explorer=explorer, n=400):
        act = explore.policy(explorer, episode, A, np.random.default_rng(0), TINY)
        return np.array([act(observation) for _ in range(n)])

    for drawn in (actions(0), actions(50, explore.init("random", 0, O, A, TINY))):
        assert drawn.dtype == np.float32
        np.testing.assert_allclose(drawn.std(0), 1 / np.sqrt(3), rtol=0.1)  # of a uniform on [-1, 1]
    scaled = (observation - explorer.mean) / explorer.deviation
    last = actions(90)
    assert last.dtype == np.float32 and np.abs(last).max() <= 1
    np.testing.assert_allclose(np.median(last, 0), act(explorer.td3.actor, scaled[None])[0], atol=0.03)


def test_an_unknown_agent_lists_the_known_ones():
    with pytest.raises(ValueError, match="'ppo', expected one of: td3, random, rnd"):
        explore.init("ppo", 0, O, A, TINY)


PORTABLE = """
import hashlib, os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
import jax, numpy as np
from agent import explore

rng = np.random.default_rng(0)
digest = hashlib.sha256()
for agent in ("td3", "rnd"):
    config = explore.ExploreConfig(updates=20, random_episodes=1)
    explorer, replay = explore.init(agent, 0, 24, 6, config), explore.Replay(2, 200, 24, 6)
    for episode in range(2):
        observations = rng.normal(0, 1, (201, 24)).astype(np.float32)
        replay.add(observations, np.tanh(observations[1:, :6]), np.tanh(observations[1:, 6]))
        explorer = explore.learn(explorer, replay, 0, config)
        act = explore.policy(explorer, 1, 6, rng, config)
        for array in (*jax.tree.leaves(explorer), *map(act, observations)):
            digest.update(np.asarray(array).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.parametrize("agent", ["td3", "rnd"])
def test_learning_has_no_approximate_instruction_and_no_kernel_or_block_that_is_chosen_by_the_cpu(agent):
    with explore._on_cpu():
        explorer, batch = explore.init(agent, 0, O, A, TINY), jax.tree.map(lambda leaf: leaf[None], batch_of(4))
        lowered = explore._updates.lower(
            explorer.td3, explorer.rnd, batch, jax.random.split(jax.random.key(1), 1), TINY
        )
        compiled = lowered.compile().as_text()
    assert " multiply(" in compiled
    assert not [word for word in (" dot(", "rsqrt", "ynn", "custom-call", "onednn") if word in compiled]


@pytest.mark.parametrize("size", [(512, 64, 30), (64, 256, 1), (5, 23, 7)])
def test_a_product_is_summed_from_the_first_to_the_last_term_and_has_the_gradients_of_any(size):
    m, k, n = size
    rng = np.random.default_rng(0)
    x, weights, pull = (rng.normal(size=s).astype(np.float32) for s in ((m, k), (k, n), (m, n)))
    total = np.zeros((m, n), np.float32)
    for i in range(k):  # rounded once for each term, as by the CPU's fused multiply and add
        total = (total + x[:, i, None].astype(np.float64) * weights[i]).astype(np.float32)
    result, gradients = jax.vjp(product, x, weights)
    compiled = jax.jit(product, compiler_options=explore.PORTABLE | {"xla_backend_optimization_level": 3})
    np.testing.assert_array_equal(compiled(x, weights), total)
    np.testing.assert_allclose(result, total, rtol=1e-4, atol=1e-5)
    for ours, any_other in zip(gradients(pull), (pull @ weights.T, x.T @ pull), strict=True):
        np.testing.assert_allclose(ours, any_other, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be set here")
def test_the_agent_is_the_same_bit_by_bit_on_any_number_of_cores_and_with_the_blas_of_any_cpu():
    def begin(cores, **variables):
        program = [sys.executable, "-c", PORTABLE, str(cores)]
        return subprocess.Popen(program, env=os.environ | variables, stdout=subprocess.PIPE, text=True)

    both = begin(1, OPENBLAS_CORETYPE="Nehalem"), begin(2)
    one, two = (program.communicate()[0] for program in both)
    assert len(one) == 65 and one == two
