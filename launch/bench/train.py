"""Updates as launch.train_offline makes them: how many a second, in how much memory, and what building batches costs.

The data are made up (launch/bench/data.py), the shapes those of the preset cpu and of longer rows; on an accelerator
one row of the preset accelerator, 128,000 tokens, by kernel and size of block.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from launch.bench import Plot, Row, Settings, data, memory, timing
from launch.bench.data import Case

if TYPE_CHECKING:
    from agent.config import ModelConfig
    from data.trajectory import Batch

HELP = "updates per second of the real training step, for three systems and three ways to save memory"
PLOT = Plot(bars=("system",), values=("tokens/s",))

LONG_KEEPS = (58, 250)
"""Steps kept of each past trajectory that make rows of about 2,000 and 8,000 tokens."""

LARGEST = 2**30
"""Bytes: an update that allocates more is not timed, for it would take a minute."""

BLOCKS = (2048, 4096, 8192)
"""Of attention on an accelerator."""


class Update(NamedTuple):
    """One gradient update, compiled, with the state that it goes on from."""

    step: Any
    state: list[Any]
    """Holds the one state there is: the step takes it for good."""

    @classmethod
    def of(cls, case: Case, model: "ModelConfig", seed: int) -> "Update":
        """On batches of the case, with its optimizer."""
        import jax

        from agent import learner

        size = data.envs.spec(data.ENV)
        sizes = size.observation_size, size.action_size
        state = learner.init_state(jax.random.key(seed), model, case.plan.optimizer, *sizes)
        step = learner.make_train_step(model, case.plan.optimizer, seed)
        return cls(jax.jit(step, donate_argnums=0).lower(state, case.sampler.batch(0)).compile(), [state])

    def start(self, batch: "Batch") -> dict[str, Any]:
        """Begin an update -> its metrics, which are numbers once it is done."""
        self.state[0], metrics = self.step(self.state[0], batch)
        return metrics

    def run(self, batch: "Batch") -> float:
        """An update from beginning to end -> its loss."""
        return float(self.start(batch)["loss"])

    @property
    def temporary(self) -> int:
        """Bytes that it allocates besides state and batch."""
        return self.step.memory_analysis().temp_size_in_bytes


def operations(model: "ModelConfig", rows: int, tokens: int) -> float:
    """Useful ones of an update on full rows that hide nothing but the future; embeddings and head not counted."""
    products = 72 * rows * tokens * model.width**2
    return model.layers * float(products + 7 * rows * tokens**2 * model.width)


def systems(model: "ModelConfig") -> dict[str, "ModelConfig"]:
    """The three systems, ours in all its modes."""
    from agent.config import REMATS

    plain = {name.replace("_", "-"): replace(model, attention=name) for name in ("vanilla", "memory_efficient")}
    return plain | {f"ours, {remat}": replace(model, attention="bpt", remat=remat) for remat in REMATS}


def cases(quick: bool, seed: int) -> list[Case]:
    """The two phases of the preset cpu, then one row of ever longer chains."""
    both = data.presets(quick, seed)[:2]
    if quick:
        case = both[1]
        small = replace(case.plan.model, layers=1, width=32, heads=1)
        return [case._replace(plan=case.plan._replace(model=small))]
    plan = both[0].plan
    trajectories = data.made_up(40, 1000, seed)
    longer = [
        Case(f"--keep {keep} --rows 1", plan, data.sampler(plan, trajectories, keep=keep, rows=1))
        for keep in LONG_KEEPS
    ]
    return both + longer


def run(settings: Settings) -> list[Row]:
    """A table per shape of batch."""
    import jax

    if jax.default_backend() != "cpu":
        return whole(settings)
    found: list[Row] = []
    for case in cases(settings.quick, settings.seed):
        found += compare(case, settings)
    return found


def kernels(model: "ModelConfig", blocks: Sequence[int]) -> dict[str, "ModelConfig"]:
    """Our attention at several sizes of block, and cuDNN's, on rows of one chain."""
    plain = replace(model, pack=False, dropout=0.0)
    found = {f"ours, blocks of {block}": replace(plain, kernel="xla", block=block) for block in blocks}
    return found | {"cuDNN": replace(plain, kernel="cudnn")}


def whole(settings: Settings) -> list[Row]:
    """The table of one chain of whole trajectories, as the preset accelerator has them."""
    plan = data.preset("accelerator")
    model, steps, blocks = plan.model, 1000, (64, 128) if settings.quick else BLOCKS
    if settings.quick:
        model, steps = replace(model, layers=1, width=32, trajs=2), 20
    plan = plan._replace(model=model, rules=replace(plan.rules, draw="full"))
    case = Case(
        "preset accelerator, a chain of all", plan, data.sampler(plan, data.made_up(40, steps, settings.seed), rows=1)
    )
    batch, table = case.sampler.batch(0), f"{case}, {model.dtype}"
    updates, rows = {}, []
    for name, changed in kernels(model, blocks).items():
        try:
            updates[name] = Update.of(case, changed, settings.seed)
        except (RuntimeError, ValueError) as error:
            rows.append({"table": table, "system": name, "note": f"skipped: {str(error).splitlines()[0][:80]}"})
    thunks = {name: _updating(update, batch) for name, update in updates.items()}
    timings, gemm = timing.against_gemm(thunks, settings.repeats, settings.quick, table)
    useful, unit = operations(model, 1, case.tokens), case.tokens * model.width * 4
    for name, update in updates.items():
        seconds = timings[name].median
        rows.append(
            _row(case, name, seconds, case.tokens)
            | {"table": table, "of GEMM": useful / seconds / gemm}
            | _memory(update.temporary, unit)
        )
    return [*rows, {"table": table, "system": "GEMM", "note": f"{gemm / 1e12:,.0f} TFLOP/s, in the same rounds"}]


def compare(case: Case, settings: Settings) -> list[Row]:
    """All systems on batches of one shape, timed in the same rounds; then what building the batches adds."""
    updates: dict[str, Update] = {}
    left_out: dict[str, int] = {}
    for name, model in systems(case.plan.model).items():
        update = Update.of(case, model, settings.seed)
        if update.temporary > min(LARGEST, memory.available() / 2):
            left_out[name] = update.temporary
        else:
            updates[name] = update
    batch = case.sampler.batch(0)
    ours = next(name for name in updates if name.startswith("ours"))
    thunks: dict[str, timing.Thunk] = {name: _updating(update, batch) for name, update in updates.items()}
    thunks["batch"] = lambda: case.sampler.batch(0)
    thunks["loop"] = looping(case, updates[ours])
    timings = timing.interleave(thunks, settings.repeats, label=str(case))
    tokens, unit = case.sampler.rows * case.tokens, case.sampler.rows * case.tokens * case.plan.model.width * 4
    found: list[Row] = []
    for name, update in updates.items():
        found.append(_row(case, name, timings[name].median, tokens) | _memory(update.temporary, unit))
    for name, temporary in left_out.items():
        found.append({"table": str(case), "system": name, **_memory(temporary, unit), "note": "not timed"})
    loop, build = timings["loop"].median, timings["batch"].median
    note = (
        f"the program's loop: an update while the next batch is built; a batch alone takes {1e3 * build:.1f} ms, "
        f"{build / timings[ours].median:.1%} of an update"
    )
    return [*found, _row(case, f"{ours}, with batches", loop, tokens) | {"note": note}]


def _updating(update: Update, batch: "Batch") -> timing.Thunk:
    return lambda: update.run(batch)


def looping(case: Case, update: Update) -> Callable[[], float]:
    """One turn of the loop of launch.train_offline: begin an update, build the next batch, wait for the loss."""
    following, step = [case.sampler.batch(0)], [0]

    def turn() -> float:
        metrics = update.start(following[0])
        step[0] += 1
        following[0] = case.sampler.batch(step[0])
        return float(metrics["loss"])

    return turn


def _row(case: Case, name: str, seconds: float, tokens: int) -> Row:
    rates = {"updates/s": 1 / seconds, "tokens/s": tokens / seconds}
    return {"table": str(case), "system": name, "seconds": seconds} | rates


def _memory(temporary: int, unit: int) -> Row:
    return {"temp MiB": temporary / 2**20, "temp sD": temporary / unit}
