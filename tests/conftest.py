"""Strictness for every test: silent broadcasting and reused random keys are errors. And less time to compile.

Much of the suite's time is that of XLA. Tests, and the programs that they start, share a folder of what is compiled,
which goes with them. In the tests' own processes LLVM does not optimise; programs compile as users' do.
"""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("MUJOCO_GL", "disable")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax

if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    jax.devices()  # reads them
    del os.environ["XLA_FLAGS"]
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
