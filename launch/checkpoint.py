"""Everything needed to act and to go on, to disk and back.

A checkpoint holds the weights, the rest of the training state, and as JSON the configuration, the scaling and the
identity of the data. Orbax writes it beside its place and moves it there, so a kill leaves the one before.
"""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from agent import learner, network
from agent.config import ModelConfig, OptimizerConfig
from agent.learner import TrainState
from agent.network import Weights
from data.chain import ChainRules
from data.scaling import Scaling
from data.segments import SegmentRules

logging.getLogger("absl").setLevel(logging.WARNING)
FORMAT = 1


class Meta(NamedTuple):
    """What a checkpoint says beside its arrays."""

    env: str
    observation_size: int
    action_size: int
    model: ModelConfig
    optimizer: OptimizerConfig
    rules: ChainRules
    keep: int
    target_return: float
    """What a rollout asks for: the best return in the data, environment units."""
    scaling: Scaling
    dataset: str
    dataset_hash: str
    seed: int
    made_with: dict[str, str] = {}  # noqa: RUF012 - never written to
    """Versions of the simulator that made the data, by package; empty where they are not recorded."""
    segments: SegmentRules = SegmentRules()
    """Read where the environment is a family of tasks."""

    def to_json(self) -> dict[str, Any]:
        from dataclasses import asdict

        configs = ("model", "optimizer", "rules", "segments")
        plain = self._asdict() | {name: asdict(getattr(self, name)) for name in configs}
        scaling = {k: np.asarray(v, np.float64).tolist() for k, v in self.scaling._asdict().items()}
        return plain | {"scaling": scaling, "format": FORMAT}

    @classmethod
    def from_json(cls, stored: dict[str, Any], where: Path) -> "Meta":
        if stored.get("format") != FORMAT:
            raise ValueError(f"{where}: checkpoint format: expected {FORMAT}, got {stored.get('format')!r}")
        s = stored["scaling"]
        fields = {k: v for k, v in stored.items() if k != "format"}
        return cls(
            **fields
            | {
                "model": ModelConfig(**stored["model"]),
                "optimizer": OptimizerConfig(**stored["optimizer"]),
                "rules": ChainRules(**stored["rules"]),
                "segments": SegmentRules(**stored.get("segments", {})),
                "scaling": Scaling(
                    np.array(s["mean"], np.float32),
                    np.array(s["std"], np.float32),
                    s["return_scale"],
                    s["reward_scale"],
                ),
            }
        )


class Checkpoints:
    """The checkpoints of a run, in <out>/checkpoints/<update>; the newest two stay."""

    def __init__(self, out: Path) -> None:
        """Raises FileNotFoundError when the parent folder cannot be made."""
        self.folder = (out / "checkpoints").absolute()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False),
        )

    def latest(self) -> int | None:
        """The update of the newest whole checkpoint; None when there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, meta: Meta) -> None:
        """Write a checkpoint named after state.step, unless it is there."""
        step = int(state.step)
        if step == self.latest():
            return
        rest = {"opt_state": state.opt_state, "step": state.step}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                weights=ocp.args.StandardSave(state.weights),
                rest=ocp.args.StandardSave(rest),
                meta=ocp.args.JsonSave(meta.to_json()),
            ),
        )
        self._manager.wait_until_finished()

    def meta(self) -> Meta:
        """Of the newest checkpoint. Raises FileNotFoundError without one, ValueError when its format is another."""
        step = self._step()
        restored = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
        return Meta.from_json(restored["meta"], self.folder / str(step))

    def weights(self) -> tuple[Weights, int]:
        """The newest weights and the update they are from; all that acting needs beside `meta`."""
        step, meta = self._step(), self.meta()
        shapes = jax.eval_shape(
            lambda: network.init_weights(jax.random.key(0), meta.model, meta.observation_size, meta.action_size)
        )
        args = ocp.args.Composite(weights=ocp.args.StandardRestore(_on_this_machine(shapes)))
        return self._manager.restore(step, args=args)["weights"], step

    def state(self) -> TrainState:
        """The newest training state, to go on from."""
        step, meta = self._step(), self.meta()
        shapes = jax.eval_shape(
            lambda: learner.init_state(
                jax.random.key(0), meta.model, meta.optimizer, meta.observation_size, meta.action_size
            )
        )
        weights, _ = self.weights()
        rest = _on_this_machine({"opt_state": shapes.opt_state, "step": shapes.step})
        restored = self._manager.restore(step, args=ocp.args.Composite(rest=ocp.args.StandardRestore(rest)))["rest"]
        return TrainState(weights, restored["opt_state"], restored["step"])

    def close(self) -> None:
        self._manager.close()

    def _step(self) -> int:
        step = self.latest()
        if step is None:
            raise FileNotFoundError(
                f"{self.folder}: expected a checkpoint, found none; train one with python -m launch.train_offline"
            )
        return step


def _on_this_machine(shapes: Any) -> Any:
    """Shapes with the sharding of the first local device: a checkpoint moves between machines."""
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes)
