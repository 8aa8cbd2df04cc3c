"""Train a policy on whole trajectories, then play it and report.

python -m launch.train_offline --env walker_run --trajs 32

Without a data set on disk one is collected first. On a CPU the preset `cpu` makes contexts short enough to train in
minutes; on an accelerator the preset `accelerator` keeps every step of every trajectory, as the papers do.
"""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

import envs
from agent.config import BASELINES
from envs.family import find as find_family
from launch import config_flags, devices, program, workers
from launch.metrics import Metrics, require_wandb, write_atomically
from launch.plan import CONFIGS, Plan, began_with, collection, open_out, read_flags
from launch.training import Training

# JAX, orbax and MuJoCo load in the functions that use them: --help and mistakes answer at once.


def main(_: list[str]) -> None:
    plan, resume, preset = read_flags()
    size = envs.spec(plan.run.env)
    if flags.FLAGS.forecast:
        print_forecast(plan, preset, size)
        return
    check_here(plan)
    out = open_out(plan, resume)
    with program.alone(out, wait=False), program.kept_if_used(out):
        learn(plan, preset, size, out)


def check_here(plan: Plan) -> None:
    """Raise, before any long work, where this machine lacks what a run asks for."""
    from agent import transformer

    if plan.run.wandb:
        require_wandb()
    if plan.model.method not in BASELINES:
        transformer.kernel(plan.model)


def learn(plan: Plan, preset: str, size: envs.Spec, out: Path) -> None:
    """Load the data, train on them, and report; out of memory, say what would help."""
    rows = "tasks.jsonl" if find_family(size.name) else "results.jsonl"
    print(f"writes   {out}: checkpoints, metrics.csv, tensorboard, {rows}, report.html", flush=True)
    dataset = load_dataset(plan, size, out)
    print(data_text(dataset.card), flush=True)
    try:
        go(plan, preset, size, dataset, out)
    except (MemoryError, RuntimeError) as error:
        from launch import forecast

        if not forecast.out_of_memory(error):
            raise
        raise forecast.explained(error, plan, size) from error


def print_forecast(plan: Plan, preset: str, size: envs.Spec) -> None:
    """--forecast: what an update would take, here or on --device, and nothing else."""
    from launch import forecast

    if plan.model.method in BASELINES:
        raise ValueError(
            f"--forecast: expected --method at or dt, got {plan.model.method}, which needs next to nothing"
        )
    device = devices.find(flags.FLAGS.device) if flags.FLAGS.device else None
    made = forecast.forecast(plan, size, device)
    print(f"preset   {preset}\n{forecast.table(made)}")
    if sum(made.memory.values()) > made.available:
        print("what would help, by the formula:\n  " + "\n  ".join(forecast.savings(plan, size)))


def go(plan: Plan, preset: str, size: envs.Spec, dataset: Any, out: Path) -> None:
    """Train on a data set that is there, and report."""
    print("compile  the updates, and time them", flush=True)
    training = Training(plan, size, dataset, out)
    write_atomically(out / "config.json", json.dumps(plan.flags(), indent=2))
    returns = [trajectory.total for trajectory in dataset.trajectories]
    write_atomically(out / "dataset.json", json.dumps({"card": dataset.card._asdict(), "returns": returns}))
    print(banner(plan, preset, training), flush=True)
    train(plan, training, out)


def load_dataset(plan: Plan, size: envs.Spec, out: Path) -> Any:
    """The data set named, or the one that the run in `out` began with, or the one there is, or one collected now."""
    from data import catalog
    from data.sampler import train_count

    if family := find_family(size.name):
        from launch import families

        return families.dataset(family, plan)
    data_dir = Path(plan.run.data_dir)
    name = catalog.choose(size, plan.run.dataset or began_with(out), data_dir)
    collects = size.simulator == "dm_control" and not plan.run.dataset
    begun = collection(plan.run, name)
    if collects and (name is None or begun):
        name, episodes, seed = "td3", begun.get("episodes", plan.run.episodes), begun.get("seed", plan.run.seed)
        if train_count(episodes, plan.run.heldout) < plan.model.context:
            raise ValueError(
                f"--episodes: expected enough to train on chains of --trajs {plan.model.context} with --heldout "
                f"{plan.run.heldout}, got {episodes}"
            )
        print(
            f"No whole data set of {size.domain} under {data_dir}: collecting {episodes} episodes of "
            f"{size.name} with a td3 agent into {data_dir / size.domain / name}.",
            flush=True,
        )
        from launch.collect import collect

        collect(size.name, "td3", episodes, seed, data_dir, name)
    if name is None:
        raise ValueError(f"--dataset: expected one for {size.name}, such as minari/<id>; launch.datasets lists them")
    return catalog.load(
        size,
        name,
        data_dir,
        reward_fn=envs.reward_fn(size.name),
        workers=workers.cores(),
        max_steps=plan.run.max_steps,
    )


def data_text(card: Any) -> str:
    """What is learned from, in lines."""
    lines = [
        f"data     {card.dataset} for {card.env}: {card.episodes} episodes, {card.steps:,} steps, {card.path}, "
        f"sha256 {card.sha256[:12]}",
        f"         returns: min {card.return_min:.0f}, quartiles {card.return_25:.0f} {card.return_50:.0f} "
        f"{card.return_75:.0f}, max {card.return_max:.0f}, mean {card.return_mean:.0f}",
        *(f"         {note}" for note in card.notes),
    ]
    return "\n".join(lines)


def banner(plan: Plan, preset: str, training: Training) -> str:
    """What is about to happen: model, tokens, expected memory and time."""
    import jax

    from agent import transformer
    from agent.tokens import tokens_per_step
    from launch import forecast

    weights = sum(a.size for a in jax.tree.leaves(training.state.weights))
    tokens = training.steps_per_row * tokens_per_step(plan.model.tokens)
    device = jax.devices()[0]
    kept = f"{plan.run.keep} steps of each past trajectory" if plan.run.keep else "all steps of past trajectories"
    plain = plan.model.method in BASELINES
    lines = [
        f"preset   {preset}: {', '.join(f'{k} {v}' for k, v in shown_flags(plan).items())}",
        f"model    {plan.model.method}: {weights:,} weights, {plan.model.layers} layers of width {plan.model.width}"
        + ("" if plain else f", {plan.model.attention} attention, {plan.model.dtype}"),
        f"context  none: {plan.run.rows} windows of {training.steps_per_row} steps a batch"
        if plain
        else f"context  up to {plan.model.context} trajectories, {kept}: {tokens:,} {plan.model.tokens} tokens a row, "
        f"{plan.run.rows} rows a batch",
        f"device   {device.device_kind} ({jax.default_backend()})"
        + ("" if plain else f", attention of {transformer.kernel(plan.model)}"),
    ]
    for phase in training.phases:
        lines.append(
            f"plan     updates {phase.first} to {phase.end} on {phase.name}: {phase.bytes / 2**20:,.0f} MiB and "
            f"{phase.seconds:.2f} s an update, {(phase.end - phase.first) * phase.seconds / 60:.1f} min in all"
        )
    if not plain and training.phases:
        last = training.phases[-1]
        lines.append(forecast.measured(plan, envs.spec(plan.run.env), last.bytes, last.seconds))
        if note := short_windows(plan, envs.spec(plan.run.env).episode_length):
            lines.append(f"note     {note}")
    return "\n".join(lines)


def short_windows(plan: Plan, episode_length: int) -> str:
    """A warning where rollouts show more of the running episode than training ever did."""
    trained, played = (of or episode_length for of in (plan.run.crop, plan.model.window))
    if trained >= played:
        return ""
    return (
        f"trained on {trained} steps of the last trajectory at most (--crop), played with {played} (--window): what is "
        "further back than that has never been seen"
    )


def shown_flags(plan: Plan) -> dict[str, Any]:
    """The flags of the plan that decide what a user sees of the preset."""
    every = plan.flags()
    return {name: every[name] for name in ("tokens", "keep", "crop", "window", "loss", "rows", "updates", "optimizer")}


def train(plan: Plan, training: Training, out: Path) -> None:
    """Update, log, save and evaluate until the last update, then report."""
    from tqdm import tqdm

    from launch.evaluate import evaluate

    run, checkpoints = plan.run, training.checkpoints
    simulated = bool(envs.spec(run.env).simulator)
    stopped = catch_stops()
    asked: dict[str, Any] = {"chains": run.chains, "protocols": run.protocols, "data": training.trajectories}
    updates = plan.optimizer.updates
    bar = tqdm(total=updates, initial=int(training.state.step), desc="train", unit="update", disable=None)
    with bar, Metrics(out, run.wandb, plan.flags()) as metrics:
        for phase in training.phases:
            batch = phase.batch(phase.first)
            for step in range(phase.first, phase.end):
                state, numbers = phase.step(training.state, batch)
                following = phase.batch(step + 1) if step + 1 < phase.end else None  # while the device works
                loss = check(step, numbers, batch, checkpoints.latest(), out)
                training.state, batch, done = state, following, step + 1
                bar.update()
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                if done % run.log_every == 0 or done == updates:
                    row = {k: float(v) for k, v in numbers.items() if k != "loss"}
                    metrics.log(done, {"train_loss": loss} | row | training.heldout_error())
                    if bar.disable:
                        print(f"update {done}/{updates}: loss {loss:.4f}", flush=True)
                plays = simulated and bool(run.eval_every) and done % run.eval_every == 0 and done < updates
                if done % run.save_every == 0 or done == updates or stopped or plays:
                    checkpoints.save(training.state, training.meta)
                if stopped:
                    print(f"\nStopped; update {done} is saved. Go on with: --resume --out {out}")
                    return
                if plays:
                    evaluate(out, training.state.weights, training.meta, done, **asked)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # all that was learned is saved
    signal.signal(signal.SIGINT, signal.default_int_handler)
    weights, update = checkpoints.weights()
    if simulated:
        table = evaluate(out, weights, checkpoints.meta(), update, **asked)
        print(f"\n{table}\nreport   {out / 'report.html'}", flush=True)
    else:
        print(
            f"Not played: there is no simulator of {run.env}, only data. Held-out errors are in {out / 'metrics.csv'}."
        )
    checkpoints.close()


def check(step: int, numbers: dict[str, Any], batch: Any, saved: int | None, out: Path) -> float:
    """The loss of an update. Raises FloatingPointError, and stores the batch, when it is no finite number."""
    loss, norm = float(numbers["loss"]), float(numbers["grad_norm"])
    if np.isfinite(loss) and np.isfinite(norm):
        return loss
    path = out / f"diverged_{step}.npz"
    np.savez_compressed(path, **batch._asdict())
    raise FloatingPointError(
        f"update {step}: loss is {loss} and gradient norm {norm}, expected finite numbers; its batch is in {path}, "
        f"the last good checkpoint is of update {saved}; try a lower --learning_rate or --clip"
    )


def catch_stops() -> list[int]:
    """A list that is no longer empty once SIGTERM or Ctrl-C has come: the loop then saves and ends.

    A second Ctrl-C ends the program at once.
    """
    received: list[int] = []

    def stop(number: int, _: Any) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return received


if __name__ == "__main__":
    for config in CONFIGS:
        config_flags.define(config)
    flags.adopt_module_key_flags(config_flags)  # so that --help shows them
    flags.DEFINE_boolean("resume", False, "Go on with the run in --out, to the same result as without the break.")
    flags.DEFINE_string(
        "preset",
        "auto",
        f"auto (by method, environment and device), none, or one of: {', '.join(config_flags.presets())}; "
        "launch/presets/<name>.flags is what one sets in place of the defaults shown here.",
    )
    flags.DEFINE_boolean("forecast", False, "Print what an update would take in memory and time, and stop.")
    flags.DEFINE_string(
        "device", "", f"Forecast for this device, which need not be here: {', '.join(devices.NAMES)}, or v5e:4x4."
    )
    program.run(main)
