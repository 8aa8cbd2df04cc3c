"""Work dealt out to the cores of this machine."""

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count() -> int:
    """Processes worth starting: one a core, and one alone where a device would have to be shared."""
    import jax

    return cores() if jax.default_backend() == "cpu" else 1


@contextlib.contextmanager
def mapping() -> Iterator[Callable[..., Iterator[Any]]]:
    """`map`, in processes of their own where there are several; what it is given must pickle."""
    if count() == 1:
        yield map
        return
    # Not fork: a copy of a process that runs JAX's threads can hang.
    with ProcessPoolExecutor(count(), mp_context=get_context("spawn"), initializer=_begin) as pool:
        yield pool.map


def _begin() -> None:
    """End with the program, and keep to one thread, or the thread pools of XLA get in one another's way."""
    from envs.rollout import end_with_parent

    end_with_parent()
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{given} --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1".strip()
