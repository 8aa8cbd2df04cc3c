"""Machines one may not have: what they hold, how fast they are, and how a program is compiled for them.

Peak rates are dense, without sparsity, at the boost clock. What a program may use of the memory is less than what is
built in: what the driver reports of an NVIDIA GPU, of which JAX takes three quarters unless told otherwise, and what
libtpu 0.0.42 states as the limit when it refuses a program.
"""

import os
from typing import NamedTuple

GIB = 2**30


class Gpu(NamedTuple):
    """What XLA wants to know of an NVIDIA GPU to compile for it."""

    capability: tuple[int, int]
    multiprocessors: int
    shared_memory: int
    """KiB of a multiprocessor; a block of threads may have one less."""
    l2: int
    """MiB."""
    clock: float
    """GHz."""
    lanes: int
    """Float32 lanes of a multiprocessor."""


class Device(NamedTuple):
    """One kind of accelerator; the numbers are of one JAX device, usually a chip."""

    name: str
    title: str
    platform: str
    """cuda or tpu, as JAX calls them."""
    built_in: int
    """Bytes of memory that the driver reports, or that libtpu leaves to a program."""
    bfloat16: float
    """Floating-point operations a second in matrix products."""
    float32: float
    """The same as JAX multiplies float32 by default: TF32 on NVIDIA, one pass of bfloat16 on TPU."""
    bandwidth: float
    """Bytes a second from its memory."""
    gpu: Gpu | None = None
    chips: int = 1
    """That were asked for; the numbers are still of one."""

    @property
    def memory(self) -> int:
        """Bytes that one program may use, arguments included."""
        if self.platform == "tpu":
            return self.built_in
        return int(self.built_in * float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", 0.75)))

    def flops(self, dtype: str) -> float:
        """Peak operations a second of --dtype."""
        return self.bfloat16 if dtype == "bfloat16" else self.float32


# Numbers of NVIDIA's data sheets and architecture white papers, memory as the driver reports it; of TPUs
# cloud.google.com/tpu/docs, memory as the compiler limits it.
_HOPPER = Gpu((9, 0), 132, 228, 50, 1.98, 128)
_AMPERE = Gpu((8, 0), 108, 164, 40, 1.41, 64)
_ADA = Gpu((8, 9), 128, 100, 72, 2.52, 128)


def _gpu(name: str, title: str, memory: float, bfloat16: float, tf32: float, bandwidth: float, gpu: Gpu) -> Device:
    """memory: GiB as the driver reports; rates in TFLOP/s and TB/s."""
    rates = (bfloat16 * 1e12, tf32 * 1e12, bandwidth * 1e12)
    return Device(name, title, "cuda", int(memory * GIB), *rates, gpu)


def _tpu(name: str, title: str, memory: float, bfloat16: float, bandwidth: float) -> Device:
    """memory: GiB below the compiler's limit; rates in TFLOP/s and GB/s."""
    rates = (bfloat16 * 1e12, bfloat16 * 1e12, bandwidth * 1e9)
    return Device(name, title, "tpu", int(memory * GIB), *rates)


_DEVICES = {
    device.name: device
    for device in (
        _gpu("h100", "H100 SXM 80 GB", 79.1, 989.4, 494.7, 3.35, _HOPPER),
        _gpu("h200", "H200 SXM 141 GB", 139.8, 989.4, 494.7, 4.8, _HOPPER),
        _gpu("a100", "A100 SXM 80 GB", 79.1, 312, 156, 2.039, _AMPERE),
        _gpu("a100-40gb", "A100 SXM 40 GB", 39.4, 312, 156, 1.555, _AMPERE),
        _gpu("rtx4090", "GeForce RTX 4090", 23.6, 165.2, 82.6, 1.008, _ADA),
        _tpu("v3", "TPU v3, one of a chip's two cores", 15.48, 61.5, 450),
        _tpu("v4", "TPU v4", 30.5, 275, 1228),
        _tpu("v5e", "TPU v5e", 15.75, 197, 819),
        _tpu("v5p", "TPU v5p", 95.74, 459, 2765),
        _tpu("v6e", "TPU v6e", 31.25, 918, 1640),
    )
}

NAMES = tuple(_DEVICES)
_DIMENSIONS = {"v3": 2, "v4": 3, "v5e": 2, "v5p": 3, "v6e": 2}


def find(name: str) -> Device:
    """A device by name: h100, or several of them: h100:8, v5e:4x4, v4:2x2x1.

    Raises ValueError, listing the known names, for any other.
    """
    kind, colon, shape = name.strip().lower().partition(":")
    if kind not in _DEVICES:
        raise ValueError(f"--device: expected one of {', '.join(NAMES)}, or a slice such as v5e:4x4, got {name!r}")
    device = _DEVICES[kind]
    if not colon:
        return device
    dimensions = _DIMENSIONS.get(kind, 1)
    counts = [int(part) if part.isdigit() else 0 for part in shape.split("x")]
    if len(counts) != dimensions or min(counts) < 1:
        example = f"{kind}:{'x'.join(['2'] * dimensions)}"
        raise ValueError(f"--device: expected {kind} or a shape such as {example}, got {name!r}")
    chips = 1
    for count in counts:
        chips *= count
    title = f"{device.title}, one of {chips}: a run uses one" if chips > 1 else device.title
    return device._replace(name=f"{kind}:{shape}", title=title, chips=chips)
