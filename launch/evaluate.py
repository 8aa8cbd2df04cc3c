"""Play a checkpoint in simulation: python -m launch.evaluate --checkpoint runs/walker_run-1 --trajs 1,4,32

Every chain plays episodes one after another in one context. Beside it, as control, the same weights play the same
initial states with an empty context. All numbers go to results.jsonl, tables and plots to report.html.
"""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium
from absl import flags

import envs
from envs.family import find as find_family
from launch import program, workers
from launch.plan import METHOD_NAMES, PROTOCOLS

if TYPE_CHECKING:
    from agent.config import ModelConfig
    from agent.network import Weights
    from data.chain import ChainRules
    from data.scaling import Scaling
    from data.trajectory import Trajectory
    from envs.rollout import MakePolicy, Outcome, Policy
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
    protocols: Sequence[str] = ("own", "none"),
    data: "Sequence[Trajectory]" = (),
) -> str:
    """Play, append one row per episode to out/results.jsonl, redraw the report -> its table.

    Args:
      trajs: chain lengths to report; the longest is played, the shorter are its beginnings. None: 1, 2, 4, ... up to
        the length of the training chains.
      target_return: what is asked for, None the best in the training data; of a family of tasks, what is good there.
      protocols: of PROTOCOLS; a method without a context has only an empty one.
      data: what prompts are taken from.
    """
    if find_family(meta.env):
        from launch import family_evaluation

        if trajs:
            raise ValueError("--trajs: expected none in a family of tasks, whose evaluation is one")
        ask = None if target_return is None else target_return / envs.spec(meta.env).episode_length
        evaluate_family = partial(family_evaluation.evaluate, starts=chains, seed=seed, ask=ask, video=video)
        return evaluate_family(out, weights, meta, update)
    from data.catalog import differences
    from launch.metrics import append_rows, provenance
    from launch.report import report

    if differing := differences(meta.made_with, provenance()["versions"]):
        print(f"warning: the data were made with {'; '.join(differing)}: returns may differ from theirs", flush=True)
    asked = Asked(
        episodes=max(trajs) if trajs else meta.model.trajs,
        target_return=meta.target_return if target_return is None else target_return,
        seed=meta.seed if seed is None else seed,
    )
    make_env = partial(envs.make, meta.env)
    for protocol in protocols if meta.model.context > 1 else ("none",):
        outcome = play(weights, meta, asked, make_env, chains, protocol, prompt_of(protocol, data, meta.model.context))
        append_rows(out / "results.jsonl", rows(outcome, protocol, meta, update, asked))
    if video:
        film(out / "rollout.gif", weights, meta, update, asked)
    return report(out, list(trajs) if trajs else None)


def film(path: Path, weights: "Weights", meta: "Meta", update: int, asked: "Asked") -> None:
    """Play one more chain, from the initial states of the first, and draw its first and last episode.

    Its returns are near the first's, not the same: what is played at once is multiplied in another order.
    """
    from launch.video import Recorder

    recorder = Recorder(meta.env, asked.episodes)
    play(weights, meta, asked, lambda: recorder, 1, "own")
    where = "in one context" if meta.model.context > 1 else "without a context"
    words = f"{meta.env}, update {update}, one more chain of {asked.episodes} episodes {where}"
    recorder.save(path, asked.target_return, words)


def prompt_of(protocol: str, data: "Sequence[Trajectory]", context: int) -> "list[Trajectory]":
    """The trajectories that are in the context before every episode: as many as leave room for it, if there are."""
    if protocol not in ("best", "worst"):
        return []
    ranked = sorted(data, key=lambda trajectory: trajectory.total, reverse=protocol == "best")
    return ranked[: context - 1]


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
    protocol: str,
    prompt: "Sequence[Trajectory]" = (),
) -> "Outcome":
    """Play chains, and say how fast; a single chain stays in this process, where a recorder can be looked into."""
    from envs import rollout

    start = time.perf_counter()
    outcome = rollout.play(
        make_env,
        make_policy(weights, meta, protocol, asked.seed, prompt),
        chains=chains,
        processes=workers.count(),
        context=protocol in ("own", "ranked"),
        label=PROTOCOLS[protocol],
        **asked._asdict(),
    )
    seconds, steps = time.perf_counter() - start, int(outcome.lengths.sum())
    speed = f"{steps:,} steps in {seconds:.0f} s, {steps / seconds:,.0f} a second"
    print(f"played {chains} x {asked.episodes} episodes, {PROTOCOLS[protocol]}: {speed}", flush=True)
    return outcome


def model_to_play(model: "ModelConfig", protocol: str, backend: str) -> "ModelConfig":
    """How a model is played, which changes none of its weights.

    An empty context is what a chain of one trajectory sees; its cache has no room for others. A CPU computes in float32
    where bfloat16 was trained in: steps of 16 chains behind 300 steps of an episode took 38 ms instead of 218.
    """
    if protocol == "none":
        model = replace(model, trajs=1)
    return replace(model, dtype="float32") if backend == "cpu" else model


def load_policy(folder: Path | str, chains: int = 1, seed: int = 0) -> "tuple[Policy, Meta]":
    """The policy of a run's newest checkpoint, for chains that play side by side, and what the checkpoint says.

    `envs.rollout.Policy` says how it is asked; its own earlier episodes stay in the context until its `reset`.

    Args:
      seed: of which steps of a past episode are kept.

    Raises FileNotFoundError without a checkpoint, ValueError for a family of tasks, which are played by segments.
    """
    from launch.checkpoint import Checkpoints

    if not (Path(folder) / "checkpoints").is_dir():
        raise FileNotFoundError(f"{folder}: expected the folder of a run, as --out of launch.train_offline")
    checkpoints = Checkpoints(Path(folder))
    (weights, _), meta = checkpoints.weights(), checkpoints.meta()
    checkpoints.close()
    if find_family(meta.env):
        raise ValueError(f"{folder}: expected a run on one task, got {meta.env}, a family of them")
    return make_policy(weights, meta, "own", seed)(range(chains)), meta


def make_policy(
    weights: "Weights", meta: "Meta", protocol: str, seed: int, prompt: "Sequence[Trajectory]" = ()
) -> "MakePolicy":
    """What makes the policy of numbered chains, in any process."""
    import jax
    import numpy as np

    return partial(
        policy_of,
        jax.tree.map(np.asarray, weights),
        model_to_play(meta.model, protocol, jax.default_backend()),
        meta.scaling,
        meta.rules,
        meta.keep,
        envs.spec(meta.env).episode_length,
        seed,
        prompt,
        protocol == "ranked",
    )


def policy_of(
    weights: "Weights",
    model: "ModelConfig",
    scaling: "Scaling",
    rules: "ChainRules",
    keep: int,
    episode_length: int,
    seed: int,
    prompt: "Sequence[Trajectory]",
    ranked: bool,
    chains: "Sequence[int]",
) -> "Policy":
    """The policy of numbered chains, made in the process that plays them."""
    from agent.baselines import Perceptron, PerceptronPolicy, RandomPolicy
    from agent.policy import CachedPolicy

    if isinstance(weights, Perceptron):
        if model.method == "random":
            return RandomPolicy(weights.biases[-1].size, chains=len(chains), seed=seed)
        return PerceptronPolicy(weights, model, scaling, chains=len(chains))
    return CachedPolicy(
        weights,
        model,
        scaling,
        rules,
        keep=keep,
        episode_length=episode_length,
        chains=chains,
        seed=seed,
        prompt=prompt,
        ranked=ranked,
    )


def rows(outcome: "Outcome", protocol: str, meta: "Meta", update: int, asked: Asked) -> list[dict[str, Any]]:
    """One row of results.jsonl per episode."""
    import jax

    from envs.scores import normalised_score
    from launch.metrics import provenance

    backend = jax.default_backend()
    shared: dict[str, Any] = {
        "env": meta.env,
        "env_id": envs.env_id(meta.env),
        "dataset": meta.dataset,
        "dataset_hash": meta.dataset_hash,
        "seed": meta.seed,
        "initial_states": asked.seed,
        "method": METHOD_NAMES[meta.model.method],
        "protocol": protocol,
        "trajs": meta.model.trajs,
        "target_return": asked.target_return,
        "update": update,
        "backend": backend,
        "dtype": model_to_play(meta.model, protocol, backend).dtype,
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


def read_trajs(text: str) -> list[int] | None:
    """'1,4,32' -> [1, 4, 32]; '' -> None."""
    try:
        numbers = [int(part) for part in text.split(",")] if text else None
    except ValueError:
        numbers = [0]
    if numbers is not None and min(numbers) < 1:
        raise ValueError(f"--trajs: expected numbers of 1 or more between commas, such as 1,4,32, got {text!r}")
    return numbers and sorted(set(numbers))


def needs_data(meta: "Meta", protocols: Sequence[str]) -> bool:
    """Whether prompts are to be taken from the data; a family of tasks takes its own."""
    return bool({"best", "worst"} & set(protocols)) and meta.model.context > 1 and find_family(meta.env) is None


def prompts(
    out: Path, meta: "Meta", protocols: Sequence[str], typed: bool
) -> "tuple[Sequence[Trajectory], Sequence[str]]":
    """What prompts are taken from, and the protocols to play: those that need no data where they are absent, unless
    typed. Raises ValueError where they are damaged or others.
    """
    if not needs_data(meta, protocols):
        return (), protocols
    try:
        return data_of(out, meta), protocols
    except (FileNotFoundError, ModuleNotFoundError) as error:
        if typed:
            raise
        left = [name for name in protocols if name not in ("best", "worst")]
        print(f"note: {error}; so the data's best and worst are not played in the context", flush=True)
        return (), left


def data_of(out: Path, meta: "Meta") -> "list[Trajectory]":
    """The data that a run was trained on, from where they lay. Raises ValueError when others lie there."""
    import json

    from data import catalog

    config = json.loads((out / "config.json").read_text())
    size, data_dir = envs.spec(meta.env), Path(config["data_dir"])
    dataset = catalog.load(
        size,
        meta.dataset,
        data_dir,
        reward_fn=envs.reward_fn(meta.env),
        workers=workers.cores(),
        max_steps=config.get("max_steps", 0),
    )
    if dataset.card.sha256 != meta.dataset_hash:
        raise ValueError(
            f"{dataset.card.path}: expected the data that {out} was trained on ({meta.dataset_hash[:12]}), got "
            f"{dataset.card.sha256[:12]}; put them back, or play --prompt own,none"
        )
    return dataset.trajectories


def main(_: list[str]) -> None:
    trajs, target = read_trajs(flags.FLAGS.trajs), flags.FLAGS.target_return
    protocols = flags.FLAGS.prompt
    if unknown := [name for name in protocols if name not in PROTOCOLS]:
        raise ValueError(f"--prompt: expected some of {', '.join(PROTOCOLS)}, got {', '.join(unknown)}")
    if target is not None and not math.isfinite(target):
        raise ValueError(f"--target_return: expected a finite number, got {target}")
    from launch.checkpoint import Checkpoints

    out = Path(flags.FLAGS.checkpoint)
    if not (out / "checkpoints").is_dir():
        raise FileNotFoundError(f"--checkpoint: expected the folder of a run, as --out of train_offline, got {out}")
    checkpoints = Checkpoints(out)
    meta = checkpoints.meta()
    checkpoints.close()
    if flags.FLAGS.env and flags.FLAGS.env != meta.env:
        raise ValueError(f"--env: expected {meta.env}, which {out} was trained on, got {flags.FLAGS.env}")
    if "ranked" in protocols and not meta.keep and meta.model.context > 1:
        raise ValueError(
            f"--prompt: expected no ranked of {out}, which keeps whole trajectories (--keep=0), got ranked"
        )
    family = find_family(meta.env)
    if family and flags.FLAGS["prompt"].present:
        raise ValueError(
            f"--prompt: expected none of a family of tasks, which has protocols of its own, got {protocols}"
        )
    if meta.model.context == 1 and flags.FLAGS["prompt"].present and set(protocols) != {"none"}:
        raise ValueError(f"--prompt: expected none: {out} has no context, got {', '.join(protocols)}")
    if flags.FLAGS.video:
        from launch.video import check_drawing

        check_drawing(meta.env)
    # A family stores the rate that is asked for: the mean reward of the next steps.
    default = meta.target_return * (envs.spec(meta.env).episode_length if family else 1)
    with program.alone(out):
        checkpoints = Checkpoints(out)  # anew: what was waited for may have gone on training
        weights, update = checkpoints.weights()
        checkpoints.close()
        print(
            f"{out}: update {update} of {meta.env} on {meta.dataset}; playing {flags.FLAGS.chains} chains, "
            f"asking for {default if target is None else target:.0f}"
        )
        data, protocols = prompts(out, meta, protocols, typed=bool(flags.FLAGS["prompt"].present))
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
            protocols=protocols,
            data=data,
        )
    print(f"\n{table}\nreport   {out / 'report.html'}")


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "Folder of a run, --out of launch.train_offline.", required=True)
    flags.DEFINE_string("env", "", "Checked against what the checkpoint was trained on; empty accepts any.")
    flags.DEFINE_string(
        "trajs", "", "Chain lengths to report, such as 1,4,32; empty is 1, 2, 4, ... up to that of training."
    )
    flags.DEFINE_integer("chains", 8, "Chains played, each from its own initial states.", lower_bound=1)
    flags.DEFINE_float(
        "target_return", None, "Return of an episode asked for; by default the best in the training data."
    )
    flags.DEFINE_integer("seed", None, "Seed of the initial states; by default that of training.", lower_bound=0)
    flags.DEFINE_list(
        "prompt",
        "own,none,best,worst",
        "What is in the context: " + "; ".join(f"{name}: {words}" for name, words in PROTOCOLS.items()) + ".",
    )
    flags.DEFINE_boolean("video", False, "Also draw the first and last episode of a chain (needs EGL or OSMesa).")
    program.run(main)
