"""The numbers of the agents that make data."""

import dataclasses

import optax


@dataclasses.dataclass(frozen=True)
class ExploreConfig:
    """Chosen so that 100 episodes of walker_run on two CPU cores take under four minutes and end well."""

    width: int = 256
    """Of the two hidden layers of every network."""
    batch_size: int = 256
    """Transitions in a minibatch."""
    updates: int = 500
    """Per episode of 1,000 steps."""
    learning_rate: float = 5e-4
    """Of Adam."""
    discount: float = 0.99
    """Per step."""
    n_step: int = 3
    """Rewards summed before the critic is asked; the bonus of `rnd` depends on one observation and takes 1."""
    target_rate: float = 0.01
    """How far the target critics follow at each update."""
    target_noise: float = 0.2
    """Standard deviation of the noise on the target's actions."""
    target_noise_clip: float = 0.3
    """Bound of that noise."""
    policy_delay: int = 2
    """Critic updates for each of the actor."""
    random_episodes: int = 4
    """Played with uniform actions before anything is learned; they fix the scale of the observations."""
    first_noise: float = 0.5
    """Standard deviation of the exploration noise on the first action of the agent."""
    last_noise: float = 0.1
    """What it falls to."""
    noise_episodes: int = 50
    """Over how many episodes it falls, linearly."""

    def optimizer(self) -> optax.GradientTransformation:
        """The one optimizer of all networks."""
        return optax.adam(self.learning_rate)
