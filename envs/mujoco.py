"""D4RL's names and gymnasium's own as environments. The tables load nothing; gymnasium loads when one is made.

D4RL's locomotion data (v2) were made in gym's v2 environments, with mujoco-py and MuJoCo 2 (D4RL issue 45). They are
played in gymnasium's v4: the same rewards, observations, ends of episodes and models on today's MuJoCo. v5 is another
task: it gives Walker2d's right foot the friction of the left (1.9 in place of 0.9), no reward for the step that falls
in Hopper, Walker2d and Ant, and Ant a cost of contacts and 105 observations. Returns in v4 are comparable with D4RL's
in kind, not to the digit: the simulator has changed between MuJoCo 2 and 3.

D4RL's Ant has 111 observations, of which the last 84 are contact forces that MuJoCo 2 left at zero in gym's v2 (D4RL
issue 143, gym issue 2593), and with them the cost of contacts. So it is v4 without contact forces, and 84 zeros.
"""

from itertools import product
from typing import TYPE_CHECKING

from envs.specs import Spec

if TYPE_CHECKING:
    import gymnasium

# Of gymnasium's environment: observations in v4 and in v5, actions, numbers in a state (qpos and qvel).
_BODIES = {
    "HalfCheetah": (17, 17, 6, 18),
    "Hopper": (11, 11, 3, 12),
    "Walker2d": (17, 17, 6, 18),
    "Ant": (27, 105, 8, 29),
}
_D4RL_ANT = 27 + 84
_POLICIES = ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert")

# Data only, with the limit that D4RL registers; antmaze's files hold episodes of up to 1,001 steps all the same.
_MAZES = {
    "umaze": 700,
    "umaze-diverse": 700,
    "medium-play": 1000,
    "medium-diverse": 1000,
    "large-play": 1000,
    "large-diverse": 1000,
}
_KITCHENS = ("complete", "partial", "mixed")


def _d4rl_locomotion(body: str, policy: str) -> Spec:
    observations, _, actions, physics = _BODIES[body]
    domain = body.lower()
    if body == "Ant":
        observations = _D4RL_ANT
    sizes = observations, actions, physics, 1000
    # Not "hopper" alone: dm_control has a hopper too, of other sizes, and data lie in folders named by domain.
    return Spec(f"{domain}-{policy}-v2", f"d4rl-{domain}", policy, *sizes, "gymnasium", f"{body}-v4")


def _gymnasium(body: str, version: int) -> Spec:
    v4, v5, actions, physics = _BODIES[body]
    env_id = f"{body}-v{version}"
    return Spec(env_id, env_id, "run", v4 if version == 4 else v5, actions, physics, 1000, "gymnasium", env_id)


SPECS: tuple[Spec, ...] = (
    *(_d4rl_locomotion(body, policy) for body, policy in product(_BODIES, _POLICIES)),
    *(
        Spec(f"antmaze-{maze}-{version}", "d4rl-antmaze", maze, 29, 8, 29, limit, simulator="")
        for (maze, limit), version in product(_MAZES.items(), ("v0", "v2"))
    ),
    # The files hold no states of MuJoCo.
    *(Spec(f"kitchen-{task}-v0", "d4rl-kitchen", task, 60, 9, 0, 280, simulator="") for task in _KITCHENS),
    *(_gymnasium(body, version) for body, version in product(_BODIES, (4, 5))),
)
"""Every name of D4RL that is known here, and the environments of Minari's MuJoCo data sets."""


def make(spec: Spec, render_mode: str | None = None) -> "gymnasium.Env":
    """The environment of a row of SPECS: observations [O] float32, actions [A] float32 in [-1, 1].

    Raises ValueError when there is only data of it, or for an unknown render mode; ImportError when gymnasium's
    MuJoCo environments are not installed.
    """
    if spec.simulator != "gymnasium":
        raise ValueError(f"{spec.name}: its data can be used, but there is no simulator for it here to play in")
    from envs.locomotion import Locomotion

    return Locomotion(spec, render_mode)
