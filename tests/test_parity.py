"""Acting step by step from the cache equals one forward pass over the finished chain, whatever the context rule."""

import gymnasium
import jax
import numpy as np
import pytest

from agent import network, transformer
from agent import policy as policy_module
from agent.config import ModelConfig
from agent.policy import CachedPolicy
from data.chain import Attempt, ChainRules, cut_past
from data.scaling import Scaling
from data.trajectory import Batch, Trajectory
from envs import rollout

O, A, T, CHAINS, EPISODES, TARGET = 3, 2, 12, 2, 5, 9.0
SCALING = Scaling(np.array([0.1, 0.2, -0.3], np.float32), np.array([1, 2, 0.5], np.float32), 9.0, 0.75)
RULES = ChainRules(completion=True)
OWN = ChainRules(completion=True, relabel=False)
COMPLETION = jax.random.normal(jax.random.key(9), (16,))
"""An embedding of the flag that no normalisation takes away."""


EQUAL = np.full((EPISODES, CHAINS), T)
EARLY = np.array([[12, 5], [2, 7], [9, 9], [1, 12], [12, 12]])
"""Steps of every episode: chains wait for one another, some episodes are shorter than what is kept of them."""


def play(policy, rng, lengths=EQUAL):
    """A made-up world: observations and rewards from rng -> [episodes][chains] of arrays [steps, ...]."""
    played = []
    observations = np.empty((CHAINS, O), np.float32)  # one for all steps, as in rollouts
    for ends in lengths:
        policy.begin(TARGET)
        steps = []
        for t in range(ends.max()):
            observations[:] = rng.normal(size=(CHAINS, O))
            actions = policy.act(observations)
            rewards = rng.uniform(0, 1.5, CHAINS).astype(np.float32)
            policy.observe(rewards, ends == t + 1)
            steps.append((observations.copy(), actions, rewards))
        arrays = [np.stack(each, 1) for each in zip(*steps, strict=True)]
        played.append([[each[c][: ends[c]] for each in arrays] for c in range(CHAINS)])
    return played


def rngs_of_chains():
    """The policy's own, of seed 0."""
    return [np.random.default_rng((0, c)) for c in range(CHAINS)]


def select(steps, which):
    return type(steps)(*(values[which] for values in steps))


def chains_as_trained(played, keep, rules):
    """For every episode and chain, the steps of the chain up to its end as training lays them out."""
    rngs = rngs_of_chains()
    attempts = [[Attempt.of(Trajectory(*arrays)) for arrays in episode] for episode in played]
    kept = [[] for _ in range(CHAINS)]
    for e in range(EPISODES):
        for c in range(CHAINS):
            past = cut_past([a[c] for a in attempts[: e + 1]], rules, 0, TARGET, rngs[c])  # draws nothing
            asked = cut_past([a[c] for a in attempts[: e + 1]], RULES, 0, TARGET, rngs[c])
            # What runs is asked for the target; whether it completes is known behind its last action.
            current = select(past, past.trajectories == e)._replace(
                target_returns=select(asked, asked.trajectories == e).target_returns
            )
            yield e, c, [*(kept[c] if keep else [select(past, past.trajectories < e)]), current]
        for c in range(CHAINS if keep else 0):
            pair = [a[c] for a in attempts[max(0, e - 1) : e + 1]]
            cut = cut_past(pair, rules, keep, TARGET, rngs[c])
            cut = select(cut, cut.trajectories == len(pair) - 1)
            kept[c].append(cut._replace(trajectories=np.full(len(cut.timesteps), e)))


def as_batch(parts):
    """One row, padded to the longest there can be, so that one compilation serves all."""
    joined = type(parts[0])(*(np.concatenate(values) for values in zip(*parts, strict=True))).scaled(SCALING)
    length = len(joined.timesteps)
    arrays = joined._asdict() | {"chains": np.ones(length)}
    integers = ("timesteps", "trajectories", "chains")
    return Batch(
        **{
            name: np.pad(
                np.asarray(values, np.int32 if name in integers else np.float32)[None],
                [(0, 0), (0, EPISODES * T - length)] + [(0, 0)] * (values.ndim - 1),
            )
            for name, values in arrays.items()
        }
    )


@pytest.mark.parametrize("layout", ["fused", "interleaved"])
@pytest.mark.parametrize("lengths", [EQUAL, EARLY], ids=["equal lengths", "early ends"])
@pytest.mark.parametrize(
    ("keep", "window", "trajs"),
    [(0, 0, EPISODES), (0, 5, 2), (2 * T, 5, 3), (3, 0, EPISODES), (3, 5, EPISODES), (3, 5, 2), (3, 5, 1)],
    ids=[
        "all kept",
        "span and window slide",
        "more kept than there is",
        "some kept",
        "window slides",
        "both slide",
        "no past",
    ],
)
@pytest.mark.parametrize("rules", [RULES, OWN], ids=["relabelled", "own returns"])
def test_acting_from_the_cache_equals_the_forward_pass_over_the_finished_chain(
    layout, keep, window, trajs, lengths, rules
):
    special = {"kv_heads": 1, "rope": True, "reversible": layout == "fused", "head": "mixture"} if keep == 3 else {}
    config = ModelConfig(
        tokens=layout, layers=2, width=16, heads=2, window=window, trajs=trajs, attention="vanilla", **special
    )
    weights = transformer.init_weights(jax.random.key(1), config, O, A)
    # Large weights for the completion flag and the head, or a fault there would not show.
    weights = weights._replace(tokens=weights.tokens._replace(completion=COMPLETION), head=10 * weights.head)
    policy = CachedPolicy(weights, config, SCALING, rules, keep=keep, episode_length=T, chains=range(CHAINS), seed=0)
    played = play(policy, np.random.default_rng(5), lengths)
    returns = np.array([[arrays[2].sum() for arrays in episode] for episode in played])
    assert (returns >= TARGET).any(), "some episodes must complete"
    assert (returns < TARGET).any(), "and some must not"
    predict = jax.jit(lambda batch: network.predict(weights, config, batch))
    # With nothing of the past in sight, whether it was cut makes no difference.
    for e, c, parts in chains_as_trained(played, keep if trajs > 1 else 0, rules):
        length = sum(len(part.timesteps) for part in parts)
        predicted = np.asarray(predict(as_batch(parts)))[0, length - lengths[e, c] : length]
        np.testing.assert_allclose(played[e][c][1], predicted, atol=3e-5, err_msg=f"episode {e} chain {c}")


class World(gymnasium.Env):
    """Observations and rewards at random, from the seed of the initial state."""

    def reset(self, *, seed=None, options=None):
        self.rng, self.t = np.random.default_rng(seed), 0
        return self.rng.normal(size=O).astype(np.float32), {}

    def step(self, action):
        self.t += 1
        reward = float(np.float32(self.rng.uniform(0, 1.5)))
        return self.rng.normal(size=O).astype(np.float32), reward, False, self.t == T, {}


class Recorded:
    """A policy, and what it was shown and did: [episodes] of lists of steps."""

    def __init__(self, policy):
        self.policy, self.episodes, self.reset = policy, [], policy.reset

    def begin(self, target_return):
        self.episodes.append([])
        self.policy.begin(target_return)

    def act(self, observations):
        self.seen = observations.copy(), self.policy.act(observations)
        return self.seen[1]

    def observe(self, rewards, last):
        self.episodes[-1].append((*self.seen, rewards))
        self.policy.observe(rewards, last)


@pytest.mark.parametrize("keep", [0, 3])
def test_a_rollout_shows_the_network_what_training_shows(keep):
    config = ModelConfig(tokens="fused", layers=2, width=16, heads=2, window=5, trajs=EPISODES, attention="vanilla")
    weights = transformer.init_weights(jax.random.key(1), config, O, A)
    weights = weights._replace(tokens=weights.tokens._replace(completion=COMPLETION), head=10 * weights.head)
    shared = {"keep": keep, "episode_length": T, "seed": 0}
    made = []

    def make(chains):
        made.append(Recorded(CachedPolicy(weights, config, SCALING, RULES, chains=chains, **shared)))
        return made[-1]

    asked = {"chains": CHAINS, "episodes": EPISODES, "target_return": TARGET, "seed": 3, "processes": 1}
    outcome = rollout.play(World, make, context=True, **asked)
    arrays = [[np.stack(each, 1) for each in zip(*steps, strict=True)] for steps in made[0].episodes]
    played = [[[each[c] for each in of_episode] for c in range(CHAINS)] for of_episode in arrays]
    predict = jax.jit(lambda batch: network.predict(weights, config, batch))
    for e, c, parts in chains_as_trained(played, keep, RULES):
        assert outcome.returns[c, e] == pytest.approx(played[e][c][2].sum())
        length = sum(len(part.timesteps) for part in parts)
        predicted = np.asarray(predict(as_batch(parts)))[0, length - T : length]
        np.testing.assert_allclose(played[e][c][1], predicted, atol=3e-5, err_msg=f"episode {e} chain {c}")


def test_a_prompt_that_does_not_fit_into_the_context_is_refused():
    config = ModelConfig(tokens="fused", layers=1, width=16, heads=2, trajs=3)
    weights = transformer.init_weights(jax.random.key(1), config, O, A)
    fixed = {"episode_length": T, "chains": range(1)}
    long = Trajectory(np.zeros((T + 1, O)), np.zeros((T + 1, A)), np.zeros(T + 1))
    with pytest.raises(ValueError, match=rf"prompt: expected trajectories of at most {T} steps.*got one of {T + 1}"):
        CachedPolicy(weights, config, SCALING, RULES, keep=0, prompt=[long], **fixed)
    CachedPolicy(weights, config, SCALING, RULES, keep=3, prompt=[long], **fixed)


@pytest.mark.parametrize("layout", ["fused", "interleaved"])
@pytest.mark.parametrize("keep", [0, 3])
def test_a_prompt_is_a_past_that_was_not_played(layout, keep, monkeypatch):
    monkeypatch.setattr(policy_module, "PREFILL", 5)
    rng = np.random.default_rng(8)
    prompt = [
        Trajectory(rng.normal(size=(n, O)), rng.uniform(-1, 1, (n, A)), rng.uniform(0, 1.5, n)) for n in (12, 2, 11)
    ]
    config = ModelConfig(tokens=layout, layers=2, width=16, heads=2, trajs=5, attention="vanilla", rope=True)
    weights = transformer.init_weights(jax.random.key(1), config, O, A)
    weights = weights._replace(tokens=weights.tokens._replace(completion=COMPLETION), head=10 * weights.head)
    policy = CachedPolicy(
        weights, config, SCALING, RULES, keep=keep, episode_length=T, chains=range(CHAINS), seed=0, prompt=prompt
    )
    first = play(policy, np.random.default_rng(5), EQUAL[:1])
    policy.reset()
    again = play(policy, np.random.default_rng(5), EQUAL[:1])
    predict = jax.jit(lambda batch: network.predict(weights, config, batch))
    ascending = sorted((Attempt.of(t) for t in prompt), key=lambda attempt: attempt.total)
    for c, own_rng in enumerate(rngs_of_chains()):
        past = cut_past(ascending, RULES, keep, TARGET, own_rng)
        np.testing.assert_array_equal(first[0][c][1], again[0][c][1])
        own = Attempt.of(Trajectory(*first[0][c]))
        pair = cut_past([ascending[-1], own], RULES, 0, TARGET, rng)
        current = select(pair, pair.trajectories == 1)
        parts = [past, current._replace(trajectories=np.full(T, len(prompt)))]
        length = len(past.timesteps) + T
        predicted = np.asarray(predict(as_batch(parts)))[0, length - T : length]
        np.testing.assert_allclose(first[0][c][1], predicted, atol=3e-5)


@pytest.mark.parametrize("lengths", [EQUAL, EARLY], ids=["equal lengths", "early ends"])
def test_a_ranked_context_holds_the_best_of_the_chain_in_the_order_of_training(lengths):
    config = ModelConfig(tokens="fused", layers=2, width=16, heads=2, trajs=3, attention="vanilla", rope=True)
    weights = transformer.init_weights(jax.random.key(1), config, O, A)
    weights = weights._replace(tokens=weights.tokens._replace(completion=COMPLETION), head=10 * weights.head)
    policy = CachedPolicy(
        weights, config, SCALING, RULES, keep=3, episode_length=T, chains=range(CHAINS), seed=0, ranked=True
    )
    played = play(policy, np.random.default_rng(5), lengths)
    predict = jax.jit(lambda batch: network.predict(weights, config, batch))
    rngs, dropped = rngs_of_chains(), 0
    for e in range(1, EPISODES):
        attempts = [[Attempt.of(Trajectory(*arrays[c])) for arrays in played[: e + 1]] for c in range(CHAINS)]
        best = [sorted(own[:-1], key=lambda attempt: attempt.total)[-2:] for own in attempts]
        pasts = [cut_past(each, RULES, 3, TARGET, rng) for each, rng in zip(best, rngs, strict=True)]
        for c in range(CHAINS):
            dropped += all(each is not attempts[c][-2] for each in best[c])
            pair = cut_past([best[c][-1], attempts[c][-1]], RULES, 0, TARGET, rngs[c])
            current = select(pair, pair.trajectories == 1)
            parts = [pasts[c], current._replace(trajectories=np.full(len(current.timesteps), len(best[c])))]
            length = sum(len(part.timesteps) for part in parts)
            predicted = np.asarray(predict(as_batch(parts)))[0, length - lengths[e, c] : length]
            np.testing.assert_allclose(played[e][c][1], predicted, atol=3e-5, err_msg=f"episode {e} chain {c}")
    assert dropped, "the latest episode must at times be worse than those before"
    with pytest.raises(ValueError, match="ranked: expected a context of kept steps"):
        CachedPolicy(weights, config, SCALING, RULES, keep=0, episode_length=T, chains=range(CHAINS), ranked=True)


def test_reset_forgets_everything():
    config = ModelConfig(tokens="fused", layers=1, width=16, trajs=4, attention="vanilla")
    weights = transformer.init_weights(jax.random.key(1), config, O, A)
    policy = CachedPolicy(weights, config, SCALING, RULES, keep=3, episode_length=T, chains=range(CHAINS))
    first = play(policy, np.random.default_rng(5))
    second = play(policy, np.random.default_rng(5))
    policy.reset()
    again = play(policy, np.random.default_rng(5))
    np.testing.assert_array_equal(first[0][0][1], again[0][0][1])
    assert np.abs(first[0][0][1] - second[0][0][1]).max() > 1e-4
