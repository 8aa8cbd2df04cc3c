"""What the attention of a library may take the place of, and that the layers around it stay the same."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent import kernels
from agent.attention import Visibility
from agent.blockwise import Sight
from agent.bpt import init_layer
from agent.stack import Form, chosen_kernel, stack

PLAIN = Sight(window=None, span=32, dropout_rate=0.0)


@pytest.fixture
def tokamax_is_there(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


@pytest.mark.parametrize(
    ("kernel", "backend", "changes", "dtype", "one_chain", "why"),
    [
        ("cudnn", "cpu", {}, jnp.bfloat16, True, "it runs on gpu, this is cpu"),
        ("cudnn", "tpu", {}, jnp.bfloat16, True, "it runs on gpu, this is tpu"),
        ("cudnn", "gpu", {}, jnp.bfloat16, False, "--pack=false"),
        ("cudnn", "gpu", {"window": 8}, jnp.bfloat16, True, "--window=0"),
        ("tokamax", "gpu", {"dropout_rate": 0.1}, jnp.bfloat16, True, "--dropout=0"),
        ("cudnn", "gpu", {}, jnp.float32, True, "--dtype=bfloat16"),
    ],
)
@pytest.mark.usefixtures("tokamax_is_there")
def test_a_kernel_that_cannot_says_why_and_what_would_help(kernel, backend, changes, dtype, one_chain, why):
    sight = PLAIN._replace(**changes)
    with pytest.raises(ValueError, match=f"--kernel: {kernel} cannot compute these layers: .*{why}"):
        kernels.choose(kernel, backend, sight, dtype, one_chain, 64)
    assert kernels.choose("auto", backend, sight, dtype, one_chain, 64) != kernel


def test_a_kernel_whose_package_is_missing_says_which(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert kernels.choose("auto", "tpu", PLAIN, jnp.bfloat16, True, 64) == "xla"
    with pytest.raises(ValueError, match="it needs the package tokamax"):
        kernels.choose("tokamax", "tpu", PLAIN, jnp.bfloat16, True, 64)


@pytest.mark.usefixtures("tokamax_is_there")
def test_auto_takes_the_first_library_that_can():
    assert kernels.choose("auto", "gpu", PLAIN, jnp.bfloat16, True, 64) == "cudnn"
    assert kernels.choose("auto", "gpu", PLAIN, jnp.float32, True, 64) == "tokamax"
    assert kernels.choose("auto", "tpu", PLAIN, jnp.float32, True, 64) == "tokamax"
    assert kernels.choose("auto", "gpu", PLAIN, jnp.bfloat16, False, 64) == "xla"
    assert kernels.choose("auto", "cpu", PLAIN, jnp.float32, True, 64) == "xla"
    assert kernels.choose("xla", "gpu", PLAIN, jnp.bfloat16, True, 64) == "xla"
    assert kernels.choose("auto", "gpu", PLAIN, jnp.bfloat16, True, 512) == "tokamax"
    with pytest.raises(ValueError, match="heads are up to 128 wide, in multiples of 8, these 60"):
        kernels.choose("cudnn", "gpu", PLAIN, jnp.bfloat16, True, 60)


@pytest.mark.parametrize(("asked", "taken"), [({}, "cudnn"), ({"remat": "minimal"}, "xla"), ({"every": 4}, "xla")])
def test_auto_takes_no_library_where_less_memory_was_asked_for_than_it_needs(asked, taken):
    with kernels.compiling_for("gpu"):
        assert chosen_kernel(Form(kernel="auto", one_chain=True, **asked), jnp.dtype("bfloat16"), 64) == taken


@pytest.mark.usefixtures("tokamax_is_there")
@pytest.mark.parametrize("remat", ["output", "input"])
def test_layers_around_a_librarys_attention_give_the_same_numbers(remat, monkeypatch):
    def library(kernel, q, k, v):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="xla")

    monkeypatch.setattr(kernels, "attention", library)
    init = jax.vmap(lambda key: init_layer(key, 16, 4, 64, 2, 2))
    weights = init(jax.random.split(jax.random.key(0), 2))
    x = jax.random.normal(jax.random.key(1), (2, 70, 16))
    where = Visibility(jnp.ones((2, 70), jnp.int32), jnp.zeros((2, 70), jnp.int32))

    def run(form):
        return jax.jit(jax.value_and_grad(lambda w, x: (stack(w, x, where, form) ** 2).mean(), (0, 1)))(weights, x)

    expected = run(Form(rope=True, block=32))
    got = run(Form(rope=True, block=32, remat=remat, kernel="tokamax", one_chain=True))
    rounding = 5e-6 if jax.default_backend() == "cpu" else 2e-5
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=rounding * float(np.abs(b).max()))
