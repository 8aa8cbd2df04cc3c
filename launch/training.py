"""State, batches and compiled steps of a run: everything between its flags and the loop of launch.train_offline."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import envs
from envs.family import find as find_family
from launch import aot
from launch.plan import Plan

# JAX, orbax and MuJoCo load in the functions that use them: --help and mistakes answer at once.


class Phase(NamedTuple):
    """Updates on batches of one shape, with the step compiled for it."""

    name: str
    first: int
    end: int
    batch: Callable[[int], Any]
    step: Callable[[Any, Any], tuple[Any, dict[str, Any]]]
    seconds: float
    """One update, measured on a copy of the state."""
    bytes: int
    """What the compiled step allocates, arguments included."""


class Training:
    """State, batches and compiled steps: everything between the flags and the loop."""

    def __init__(self, plan: Plan, size: envs.Spec, dataset: Any, out: Path) -> None:
        """Raises ValueError where data and flags do not go together, or with a checkpoint in `out`."""
        import jax

        from agent import learner
        from data.sampler import split
        from data.scaling import Scaling
        from launch.checkpoint import Checkpoints

        run = plan.run
        self.trajectories = dataset.trajectories
        train, heldout = split(dataset.trajectories, run.heldout, run.seed)
        trajectories = [dataset.trajectories[i] for i in train]
        scaling = Scaling.fit(trajectories)
        if plan.model.method == "bc10":
            trajectories = best_tenth(trajectories)
        self.meta = meta_of(plan, size, dataset.card, scaling, trajectories)
        samplers = self._samplers(plan, trajectories)
        self.steps_per_row = samplers[-1][-1].steps_per_row
        held = [dataset.trajectories[i] for i in heldout]
        longest = min(plan.model.context, len(held))
        self._heldout = self._sampler(plan, held, longest, run.crop, run.rows) if held else None
        self._error = jax.jit(learner.make_error(plan.model))

        self.checkpoints = Checkpoints(out)
        self.state = self._state(plan, out)
        train_step = jax.jit(learner.make_train_step(plan.model, plan.optimizer, run.seed), donate_argnums=0)
        first = int(self.state.step)
        self.phases = [
            compile_phase(name, max(start, first), end, of.batch, train_step, self.state)
            for name, start, end, of in samplers
            if first < end
        ]

    def _sampler(self, plan: Plan, of: list[Any], trajs: int, crop: int, rows: int) -> Any:
        from data.sampler import Sampler
        from launch import families

        if find_family(plan.run.env):
            return families.sampler(families.brain_of(self.meta, None), of, trajs, rows, plan.run.seed)
        keep, seed, pack = plan.run.keep, plan.run.seed, plan.model.pack
        return Sampler(of, self.meta.scaling, plan.rules, trajs, keep, crop, rows, seed, pack=pack)

    def _samplers(self, plan: Plan, trajectories: list[Any]) -> list[tuple[str, int, int, Any]]:
        """The phases of a run: name, first update, the one after the last, and what its batches come from."""
        run, accumulate, updates = plan.run, plan.optimizer.accumulate, plan.optimizer.updates
        chains = self._sampler(plan, trajectories, plan.model.context, run.crop, run.rows)
        if not run.short_updates:
            return [("chains", 0, updates, chains)]
        rows = max(1, run.rows * chains.steps_per_row // run.short_crop)
        short = self._sampler(plan, trajectories, 1, run.short_crop, -(-rows // accumulate) * accumulate)
        return [("short windows", 0, run.short_updates, short), ("chains", run.short_updates, updates, chains)]

    def _state(self, plan: Plan, out: Path) -> Any:
        """A fresh one, or that of the newest checkpoint."""
        import jax

        from agent import learner

        if self.checkpoints.latest() is None:
            sizes = self.meta.observation_size, self.meta.action_size
            return learner.init_state(jax.random.key(plan.run.seed), plan.model, plan.optimizer, *sizes)
        stored = self.checkpoints.meta()
        if stored.dataset_hash != self.meta.dataset_hash or stored.env != self.meta.env:
            raise ValueError(
                f"{out}: checkpoint of {stored.env} on data {stored.dataset_hash[:12]}, expected "
                f"{self.meta.env} on {self.meta.dataset_hash[:12]}; go on with the data it began with, "
                f"or choose another --out"
            )
        return self.checkpoints.state()

    def heldout_error(self) -> dict[str, float]:
        """Mean squared action error on trajectories that are not trained on; the same batches every time."""
        if self._heldout is None:
            return {}
        errors = [float(self._error(self.state.weights, self._heldout.batch(i))) for i in range(4)]
        return {"heldout_loss": float(np.mean(errors))}


def meta_of(plan: Plan, size: envs.Spec, card: Any, scaling: Any, trajectories: list[Any]) -> Any:
    """What checkpoints say beside their arrays."""
    from launch import families
    from launch.checkpoint import Meta

    family = find_family(size.name)
    meta = Meta(
        env=size.name,
        observation_size=size.observation_size + (len(family.axes) if family and plan.segments.tell else 0),
        action_size=size.action_size,
        model=plan.model,
        optimizer=plan.optimizer,
        rules=plan.rules,
        keep=plan.run.keep,
        target_return=card.return_max,
        scaling=scaling,
        dataset=card.dataset,
        dataset_hash=card.sha256,
        seed=plan.run.seed,
        made_with=card.made_with,
        segments=plan.segments,
    )
    if family is None:
        return meta
    asked = families.rate_to_ask(families.brain_of(meta, None), trajectories, plan.run.seed)
    return meta._replace(target_return=asked)


def best_tenth(trajectories: list[Any]) -> list[Any]:
    """The tenth with the highest returns, one at least, in their order."""
    totals = np.array([trajectory.total for trajectory in trajectories])
    best = np.sort(np.argsort(-totals, kind="stable")[: max(1, round(len(totals) / 10))])
    return [trajectories[i] for i in best]


def compile_phase(name: str, first: int, end: int, batch: Callable[[int], Any], train_step: Any, state: Any) -> Phase:
    """Compile the update for a shape of batch, and time it once on a copy of the state."""
    import jax

    example = batch(first)
    compiled = train_step.lower(state, example).compile()
    copy = jax.tree.map(lambda a: a.copy(), state)
    copy, _ = jax.block_until_ready(compiled(copy, example))
    start = time.perf_counter()
    jax.block_until_ready(compiled(copy, example))
    seconds = time.perf_counter() - start
    return Phase(name, first, end, batch, compiled, seconds, aot.account(compiled).total)
