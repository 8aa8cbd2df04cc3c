"""Compile the train step from shapes alone: for this machine, or for one that is not there.

XLA compiles for a TPU or an NVIDIA GPU without one, where the extra `aot` is installed (libtpu; jax-cuda12-plugin and
jax-cuda12-pjrt). That happens in a process of its own, whose JAX stays on the CPU:

    echo '{"device": "v5e", ...}' | JAX_PLATFORMS=cpu python -m launch.aot
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from agent.config import ModelConfig, OptimizerConfig
from launch.devices import Device, find

# JAX loads in the functions that use it.

PLUGINS = {"tpu": ("libtpu",), "cuda": ("jax_cuda12_pjrt", "jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")}
"""Modules of which one must be installed to compile for a platform."""

_CHIP = {"v3": "v3:1x1x1", "v4": "v4:1x1x1", "v5e": "v5e:1x1x1", "v5p": "v5p:1x1x1", "v6e": "v6e:1x1x1"}


class Job(NamedTuple):
    """A train step: its configurations, and the shape of its batch."""

    model: ModelConfig
    optimizer: OptimizerConfig
    rows: int
    steps: int
    """Of a row."""
    observation_size: int
    action_size: int


class Memory(NamedTuple):
    """The compiler's account of one update, in bytes."""

    arguments: int
    """Weights, optimizer state and batch."""
    outputs: int
    aliased: int
    """Outputs that take the place of arguments."""
    temporaries: int
    refused: str = ""
    """The compiler's words where the program does not fit; the numbers are then 0."""

    @property
    def total(self) -> int:
        return self.arguments + self.outputs - self.aliased + self.temporaries


def shapes(job: Job, sharding: Any = None) -> tuple[Any, Any]:
    """TrainState and Batch as the shapes of their arrays."""
    import jax
    import jax.numpy as jnp

    from agent.learner import init_state
    from data.trajectory import Batch

    def place(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    widths = {
        "observations": (job.observation_size,),
        "actions": (job.action_size,),
        "previous_actions": (job.action_size,),
    }
    integers = ("timesteps", "trajectories", "chains")
    fields: dict[str, Any] = {
        name: place((job.rows, job.steps, *widths.get(name, ())), jnp.int32 if name in integers else jnp.float32)
        for name in Batch._fields
    }
    batch = Batch(**fields)
    state = jax.eval_shape(
        lambda key: init_state(key, job.model, job.optimizer, job.observation_size, job.action_size), jax.random.key(0)
    )
    return jax.tree.map(lambda a: place(a.shape, a.dtype), state), batch


def compile_step(job: Job, sharding: Any = None) -> Any:
    """The compiled train step; allocates nothing and runs nothing."""
    import jax

    from agent.learner import make_train_step

    step = jax.jit(make_train_step(job.model, job.optimizer, 0), donate_argnums=0)
    return step.lower(*shapes(job, sharding)).compile()


def account(compiled: Any) -> Memory:
    """What the compiler says a compiled function needs."""
    memory = compiled.memory_analysis()
    return Memory(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
    )


def missing(device: Device) -> str:
    """Why this installation cannot compile for a device; empty when it can."""
    for module in PLUGINS[device.platform]:
        try:
            if importlib.util.find_spec(module) is not None:
                return ""
        except ModuleNotFoundError:  # of the package around it
            continue
    return f"{PLUGINS[device.platform][0]} is not installed (pip install 'agentic-bpt[aot]')"


def compile_train_step(
    job: Job, device: Device, steps: Sequence[int] = (), timeout: float = 900.0
) -> list[tuple[int, Memory]]:
    """Compile for a device that is not there, in a process of its own.

    Args:
      steps: steps of a row, one compilation each; empty is the job's own.
      timeout: seconds for all of them.

    Returns:
      [(steps, memory)] in the order asked for.

    Raises:
      ModuleNotFoundError: the extra is not installed.
      RuntimeError: the compiler failed in another way than for want of memory.
    """
    if reason := missing(device):
        raise ModuleNotFoundError(reason)
    request = job._asdict() | {
        "model": asdict(job.model),
        "optimizer": asdict(job.optimizer),
        "device": device.name,
        "each": list(steps) or [job.steps],
    }
    done = subprocess.run(
        [sys.executable, "-m", "launch.aot"],
        input=json.dumps(request),
        env=environment(device),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if done.returncode:
        raise RuntimeError(f"compiling for {device.name} failed: {(done.stderr.strip() or '?').splitlines()[-1]}")
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return [(each, Memory(*memory)) for each, memory in zip(request["each"], answer, strict=True)]


def environment(device: Device) -> dict[str, str]:
    """Variables of a process that compiles for a device which is not there."""
    variables = dict(os.environ) | {"JAX_PLATFORMS": "cpu", "JAX_TRACEBACK_FILTERING": "off"}
    variables["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no chip is touched: two processes may compile at a time
    if device.platform == "cuda":  # autotuning needs the GPU
        variables["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0".strip()
    return variables


def target(device: Device) -> Any:
    """The first of the compile-only devices of a topology."""
    from jax.experimental import topologies  # no other name leads there

    if device.platform == "cuda":
        return topologies.get_topology_desc(
            platform="cuda", topology_name="", topology="1x1x1", target_config=target_config(device)
        ).devices[0]
    return topologies.get_topology_desc(
        platform="tpu", topology_name=_CHIP[device.name.partition(":")[0]], chips_per_host_bounds=(1, 1, 1)
    ).devices[0]


def target_config(device: Device) -> str:
    """XLA's GpuTargetConfigProto, as text, from a GPU's data sheet."""
    gpu = device.gpu
    if gpu is None:
        raise ValueError(f"device: expected an NVIDIA GPU, got {device.name}")
    major, minor = gpu.capability
    return f"""gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {(gpu.shared_memory - 1) * 1024}
  shared_memory_per_core: {gpu.shared_memory * 1024}
  core_count: {gpu.multiprocessors}
  fpus_per_core: {gpu.lanes}
  clock_rate_ghz: {gpu.clock}
  l2_cache_size: {gpu.l2 * 2**20}
  memory_bandwidth: {int(device.bandwidth)}
  device_memory_size: {device.built_in}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{device.title}"
"""


def main() -> None:
    """Read a request from standard input, compile, write the accounts to standard output."""
    import jax
    from jax.sharding import SingleDeviceSharding

    from agent import kernels

    request = json.loads(sys.stdin.read())
    device, each = find(request.pop("device")), request.pop("each")
    model, optimizer = ModelConfig(**request.pop("model")), OptimizerConfig(**request.pop("optimizer"))
    job = Job(model, optimizer, **request)
    sharding = SingleDeviceSharding(target(device))
    answer = []
    for steps in each:
        try:
            with kernels.compiling_for("gpu" if device.platform == "cuda" else "tpu"):
                memory = account(compile_step(job._replace(steps=steps), sharding))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            memory = Memory(0, 0, 0, 0, str(error).splitlines()[0])
        answer.append(memory)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
