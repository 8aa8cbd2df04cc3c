"""The Python of docs/your_own.md is run, shortened; the loop with a policy in test_train_offline.py."""

import re
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import envs
from data import exorl
from envs import dmc, exorl_tasks, mujoco
from envs.exorl_tasks import walker
from envs.specs import Spec

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parent.parent / "docs/your_own.md").read_text(), re.DOTALL)
EPISODES, REWARD, BODY, _ = BLOCKS


def test_episodes_of_ones_own_are_data_of_the_domain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(EPISODES.replace("range(40)", "range(2)"), {})
    size = envs.spec("walker_stand")
    sizes = exorl.Sizes(size.observation_size, size.action_size, size.physics_size)
    loaded = exorl.load(
        tmp_path / "datasets/walker/mine", name=size.name, sizes=sizes, reward_fn=envs.reward_fn(size.name), workers=1
    )
    assert [len(trajectory.actions) for trajectory in loaded.trajectories] == [1000, 1000]
    assert all(trajectory.total > 50 for trajectory in loaded.trajectories)  # were zero as stored


def test_a_reward_of_ones_own_is_the_same_of_one_state_and_of_many(monkeypatch):
    names = dict(vars(walker))
    exec(REWARD, names)
    crouch = envs.spec("walker_run")._replace(name="walker_crouch", task="crouch")
    monkeypatch.setitem(envs._SPECS, "walker_crouch", crouch)
    monkeypatch.setattr(walker, "Flip", names["Crouch"])
    load = exorl_tasks.load
    monkeypatch.setattr(exorl_tasks, "load", lambda domain, task, random: load(domain, "flip", random))
    env = envs.make("walker_crouch")
    env.reset(seed=0)
    rng, earned, states, actions = np.random.default_rng(0), [], [], []
    for _ in range(50):
        actions.append(rng.uniform(-1, 1, 6).astype(np.float32))
        earned.append(env.step(actions[-1])[1])
        states.append(env.physics_state())
    assert np.ptp(earned) > 0
    np.testing.assert_allclose(dmc.relabel("walker_crouch", np.array(states), np.array(actions)), earned, rtol=1e-6)


def test_a_body_of_ones_own_is_registered_by_its_module(tmp_path, monkeypatch):
    (tmp_path / "my_package.py").write_text(
        "import gymnasium\n"
        "gymnasium.register(\n"
        "    'MyHopper-v0', entry_point='gymnasium.envs.mujoco.hopper_v4:HopperEnv', kwargs={'healthy_reward': 7.0}\n"
        ")\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    size = eval(BODY, {"Spec": Spec})
    env = mujoco.make(size)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (size.observation_size,) and len(env.physics_state()) == size.physics_size
    plain = envs.make("Hopper-v4")
    np.testing.assert_array_equal(observation, plain.reset(seed=0)[0])
    action = np.zeros(3, np.float32)
    assert env.step(action)[1] == pytest.approx(plain.step(action)[1] + 6)  # as it was registered
    with pytest.raises(ValueError, match=r"my-hopper: .*MyHoper"):
        mujoco.make(size._replace(env_id="my_package:MyHoper-v0"))
    del gymnasium.registry["MyHopper-v0"], sys.modules["my_package"]
    with pytest.raises(ModuleNotFoundError, match="no_package"):
        mujoco.make(size._replace(env_id="no_package:MyHopper-v0"))
