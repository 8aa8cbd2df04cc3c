"""Batches of chains: how rows are packed, and that they depend on seed and step alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.chain import ChainRules, cut_past, order
from data.sampler import Sampler, chain_lengths, split
from data.scaling import Scaling
from data.trajectory import Trajectory

few = settings(max_examples=25, deadline=None)


def trajectories(lengths, seed=0):
    """Observation 0 is the trajectory's number, observation 1 the timestep; returns differ."""
    rng = np.random.default_rng(seed)
    return [
        Trajectory(
            np.stack([np.full(length, i), np.arange(length)], 1).astype(np.float32),
            rng.uniform(-1, 1, (length, 3)).astype(np.float32),
            rng.uniform(0, 1, length).astype(np.float32),
        )
        for i, length in enumerate(lengths)
    ]


AS_IS = Scaling(np.zeros(2, np.float32), np.ones(2, np.float32), 1.0, 1.0)


def sampler(data, scaling=AS_IS, rules=None, **settings):
    chosen = {"trajs": 4, "keep": 3, "crop": 5, "rows": 6, "seed": 0} | settings
    return Sampler(data, scaling, rules or ChainRules(completion=True), **chosen)


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_chains_have_powers_of_two_and_the_whole_number():
    assert chain_lengths(1) == [1]
    assert chain_lengths(2) == [1, 2]
    assert chain_lengths(6) == [1, 2, 4, 6]
    assert chain_lengths(32) == [1, 2, 4, 8, 16, 32]
    assert chain_lengths(4, "uniform") == [1, 2, 3, 4]
    assert chain_lengths(4, "full") == [4]


def test_chain_lengths_are_drawn_uniformly():
    data = trajectories([4] * 10)
    batch = sampler(data, trajs=6, keep=1, crop=2, rows=4000).batch(0)
    first = batch.trajectories * (batch.chains == 1)  # a first chain always fits
    counts = np.bincount(first.max(axis=1) + 1)
    np.testing.assert_allclose(counts[[1, 2, 4, 6]], 1000, rtol=0.1)
    assert counts.sum() == counts[[1, 2, 4, 6]].sum()


def test_without_packing_a_row_holds_one_chain_from_its_first_step_on():
    batch = sampler(trajectories([4] * 10), trajs=6, keep=1, crop=2, rows=200, pack=False).batch(0)
    steps = (batch.chains == 1).sum(axis=1)
    assert set(np.unique(batch.chains)) == {0, 1} and set(steps) == {2, 3, 5, 7}
    assert (batch.chains == (np.arange(7) < steps[:, None])).all()


@few
@given(
    lengths=st.lists(st.integers(1, 20), min_size=4, max_size=8),
    trajs=st.integers(1, 4),
    keep=st.integers(0, 6),
    crop=st.integers(0, 6),
    extra=st.integers(0, 30),
    sort=st.booleans(),
)
def test_rows_hold_whole_chains_from_the_left_and_padding_is_nought(lengths, trajs, keep, crop, extra, sort):
    data = trajectories(lengths)
    one_chain = sampler(data, trajs=trajs, keep=keep, crop=crop).steps_per_row
    longest = max(lengths)
    assert one_chain == (trajs - 1) * min(keep or longest, longest) + min(crop or longest, longest)
    drawn = sampler(
        data, rules=ChainRules(sort=sort), trajs=trajs, keep=keep, crop=crop, steps_per_row=one_chain + extra
    )
    batch = drawn.batch(3)
    totals = np.array([trajectory.total for trajectory in data])
    for row in range(6):
        used = int((batch.chains[row] > 0).sum())
        assert used >= 1 and not batch.chains[row, used:].any()
        assert all(not values[row, used:].any() for values in batch)
        np.testing.assert_array_equal(np.diff(batch.chains[row, :used]).clip(max=1), np.diff(batch.chains[row, :used]))
        for number in range(1, batch.chains[row].max() + 1):
            of = batch.chains[row] == number
            index, source = batch.trajectories[row, of], batch.observations[row, of, 0].astype(int)
            assert sorted(set(index)) == list(range(index.max() + 1)) and index.max() + 1 in chain_lengths(trajs)
            order_drawn = [source[index == i][0] for i in range(index.max() + 1)]
            assert len(set(order_drawn)) == len(order_drawn)  # without replacement
            assert not sort or (np.diff(totals[order_drawn]) >= 0).all()
            for i, which in enumerate(order_drawn):
                most = crop if i == index.max() else keep
                assert (index == i).sum() == min(most or lengths[which], lengths[which])
            np.testing.assert_array_equal(batch.observations[row, of, 1], batch.timesteps[row, of])


def test_every_step_shows_its_own_trajectory():
    data = trajectories([30, 25, 40, 35])
    batch = sampler(data).batch(0)
    for row, column in np.argwhere(batch.chains > 0):
        source = data[int(batch.observations[row, column, 0])]
        timestep = batch.timesteps[row, column]
        np.testing.assert_array_equal(batch.actions[row, column], source.actions[timestep])
        before = source.actions[timestep - 1] if timestep else np.zeros(3)
        np.testing.assert_array_equal(batch.previous_actions[row, column], before)
        assert batch.rewards[row, column] == source.rewards[timestep]


def test_a_batch_depends_on_seed_and_step_alone():
    data = trajectories([30] * 8)
    drawn = sampler(data)
    first = drawn.batch(0)
    drawn.batch(7)
    assert equal(first, drawn.batch(0))
    assert equal(first, sampler(data).batch(0))
    assert not equal(first, drawn.batch(1))
    assert not equal(first, sampler(data, seed=1).batch(0))


def test_a_row_does_not_depend_on_the_other_rows():
    data = trajectories([30] * 8)
    wide, narrow = sampler(data, rows=6).batch(2), sampler(data, rows=2).batch(2)
    assert equal([values[:2] for values in wide], narrow)


def test_types_are_those_of_the_batch():
    batch = sampler(trajectories([30] * 4)).batch(0)
    integers = {name for name, values in batch._asdict().items() if values.dtype == np.int32}
    assert integers == {"timesteps", "trajectories", "chains"}
    assert all(values.dtype in (np.int32, np.float32) for values in batch)


def test_scaling_is_applied_once_and_not_to_padding():
    data = trajectories([30] * 6)
    scaling = Scaling(np.array([1.0, 2.0], np.float32), np.array([4.0, 8.0], np.float32), 16.0, 2.0)
    plain, scaled = sampler(data).batch(0), sampler(data, scaling).batch(0)
    real = plain.chains > 0
    assert not real.all()
    expected = plain._replace(
        observations=(plain.observations - scaling.mean) / scaling.std * real[..., None],
        rewards=plain.rewards / 2,
        previous_rewards=plain.previous_rewards / 2,
        target_returns=plain.target_returns / 16,
    )
    for name, values in scaled._asdict().items():
        np.testing.assert_allclose(values, getattr(expected, name), rtol=1e-6, err_msg=name)


def test_cutting_an_episode_at_rollout_gives_what_the_sampler_put_in_the_batch():
    data = trajectories([50] * 4)
    drawn = sampler(data, trajs=4, keep=6, crop=10, rows=1)
    step = next(step for step in range(99) if drawn.batch(step).trajectories.max() == 3)
    batch = drawn.batch(step)
    rng = np.random.default_rng((0, step, 0))
    rng.integers(3), rng.choice(4, 4, replace=False)  # the draws before the cut
    ranks = order(drawn.totals, drawn.rules)
    attempts = [drawn.attempts[i] for i in ranks]
    cut = cut_past(attempts[:-1], drawn.rules, 6, attempts[-1].total, rng).scaled(AS_IS)
    for name, values in cut._asdict().items():
        np.testing.assert_array_equal(values.astype(np.float32), getattr(batch, name)[0, :18], err_msg=name)


def test_fewer_trajectories_than_trajs_are_refused():
    with pytest.raises(ValueError, match="--trajs: expected at most 3, the trajectories in the data, got 4"):
        sampler(trajectories([5] * 3))


@pytest.mark.parametrize(("flag", "value"), [("trajs", 0), ("keep", -1), ("crop", -1), ("rows", 0)])
def test_a_number_out_of_range_is_refused(flag, value):
    with pytest.raises(ValueError, match=f"--{flag}: expected .* got {value}"):
        sampler(trajectories([5] * 4), **{flag: value})


def test_a_row_too_short_for_a_chain_is_refused():
    with pytest.raises(ValueError, match="steps_per_row: expected at least 14, a chain of 4, got 13"):
        sampler(trajectories([30] * 4), steps_per_row=13)


def test_splitting_parts_the_data_without_loss():
    train, heldout = split(trajectories([2] * 20), 0.1, seed=0)
    assert (len(train), len(heldout)) == (18, 2)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, heldout])), np.arange(20))
    again = split(trajectories([2] * 20), 0.1, seed=0)
    np.testing.assert_array_equal(heldout, again[1])
    assert len(split(trajectories([2] * 20), 0.0, seed=0)[1]) == 0


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 0.9])
def test_a_split_that_leaves_nothing_to_train_on_is_refused(fraction):
    with pytest.raises(ValueError, match="--heldout: "):
        split(trajectories([2] * 2), fraction, seed=0)
