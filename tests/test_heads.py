"""Action heads: likelihoods by hand, what is played, and what each can learn that the one before cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import TRAJECTORIES

from agent import heads, learner, network
from agent.baselines import PerceptronPolicy
from agent.config import HEADS, ModelConfig, OptimizerConfig
from data.chain import ChainRules
from data.sampler import Sampler
from data.scaling import Scaling

SCALING = Scaling.fit(TRAJECTORIES)
ONE = jnp.ones((1, 1))


def normal(x, mean, std):
    return np.exp(-((x - mean) ** 2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi))


def test_the_likelihood_of_a_gaussian_by_hand():
    outputs = jnp.array([[[0.3, -0.2, np.log(0.5), 7.0]]])  # the second spread is bounded: e
    actions = jnp.array([[[0.1, -0.9]]])
    by_hand = -(np.log(normal(0.1, np.tanh(0.3), 0.5)) + np.log(normal(-0.9, np.tanh(-0.2), np.e))) / 2
    assert float(heads.loss("gaussian", outputs, actions, ONE)) == pytest.approx(by_hand, rel=1e-5)
    assert float(heads.loss("gaussian", outputs, actions, 3 * ONE)) == pytest.approx(3 * by_hand, rel=1e-5)
    np.testing.assert_allclose(heads.action("gaussian", outputs)[0, 0], np.tanh([0.3, -0.2]), rtol=1e-6)


def test_the_likelihood_of_a_mixture_by_hand_and_the_likeliest_component_is_played():
    logits, means, stds = np.arange(5.0), np.linspace(-1, 1, 5), np.full(5, 0.2)
    outputs = jnp.array([[[*logits, *means, *np.log(stds)]]])
    shares = np.exp(logits) / np.exp(logits).sum()
    by_hand = -np.log(np.sum(shares * normal(0.4, np.tanh(means), stds)))
    assert float(heads.loss("mixture", outputs, jnp.array([[[0.4]]]), ONE)) == pytest.approx(by_hand, rel=1e-5)
    np.testing.assert_allclose(heads.action("mixture", outputs), np.tanh([[[1.0]]]), rtol=1e-6)


def fit(head):
    """The action played where half of the data went left and half right."""
    actions, weights = jnp.array([-0.7, 0.8] * 8)[None, :, None], jnp.ones((1, 16))
    bias = heads.init_bias(head, 1, jax.random.key(0))

    def loss(bias):
        return heads.loss(head, jnp.broadcast_to(bias, (1, 16, len(bias))), actions, weights) / 16

    step = jax.jit(lambda bias: bias - 0.05 * jax.grad(loss)(bias))
    for _ in range(2000):
        bias = step(bias)
    return float(heads.action(head, bias)[0])


def test_between_two_ways_a_mixture_takes_one_and_the_others_their_mean():
    assert fit("deterministic") == pytest.approx(0.05, abs=0.01)
    assert fit("gaussian") == pytest.approx(0.05, abs=0.02)
    assert min(abs(fit("mixture") - way) for way in (-0.7, 0.8)) < 0.03


@pytest.mark.parametrize("method", ["at", "bc"])
@pytest.mark.parametrize("head", HEADS)
def test_every_head_learns_and_the_error_is_of_the_action_played(head, method):
    model = ModelConfig(method=method, head=head, tokens="fused", layers=1, width=16, heads=2, dropout=0.0, trajs=4)
    sampler = Sampler(TRAJECTORIES, SCALING, ChainRules(), model.context, 4, 8, 4, 0)
    rule = OptimizerConfig(learning_rate=0.01, updates=60, lr_warmup=0, clip=1.0)
    state = learner.init_state(jax.random.key(0), model, rule, 3, 2)
    step, batch = jax.jit(learner.make_train_step(model, rule, 0)), sampler.batch(0)
    error = learner.make_error(model)
    before = float(error(state.weights, batch))
    for _ in range(60):
        state, metrics = step(state, batch)
    assert np.isfinite(float(metrics["loss"])) and float(error(state.weights, batch)) < 0.8 * before
    played = network.predict(state.weights, model, batch)
    assert played.shape == (*batch.actions.shape[:2], 2) and float(jnp.abs(played).max()) <= 1
    if method == "bc":
        policy = PerceptronPolicy(state.weights, model, SCALING, chains=4)
        policy.begin(0.0)
        acted = policy.act(SCALING.unscale_observations(batch.observations[:, 0]))
        np.testing.assert_allclose(acted, played[:, 0], atol=1e-5)


def test_random_actions_have_no_head():
    with pytest.raises(ValueError, match="--head: expected deterministic with --method random, got mixture"):
        ModelConfig(method="random", head="mixture")
