"""Play a checkpoint in simulation: python -m launch.evaluate --checkpoint runs/walker_run-1 --trajs 1,4,32

Every chain plays episodes one after another in one context. Beside it, as control, the same weights play the same
initial states with an empty context. All numbers go to results.jsonl, tables and plots to report.html.
"""

import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium
from absl import flags

import envs
from launch import program

if TYPE_CHECKING:
    from agent.config import ModelConfig
    from agent.policy import CachedPolicy
    from agent.transformer import Weights
    from data.chain import ChainRules
    from data.scaling import Scaling
    from envs.rollout import Outcome
    from launch.checkpoint import Meta


def evaluate(
    out: Path,
    weights: "Weights",
    meta: "Meta",
    update: int,
    *,
    chains: int,
    trajs: Sequence[int] | None = None,
    target_return: float | None = None,
    seed: int | None = None,
    video: bool = False,
) -> str:
    """Play, append one row per episode to out/results.jsonl, redraw the report -> its table.

    trajs: chain lengths to report; the longest is played, the shorter are its beginnings. None: 1, 2, 4, ... up to
    the length of the training chains. target_return: what is asked for, None the best in the training data.
    """
    from launch.metrics import append_rows
    from launch.report import report

    asked = Asked(
        episodes=max(trajs) if trajs else meta.model.trajs,
        target_return=meta.target_return if target_return is None else target_return,
        seed=meta.seed if seed is None else seed,
    )
    make_env = partial(envs.make, meta.env)
    for protocol in ("own", "none"):
        outcome = play(weights, meta, asked, make_env, chains, context=protocol == "own")
        append_rows(out / "results.jsonl", rows(outcome, protocol, meta, update, asked))
    if video:
        recorder = Recorder(meta.env, asked.episodes)
        shown = play(weights, meta, asked, recorder, 1, context=True)
        recorder.save(out / "rollout.gif", shown.returns[0], asked.target_return)
    return report(out, list(trajs) if trajs else None)


class Asked(NamedTuple):
    """What every chain of an evaluation plays."""

    episodes: int
    target_return: float
    seed: int
    """Of the initial states."""


def play(
    weights: "Weights",
    meta: "Meta",
    asked: Asked,
    make_env: Callable[[], gymnasium.Env],
    chains: int,
    context: bool,
) -> "Outcome":
    """Play chains, and say how fast; a single chain stays in this process, where a recorder can be looked into."""
    import jax
    import numpy as np

    from envs import rollout

    # An empty context is what a chain of one trajectory sees; its cache has no room for others.
    model = meta.model if context else replace(meta.model, trajs=1)
    make_policy = partial(
        make_cached_policy,
        jax.tree.map(np.asarray, weights),
        model,
        meta.scaling,
        meta.rules,
        meta.keep,
        envs.spec(meta.env).episode_length,
        asked.seed,
    )
    start = time.perf_counter()
    outcome = rollout.play(
        make_env,
        make_policy,
        chains=chains,
        processes=(os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1,
        context=context,
        **asked._asdict(),
    )
    seconds, steps = time.perf_counter() - start, int(outcome.lengths.sum())
    speed = f"{steps:,} steps in {seconds:.0f} s, {steps / seconds:,.0f} a second"
    print(f"played {chains} x {asked.episodes} episodes, {'own' if context else 'empty'} context: {speed}", flush=True)
    return outcome


def make_cached_policy(
    weights: "Weights",
    model: "ModelConfig",
    scaling: "Scaling",
    rules: "ChainRules",
    keep: int,
    episode_length: int,
    seed: int,
    chains: int,
) -> "CachedPolicy":
    """The policy, made in the process that plays it."""
    from agent.policy import CachedPolicy

    return CachedPolicy(
        weights, model, scaling, rules, keep=keep, episode_length=episode_length, chains=chains, seed=seed
    )


def rows(outcome: "Outcome", protocol: str, meta: "Meta", update: int, asked: Asked) -> list[dict[str, Any]]:
    """One row of results.jsonl per episode."""
    from envs.scores import normalised_score
    from launch.metrics import provenance

    shared: dict[str, Any] = {
        "env": meta.env,
        "dataset": meta.dataset,
        "dataset_hash": meta.dataset_hash,
        "seed": meta.seed,
        "initial_states": asked.seed,
        "method": "AT",
        "protocol": protocol,
        "trajs": meta.model.trajs,
        "target_return": asked.target_return,
        "update": update,
        **provenance(),
    }
    chains, episodes = outcome.returns.shape
    return [
        shared
        | {
            "chain": c,
            "episode": e + 1,
            "return": float(outcome.returns[c, e]),
            "score": normalised_score(meta.env, float(outcome.returns[c, e])),
            "length": int(outcome.lengths[c, e]),
        }
        for c, e in itertools.product(range(chains), range(episodes))
    ]


class Recorder:
    """Makes one environment that keeps frames of the first and the last episode it plays."""

    def __init__(self, env: str, episodes: int, every: int = 10) -> None:
        self._env, self._episodes, self._every = env, episodes, every
        self.frames: dict[int, list[Any]] = {}

    def __call__(self) -> gymnasium.Env:
        return _Recorded(envs.make(self._env, render_mode="rgb_array"), self)

    def wants(self, episode: int, timestep: int) -> bool:
        return episode in (0, self._episodes - 1) and timestep % self._every == 0

    def save(self, path: Path, returns: Sequence[float], target: float) -> None:
        """An animated GIF: first and last episode side by side, 4 times as fast as life."""
        import numpy as np
        from PIL import Image, ImageDraw

        pictures = []
        for pair in zip(*self.frames.values(), strict=True):
            picture = Image.fromarray(np.concatenate(pair, axis=1))
            draw = ImageDraw.Draw(picture)
            for i, episode in enumerate(self.frames):
                text = f"episode {episode + 1}: return {returns[episode]:.0f}, asked {target:.0f}"
                draw.text((i * pair[0].shape[1] + 6, 6), text, fill="white")
            pictures.append(picture.quantize(64))
        part = path.with_suffix(".part.gif")
        pictures[0].save(part, save_all=True, append_images=pictures[1:], duration=60, loop=0)
        part.replace(path)


class _Recorded(gymnasium.Wrapper):
    def __init__(self, env: gymnasium.Env, recorder: Recorder) -> None:
        super().__init__(env)
        self._recorder, self._episode, self._timestep = recorder, -1, 0

    def reset(self, **options: Any) -> Any:
        self._episode, self._timestep = self._episode + 1, 0
        return self.env.reset(**options)

    def step(self, action: Any) -> Any:
        if self._recorder.wants(self._episode, self._timestep):
            self._recorder.frames.setdefault(self._episode, []).append(self.env.render())
        self._timestep += 1
        return self.env.step(action)


def read_trajs(text: str) -> list[int] | None:
    """'1,4,32' -> [1, 4, 32]; '' -> None."""
    try:
        numbers = [int(part) for part in text.split(",")] if text else None
    except ValueError:
        numbers = [0]
    if numbers is not None and min(numbers) < 1:
        raise ValueError(f"--trajs: expected numbers of 1 or more between commas, such as 1,4,32, got {text!r}")
    return numbers


def main(_: list[str]) -> None:
    trajs, target = read_trajs(flags.FLAGS.trajs), flags.FLAGS.target_return
    from launch.checkpoint import Checkpoints

    out = Path(flags.FLAGS.checkpoint)
    if not out.is_dir():
        raise FileNotFoundError(f"--checkpoint: expected the folder of a run, as --out of train_offline, got {out}")
    checkpoints = Checkpoints(out)
    meta = checkpoints.meta()
    if flags.FLAGS.env and flags.FLAGS.env != meta.env:
        raise ValueError(f"--env: expected {meta.env}, which {out} was trained on, got {flags.FLAGS.env}")
    weights, update = checkpoints.weights()
    checkpoints.close()
    print(
        f"{out}: update {update} of {meta.env} on {meta.dataset}; playing {flags.FLAGS.chains} chains, "
        f"asking for {meta.target_return if target is None else target:.0f}"
    )
    table = evaluate(
        out,
        weights,
        meta,
        update,
        chains=flags.FLAGS.chains,
        trajs=trajs,
        target_return=target,
        seed=flags.FLAGS.seed,
        video=flags.FLAGS.video,
    )
    print(f"\n{table}\nreport   {out / 'report.html'}")


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "Folder of a run, --out of launch.train_offline.", required=True)
    flags.DEFINE_string("env", "", "Checked against what the checkpoint was trained on; empty accepts any.")
    flags.DEFINE_string(
        "trajs", "", "Chain lengths to report, such as 1,4,32; empty is 1, 2, 4, ... up to that of training."
    )
    flags.DEFINE_integer("chains", 8, "Chains played, each from its own initial states.", lower_bound=1)
    flags.DEFINE_float("target_return", None, "Return asked for; by default the best in the training data.")
    flags.DEFINE_integer("seed", None, "Seed of the initial states; by default that of training.", lower_bound=0)
    flags.DEFINE_boolean("video", False, "Also draw the first and last episode of a chain (needs EGL or OSMesa).")
    program.run(main)
