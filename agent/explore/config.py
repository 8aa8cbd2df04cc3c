"""The numbers of the agents that make data."""

import dataclasses

import optax


@dataclasses.dataclass(frozen=True)
class ExploreConfig:
    """Chosen so that 100 episodes of walker_run on two CPU cores take under four minutes and end well."""

    width: int = 256
    """Of the two hidden layers of every network."""
    batch_size: int = 64
    """Transitions in a minibatch."""
    updates: int = 1000
    """Per episode."""
    learning_rate: float = 1e-3
    """Of Adam."""
    discount: float = 0.99
    """Per step."""
    n_step: int = 3
    """Rewards summed before the critic is asked; 1 for `rnd`, whose bonus changes while it learns."""
    target_rate: float = 0.01
    """How far the target critics follow at each update."""
    target_noise: float = 0.2
    """Standard deviation of the noise on the target's actions."""
    target_noise_clip: float = 0.3
    """Bound of that noise."""
    policy_delay: int = 2
    """Critic updates for each of the actor."""
    random_episodes: int = 3
    """Played with uniform actions before anything is learned; they fix the scale of the observations."""
    first_noise: float = 0.5
    """Standard deviation of the exploration noise on the first action of the agent."""
    last_noise: float = 0.1
    """What it falls to."""
    noise_episodes: int = 25
    """Over how many episodes it falls, linearly."""

    def optimizer(self) -> optax.GradientTransformation:
        """The one optimizer of all networks."""
        return optax.adam(self.learning_rate)

    def noise(self, episode: int) -> float:
        """The exploration noise of an episode, counted from 0."""
        progress = min(1.0, max(0.0, (episode - self.random_episodes) / self.noise_episodes))
        return self.first_noise + (self.last_noise - self.first_noise) * progress
