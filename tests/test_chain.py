"""The chain of hindsight: a chain by hand, and what must hold of any."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.chain import Attempt, ChainRules, cropped_steps, cut, cut_past, excerpt, kept_steps, order, reached
from data.trajectory import Trajectory

RULES = ChainRules(completion=True)
few = settings(max_examples=30, deadline=None)


def attempt(rewards, start=0):
    """Observation t is start + t, action t is -(start + t)."""
    rewards = np.array(rewards, np.float32)
    numbers = start + np.arange(len(rewards), dtype=np.float32)[:, None]
    return Attempt.of(Trajectory(numbers, -numbers, rewards))


def whole(attempts, rules=RULES):
    return cut([excerpt(attempts, rules, 0, 0, np.random.default_rng(0))], rules)


WORSE, BETTER = attempt([1, 0, 1], start=10), attempt([3, 2], start=20)


def test_a_chain_by_hand():
    steps = whole([WORSE, BETTER])
    np.testing.assert_array_equal(steps.observations[:, 0], [10, 11, 12, 20, 21])
    np.testing.assert_array_equal(steps.actions[:, 0], [-10, -11, -12, -20, -21])
    np.testing.assert_array_equal(steps.rewards, [1, 0, 1, 3, 2])
    np.testing.assert_array_equal(steps.target_returns, [5, 4, 4, 5, 2])  # all asked for the best, 3 + 2
    np.testing.assert_array_equal(steps.completions, [0, 0, 0, 0, 1])
    np.testing.assert_array_equal(steps.previous_actions[:, 0], [0, -10, -11, 0, -20])
    np.testing.assert_array_equal(steps.previous_rewards, [0, 1, 0, 0, 3])
    np.testing.assert_array_equal(steps.previous_completions, [0, 0, 0, 0, 0])
    np.testing.assert_array_equal(steps.timesteps, [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(steps.trajectories, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(steps.loss_weights, [0, 0, 0, 1, 1])


def test_without_relabel_each_attempt_is_asked_for_its_own_return_and_reaches_it():
    steps = whole([WORSE, BETTER], ChainRules(relabel=False, completion=True))
    np.testing.assert_array_equal(steps.target_returns, [2, 1, 1, 5, 2])
    np.testing.assert_array_equal(steps.completions, [0, 0, 1, 0, 1])
    np.testing.assert_array_equal(steps.previous_completions, [0, 0, 0, 1, 0])


def test_without_completion_no_flag_is_set():
    steps = whole([WORSE, BETTER], ChainRules(relabel=False, completion=False))
    assert not steps.completions.any()
    assert not steps.previous_completions.any()


def test_loss_on_all_counts_every_action():
    assert whole([WORSE, BETTER], ChainRules(loss="all")).loss_weights.all()


def test_mixed_loss_counts_past_actions_at_a_quarter():
    np.testing.assert_array_equal(
        whole([WORSE, BETTER], ChainRules(loss="mixed")).loss_weights, [0.25, 0.25, 0.25, 1, 1]
    )


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="--loss: expected one of last, all, mixed, got 'first'"):
        ChainRules(loss="first")


def test_order_is_ascending_and_keeps_equals_as_they_came():
    returns = np.array([3.0, 1.0, 3.0, 2.0])
    np.testing.assert_array_equal(order(returns, RULES), [1, 3, 0, 2])
    np.testing.assert_array_equal(order(returns, ChainRules(sort=False, completion=True)), [0, 1, 2, 3])
    np.testing.assert_array_equal(order(np.tile([1.0, 0.0], 50), RULES), [*range(1, 100, 2), *range(0, 100, 2)])


def test_a_rounding_error_below_the_target_still_reaches_it_and_more_does_not():
    targets = np.array([300.0, 300.0, 300.0, 0.0, -300.0])
    returns = np.array([299.998, 299.99, 301.0, 0.0, -300.002])
    np.testing.assert_array_equal(reached(returns, targets), [True, False, True, True, True])


def test_equal_attempts_all_reach_the_target():
    steps = whole([BETTER, BETTER])
    np.testing.assert_array_equal(steps.completions, [0, 1, 0, 1])
    np.testing.assert_array_equal(steps.previous_completions, [0, 0, 1, 0])


def test_a_kept_step_shows_what_truly_came_before_it():
    long = attempt(np.arange(1000), start=0)
    steps = cut([excerpt([long, long], RULES, 8, 0, np.random.default_rng(3))], RULES)
    past = steps.trajectories == 0
    timesteps = steps.timesteps[past]
    assert len(timesteps) == 8 and timesteps[0] > 0
    np.testing.assert_array_equal(steps.previous_actions[past, 0], -(timesteps - 1))
    np.testing.assert_array_equal(steps.previous_rewards[past], timesteps - 1)
    earned = timesteps * (timesteps - 1) / 2
    np.testing.assert_array_equal(steps.target_returns[past], 1000 * 999 / 2 - earned)


@few
@given(length=st.integers(1, 300), keep=st.integers(1, 40), seed=st.integers(0, 99))
def test_kept_steps_are_one_of_each_equal_part_at_one_phase(length, keep, seed):
    steps = kept_steps(length, keep, np.random.default_rng(seed))
    if keep >= length:
        np.testing.assert_array_equal(steps, np.arange(length))
    else:
        assert len(steps) == keep
        edges = np.arange(keep + 1) * length / keep
        assert (steps >= np.floor(edges[:-1])).all() and (steps < edges[1:]).all()
        assert np.ptp(np.diff(steps)) <= 1 if keep > 1 else True


def test_over_many_phases_every_step_is_kept_equally_often():
    rng = np.random.default_rng(0)
    counts = np.bincount(np.concatenate([kept_steps(10, 3, rng) for _ in range(10_000)]), minlength=10)
    np.testing.assert_allclose(counts, 3000, rtol=0.06)


def test_crops_begin_at_the_reset_as_often_as_the_rule_says():
    rng = np.random.default_rng(0)
    crops = [cropped_steps(10, 4, rng) for _ in range(10_000)]
    assert all((np.diff(crop) == 1).all() and len(crop) == 4 for crop in crops)
    counts = np.bincount([crop[0] for crop in crops])
    assert len(counts) == 7  # 0 to 10 - 4
    np.testing.assert_allclose(counts[0], 10_000 * 3 / 9, rtol=0.06)  # -2, -1 and 0 of -2 to 6
    np.testing.assert_allclose(counts[1:], 10_000 / 9, rtol=0.1)


def test_a_crop_longer_than_the_attempt_shows_all_of_it():
    np.testing.assert_array_equal(cropped_steps(3, 5, np.random.default_rng(0)), [0, 1, 2])
    np.testing.assert_array_equal(cropped_steps(3, 0, np.random.default_rng(0)), [0, 1, 2])


rewards = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


@few
@given(
    chain=st.lists(rewards, min_size=2, max_size=5),
    keep=st.integers(0, 6),
    crop=st.integers(0, 6),
    relabel=st.booleans(),
    loss=st.sampled_from(["last", "all"]),
    seed=st.integers(0, 99),
)
def test_the_past_of_a_chain_is_cut_at_rollout_as_in_training(chain, keep, crop, relabel, loss, seed):
    rules = ChainRules(relabel=relabel, loss=loss)
    attempts = [attempt(r) for r in chain]
    attempts = [attempts[i] for i in order(np.array([a.total for a in attempts]), rules)]
    trained = cut([excerpt(attempts, rules, keep, crop, np.random.default_rng(seed))], rules)
    played = cut_past(attempts[:-1], rules, keep, attempts[-1].total, np.random.default_rng(seed))
    past = trained.trajectories < len(attempts) - 1
    for name, values in played._asdict().items():
        np.testing.assert_array_equal(values, getattr(trained, name)[past], err_msg=name)


@few
@given(chain=st.lists(rewards, min_size=1, max_size=5), relabel=st.booleans())
def test_what_is_asked_and_what_was_earned_make_the_target(chain, relabel):
    steps = whole([attempt(r) for r in chain], ChainRules(relabel=relabel, completion=True))
    totals = [sum(r) for r in chain]
    for i, r in enumerate(chain):
        of = steps.trajectories == i
        target = max(totals) if relabel else totals[i]
        np.testing.assert_array_equal(steps.target_returns[of], target - np.cumsum([0, *r[:-1]]))
        np.testing.assert_array_equal(steps.timesteps[of], np.arange(len(r)))
        assert steps.completions[of].sum() == steps.completions[of][-1] == (totals[i] >= target)
