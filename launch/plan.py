"""What a run is: its flags as frozen dataclasses, filled by hand, by a preset, or by the run that goes on."""

import dataclasses
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

import envs
from agent.config import BASELINES, ModelConfig, OptimizerConfig, number
from data.chain import ChainRules
from data.segments import SegmentRules
from envs.family import find as find_family
from launch import config_flags

METHOD_NAMES = {"at": "AT", "dt": "DT", "bc": "BC", "bc10": "BC-10%", "rvs": "RvS", "random": "random"}
"""What --method may be, as papers write it."""

PROTOCOLS = {
    "own": "a chain's own earlier episodes in its context",
    "ranked": "the best of a chain's own earlier episodes in its context, in order of return",
    "none": "an empty context before every episode",
    "best": "the data's best trajectories in the context before every episode",
    "worst": "the data's worst trajectories in the context before every episode",
}
"""What is in the context of the episodes that are played."""


@dataclass(frozen=True)
class RunConfig:
    """What to train on, how batches are cut from it, and where it goes."""

    env: str = number("walker_run", f"Environment: {envs.families()}.")
    dataset: str = number(
        "",
        "Data set: a folder of the environment's domain under --data_dir (td3, or exorl/rnd for what ExoRL released), "
        "d4rl, or minari/<id>; empty takes what is there, td3 first, and of a D4RL environment its own file.",
    )
    data_dir: str = number(
        "datasets", "Where data sets lie: <data_dir>/<domain>/<dataset>/buffer/*.npz, or D4RL's files in it."
    )
    max_steps: int = number(
        0, "Take the first episodes that together have no more steps, such as ExoRL's first 1000000; 0 is all."
    )
    episodes: int = number(100, "Episodes to collect when there is no data set.")
    keep: int = number(
        0,
        "Steps of each past trajectory that stay in the context, evenly spread over it, in training and in "
        "rollouts; 0 is all of them.",
    )
    crop: int = number(
        0, "Steps in a row of the current, last trajectory that a training chain shows; 0 is all of them."
    )
    rows: int = number(1, "Rows in a batch; a row holds as many whole chains as fit beside one of the longest.")
    short_updates: int = number(
        0, "First updates, on short windows of single trajectories: many cheap updates before long chains."
    )
    short_crop: int = number(32, "Steps of such a window; a batch has about as many steps as the long ones.")
    heldout: float = number(0.05, "Share of trajectories kept out of training, to measure the action error on.")
    seed: int = number(0, "Seed of everything: split, batches, weights, dropout, initial states.")
    out: str = number("", "Folder of the run; empty takes the next free runs/<env>-<number>.")
    chains: int = number(
        8, "Chains of --trajs episodes played in an evaluation; of a family, initial states of each held-out task."
    )
    prompt: str = number(
        "own,none",
        "What is in the context of the episodes that are played, own and none among them: "
        + "; ".join(f"{name}: {words}" for name, words in PROTOCOLS.items())
        + ".",
    )
    eval_every: int = number(0, "Updates between evaluations in simulation; 0 evaluates at the end only.")
    save_every: int = number(100, "Updates between checkpoints.")
    log_every: int = number(20, "Updates between lines of metrics.csv.")
    wandb: bool = number(False, "Also log to Weights & Biases (pip install 'agentic-bpt[wandb]').")

    def __post_init__(self) -> None:
        if not 0 <= self.heldout < 1:
            raise ValueError(f"--heldout: expected a share of at least 0 and below 1, got {self.heldout}")
        for name in ("episodes", "rows", "short_crop", "chains", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name}: expected 1 or more, got {getattr(self, name)}")
        for name in ("keep", "crop", "short_updates", "eval_every", "seed", "max_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name}: expected 0 or more, got {getattr(self, name)}")
        if not {"own", "none"} <= set(self.protocols) <= set(PROTOCOLS):
            raise ValueError(f"--prompt: expected own, none and any of {', '.join(PROTOCOLS)}, got {self.prompt!r}")

    @property
    def protocols(self) -> list[str]:
        """What is in the context of the episodes that are played."""
        return self.prompt.split(",")


CONFIGS = (RunConfig, ModelConfig, OptimizerConfig, ChainRules, SegmentRules)
DEFAULTS = {field.name: field.default for config in CONFIGS for field in dataclasses.fields(config)}
"""Of every flag of train_offline."""
WATCHING = ("out", "data_dir", "chains", "prompt", "eval_every", "save_every", "log_every", "wandb", "episodes")
"""Flags that may differ when a run goes on: they do not touch what is learned."""


class Plan(NamedTuple):
    """The configurations of a run."""

    run: RunConfig
    model: ModelConfig
    optimizer: OptimizerConfig
    rules: ChainRules
    segments: SegmentRules = SegmentRules()
    """Read where the environment is a family of tasks."""

    def flags(self) -> dict[str, Any]:
        """Every flag and its value."""
        return config_flags.as_dict(*self)

    def check(self) -> None:
        """Raise ValueError where numbers of different configurations do not fit together."""
        if find_family(self.run.env) and len(self.run.protocols) > 2:
            raise ValueError(
                f"--prompt: expected own,none: {self.run.env} has protocols of its own, got {self.run.prompt}"
            )
        if "ranked" in self.run.protocols and not self.run.keep and self.model.context > 1:
            raise ValueError("--prompt: expected no ranked where whole trajectories are kept (--keep=0), got ranked")
        if self.run.short_updates >= self.optimizer.updates:
            raise ValueError(
                f"--short_updates: expected fewer than --updates {self.optimizer.updates}, got {self.run.short_updates}"
            )
        if self.run.rows % self.optimizer.accumulate:
            raise ValueError(
                f"--accumulate: expected a divisor of --rows {self.run.rows}, got {self.optimizer.accumulate}"
            )
        if find_family(self.run.env):
            self._check_family()

    def _check_family(self) -> None:
        """Chains of segments are of one shape, and read by one kind of model."""
        for name, expected, got in (
            ("method", "at", self.model.method),
            ("tokens", "fused", self.model.tokens),
            ("short_updates", 0, self.run.short_updates),
            *((name, self.segments.segment, getattr(self.run, name)) for name in ("keep", "crop")),
            ("window", self.segments.segment, self.model.window),
            *((name, DEFAULTS[name], self.flags()[name]) for name in ("draw", "completion", "pack")),
        ):
            if got != expected:
                raise ValueError(f"--{name}: expected {expected} for a family of tasks, got {got}")
        length = envs.spec(self.run.env).episode_length
        if self.segments.needed > length:
            raise ValueError(
                f"--horizon: expected at most {length + 1 - self.segments.segment}, so that a segment and what is "
                f"earned behind it fit into an episode of {length} steps, got {self.segments.horizon}"
            )


def read_flags() -> tuple[Plan, bool, str]:
    """-> the plan, whether to resume, and the preset that filled what was not typed."""
    import jax

    typed = config_flags.typed()
    if flags.FLAGS.device and not flags.FLAGS.forecast:
        raise ValueError("--device: expected --forecast with it, for which it is; runs take the device that JAX finds")
    resume, preset = flags.FLAGS.resume, flags.FLAGS.preset
    if resume:
        if not flags.FLAGS.out:
            flags.FLAGS["out"].value = latest_out(flags.FLAGS.env)
        out = Path(flags.FLAGS.out)
        stored = read_stored(out)
        if flags.FLAGS.trajs == config_flags.AUTO:  # what it came to is stored
            typed -= {"trajs"}
        if not stored["dataset"] and flags.FLAGS.dataset == began_with(out):  # what was chosen is in dataset.json
            typed -= {"dataset"}
        said = config_flags.read_preset(preset) if preset not in ("auto", "none") else {}
        for name in ("loss", "short_updates"):  # they depend on the data, and on --updates
            said.pop(name, None)
        config_flags.fill(said, typed)
        names = [name for name in stored if name not in WATCHING and name in typed | said.keys()]
        wanted = {name: flags.FLAGS[name].value for name in stored}
        if different := config_flags.changed(stored, wanted, names):
            raise ValueError("; ".join(different) + "; a run goes on as it began, or starts anew in another --out")
        config_flags.fill({k: str(v) for k, v in stored.items() if k != "out"}, typed)
    elif preset != "none":
        if preset == "auto":
            backend = "accelerator" if flags.FLAGS.device else jax.default_backend()
            preset = auto_preset(flags.FLAGS.env, flags.FLAGS.method, backend)
        fill_preset(preset, typed)
    if flags.FLAGS.trajs == config_flags.AUTO:
        choose_trajs()
    plan = read_plan()
    plan.check()
    return plan, resume, "the stored run" if resume else preset


def auto_preset(env: str, method: str, backend: str) -> str:
    """The preset that --preset auto stands for."""
    if find_family(env):
        return "family"
    if method == "random":
        return "random"
    if method in BASELINES:
        return "baseline"
    return "cpu" if backend == "cpu" else "accelerator"


def fill_preset(preset: str, typed: set[str]) -> None:
    """Set every flag that was not typed to what a preset says, and what depends on the environment and the data."""
    said = config_flags.read_preset(preset)
    config_flags.fill(said, typed)
    if "updates" in typed and "short_updates" in said:  # the share stays
        short = max(0, flags.FLAGS.updates) * int(said["short_updates"]) // int(said["updates"])
        config_flags.fill({"short_updates": str(short)}, typed)
    if find_family(flags.FLAGS.env):
        config_flags.fill(dict.fromkeys(("keep", "crop", "window"), str(flags.FLAGS.segment)), typed)
    elif flags.FLAGS.method == "at" and _explored():
        config_flags.fill({"loss": "last"}, typed)


def _explored() -> bool:
    """Whether the data are of reward-free exploration, of which the loss on all trajectories learns less."""
    from data import catalog

    name = catalog.choose(envs.spec(flags.FLAGS.env), flags.FLAGS.dataset, Path(flags.FLAGS.data_dir))
    return name is not None and catalog.is_reward_free(name)


def read_plan() -> Plan:
    """The flags as they now stand."""
    return Plan(
        config_flags.read(RunConfig),
        config_flags.read(ModelConfig),
        config_flags.read(OptimizerConfig),
        config_flags.read(ChainRules),
        config_flags.read(SegmentRules),
    )


def choose_trajs() -> None:
    """--trajs auto: as many as the data have to train on and this machine's memory has room for."""
    from data import catalog
    from data.sampler import train_count
    from launch import forecast

    if find_family(flags.FLAGS.env):
        raise ValueError("--trajs: expected a number in a family of tasks, whose chains are of segments, got auto")
    flags.FLAGS["trajs"].value = 1
    plan = read_plan()
    run, size = plan.run, envs.spec(plan.run.env)
    name = catalog.choose(size, run.dataset, Path(run.data_dir))
    found = collection(run, name).get("episodes", 0)
    if name and not found:
        found = catalog.episodes(size, name, Path(run.data_dir), run.max_steps)
    most = train_count(found or run.episodes, run.heldout)
    trajs = forecast.largest_trajs(plan, size, most)
    print(f"--trajs auto: {trajs}, of {most} trajectories to train on", flush=True)
    flags.FLAGS["trajs"].value = trajs


def collection(run: RunConfig, name: str | None) -> dict[str, Any]:
    """What was begun for the environment of a run that names no data set, and the run will collect to its end.

    name: of the data set that is there; None where none has an episode yet. Empty where nothing was begun.
    """
    from data import catalog

    size = envs.spec(run.env)
    if run.dataset or size.simulator != "dm_control":
        return {}
    agent = catalog.COLLECTED[0]
    begun = catalog.unfinished(Path(run.data_dir) / size.domain / (name or agent))
    return begun if begun.items() >= {"env": size.name, "agent": agent}.items() else {}


def open_out(plan: Plan, resume: bool) -> Path:
    """The folder of the run, made. Raises FileExistsError when it holds another run."""
    out = Path(plan.run.out) if plan.run.out else next_out(plan.run.env)
    if (out / "config.json").exists() and not resume:
        raise FileExistsError(f"--out: {out} holds a run already; add --resume to go on, or choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise PermissionError(f"--out: {out} cannot be written to; choose another folder")
    return out


def next_out(env: str) -> Path:
    """The next free runs/<env>-<number>, made, so that no other run takes it."""
    taken = Path("runs").glob(f"{env}-*")
    numbers = [int(p.name.rpartition("-")[2]) for p in taken if p.name.rpartition("-")[2].isdigit()]
    out = Path("runs") / f"{env}-{max(numbers, default=0) + 1}"
    try:
        out.mkdir(parents=True)
    except FileExistsError:  # just now
        return next_out(env)
    return out


def latest_out(env: str) -> str:
    """The newest runs/<env>-<number>."""
    runs = sorted(Path("runs").glob(f"{env}-*/config.json"), key=lambda p: p.stat().st_mtime)
    if not runs:
        raise FileNotFoundError(f"--resume: no run of {env} under runs/; name its folder with --out")
    return str(runs[-1].parent)


def command_again(stored: Mapping[str, Any], dataset: str) -> str:
    """A command that makes a run with these flags from nothing, however often the stored one was resumed.

    dataset: that the run had. It is named where the command alone would take or collect another.
    """
    family = find_family(stored["env"])
    if dataset not in ("td3", "d4rl", family and family.dataset):
        stored = {**stored, "dataset": dataset}
    names = [name for name, default in DEFAULTS.items() if stored.get(name, default) != default]
    given = [f"--{name}={stored[name]}" for name in names if name not in ("env", "out")]
    return shlex.join(["python", "-m", "launch.train_offline", f"--env={stored['env']}", "--preset=none", *given])


def began_with(out: Path) -> str:
    """The data set that the run in a folder began with; empty where none has begun."""
    path = out / "dataset.json"
    return json.loads(path.read_text())["card"]["dataset"] if path.is_file() else ""


def read_stored(out: Path) -> dict[str, Any]:
    """The flags of a stored run."""
    path = out / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"--resume: {path} is missing: nothing has been trained in {out} yet; give the command without --resume, "
            "which also goes on with data that are half collected"
        )
    return json.loads(path.read_text())
