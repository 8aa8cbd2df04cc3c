"""Play a policy that learned a family of tasks on the held-out ones, and report: called by launch.evaluate."""

import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import envs
from data.sampler import split
from data.segments import Episodes, Featured
from launch import families, family_rows
from launch.actors import Brain, Experienced
from launch.families import Lanes
from launch.metrics import provenance, write_atomically

if TYPE_CHECKING:
    from launch.checkpoint import Meta


def evaluate(
    out: Path,
    weights: Any,
    meta: "Meta",
    update: int,
    *,
    starts: int,
    seed: int | None = None,
    ask: float | None = None,
    video: bool = False,
) -> str:
    """Play every held-out task from `starts` initial states by every protocol -> the table, which is also written.

    Leaves <out>/tasks.jsonl, a row for every episode ever evaluated, rollout.gif, and the report of this evaluation
    (launch/family_report.py). Raises ValueError when the data are no longer those of training.

    Args:
      seed: of initial states and prompts; None is that of training.
      ask: the rate asked for; None is what training found to be good.
      video: whether to play a task for a rollout.gif, too.
    """
    import jax

    from launch.family_report import report

    brain = families.brain_of(meta, jax.tree.map(np.asarray, weights))
    brain = brain._replace(ask=brain.ask if ask is None else ask)
    family, seed = brain.family, meta.seed if seed is None else seed
    config = json.loads((out / "config.json").read_text())
    data = families.load(family, meta.dataset, Path(config["data_dir"]), config["max_steps"])
    if data.card.sha256 != meta.dataset_hash:
        raise ValueError(
            f"{data.card.path}: expected the data that {out} was trained on ({meta.dataset_hash[:12]}), got "
            f"{data.card.sha256[:12]}; put them back"
        )
    chosen, _ = split(data.trajectories, config["heldout"], meta.seed)  # type: ignore[arg-type]
    train = [data.trajectories[i] for i in chosen]
    lanes = Lanes.of(family, starts, seed)
    told, untold = (control(out / f"control_{word}.npz", brain, train, meta.seed, word == "told") for word in CONTROLS)
    episodes = Episodes(train, meta.segments)
    found = []
    for result in families.results(brain, told, untold, episodes, lanes, seed):
        found.append(result)
        words = f"{family_rows.PROTOCOL_NAMES[result.name]}, {result.segments} segments"
        print(f"played {words}: return {result.returns.mean():.0f}", flush=True)
    shared = {
        "env": meta.env,
        "dataset": meta.dataset,
        "dataset_hash": meta.dataset_hash,
        "seed": meta.seed,
        "initial_states": seed,
        "update": update,
        "segment": meta.segments.segment,
        "show_rewards": meta.segments.show_rewards,
        "sort": meta.rules.sort,
        "ask": brain.ask,
        **provenance(),
    }
    family_rows.append(out / "tasks.jsonl", family_rows.episode_rows(found, lanes, shared))
    if video:
        own = next(result.returns for result in found if result.name == "own")
        lane = int(np.argsort(own[:, -1] - own[:, 0])[len(own) // 2])
        film(out / "rollout.gif", brain, lanes, lane, seed, update)
    return report(out, family)


def film(path: Path, brain: Brain, lanes: Lanes, lane: int, seed: int, update: int) -> None:
    """Play the own episodes of a lane once more, the same, and draw the first and the last."""
    from launch.video import Recorder

    family, task, count = brain.family, lanes.tasks[lane], families.OWN_EPISODES
    recorder = Recorder(family.name, count, {"task": task})
    actor = Experienced(brain, task[None], brain.model.trajs, [(seed, lane)])
    for _ in range(count):
        actor.begin()
        observation, _ = recorder.reset(seed=int(lanes.seeds[lane]))
        ended = False
        while not ended:
            observation, reward, _, ended, _ = recorder.step(actor.act(observation[None])[0])
            actor.observe(np.array([reward], np.float32))
    recorder.close()
    asked = ", ".join(f"{axis.name} {value:g} {axis.unit}" for axis, value in zip(family.axes, task, strict=True))
    words = (
        f"{family.name}, update {update}, {count} own episodes of the held-out task {asked}, nothing in context before "
        "the first; of all that were played those with the median gain from the first to the last"
    )
    recorder.save(path, brain.ask * envs.spec(family.name).episode_length, words)


CONTROLS = ("told", "not_told")


def control(path: Path, brain: Brain, train: list[Featured], seed: int, tell: bool) -> Any:
    """The perceptron beside a run, trained when it is first asked for. Raises ValueError for a file that is none."""
    from agent.baselines import Perceptron

    if not path.exists():
        print(f"training the perceptron that is {'told' if tell else 'not told'} the task", flush=True)
        made = families.perceptron(brain, train, tell, seed)
        file = io.BytesIO()
        arrays = {f"{name}_{i}": leaf for name in Perceptron._fields for i, leaf in enumerate(getattr(made, name))}
        np.savez(file, **arrays)
        write_atomically(path, file.getvalue())
    try:
        with np.load(path, allow_pickle=False) as archive:
            layers = range(len(archive.files) // len(Perceptron._fields))
            return Perceptron(*(tuple(archive[f"{name}_{i}"] for i in layers) for name in Perceptron._fields))
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); remove it, and it is trained again") from error
