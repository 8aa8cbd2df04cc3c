"""What is known of every environment without loading a simulator."""

from typing import NamedTuple


class Spec(NamedTuple):
    """The sizes of an environment, known without loading it."""

    name: str
    domain: str
    task: str
    observation_size: int
    action_size: int
    physics_size: int
    """Numbers in a MuJoCo state: positions, velocities, activations."""
    episode_length: int
    """Steps after which every episode is truncated."""
    simulator: str = "dm_control"
    """Who steps it: dm_control, gymnasium, or nobody (empty) where there is only data."""
    env_id: str = ""
    """Of gymnasium's registry, or module:id where importing the module registers it."""


_CORNERS = "reach_top_left reach_top_right reach_bottom_left reach_bottom_right"

# The tasks of a domain differ in nothing but reward and initial states, so data of one serve the others. Hence no
# escape and fetch of the quadruped: their models have bodies more, and terrain that no stored state holds.
_DOMAINS: dict[str, tuple[tuple[int, int, int, int], str]] = {
    "walker": ((24, 6, 18, 1000), "stand walk run flip"),
    "cheetah": ((17, 6, 18, 1000), "run run_backward flip flip_backward"),
    "cartpole": ((5, 1, 4, 1000), "balance balance_sparse swingup swingup_sparse"),
    "hopper": ((15, 4, 14, 1000), "stand hop hop_backward flip flip_backward"),
    "quadruped": ((78, 12, 57, 1000), "walk run stand jump roll roll_fast"),
    "jaco": ((42, 9, 18, 250), _CORNERS),
    "point_mass_maze": ((4, 2, 4, 1000), _CORNERS),
}

SUITE = tuple(
    Spec(f"{domain}_{task}", domain, task, *sizes)
    for domain, (sizes, tasks) in _DOMAINS.items()
    for task in tasks.split()
)
"""dm_control's own tasks, and those that ExoRL adds to its domains."""
