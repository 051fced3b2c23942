import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osrjax.devices import cpu


def _convolution(images, kernel):
    return jax.lax.conv_general_dilated(
        images, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_options_are_known_to_this_compiler():
    assert cpu.compiler_options()


def test_options_leave_gradients_of_a_convolution_as_they_are(rng):
    images = jnp.asarray(rng.normal(size=(4, 6, 6, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 5)), jnp.float32)

    def loss(images, kernel):
        return jnp.sum(jnp.sin(_convolution(images, kernel)))

    gradients = jax.grad(loss, argnums=(0, 1))
    plain = jax.jit(gradients)(images, kernel)
    fast = jax.jit(gradients, compiler_options=cpu.compiler_options())(images, kernel)
    for expected, actual in zip(plain, fast, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_convolutions_do_not_go_to_ynnpack():
    images, kernel = jnp.ones((4, 32, 32, 16)), jnp.ones((3, 3, 16, 16))
    gradient = jax.grad(lambda kernel: jnp.sum(_convolution(images, kernel) ** 2))
    compiled = jax.jit(gradient, compiler_options=cpu.compiler_options()).lower(kernel).compile()
    entry = compiled.as_text().split("ENTRY")[1]
    assert " convolution(" in entry  # in a library fusion it would stand in a computation of its own


def test_another_backend_gets_no_options(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert cpu.compiler_options() == {}
    assert not cpu.reuse_host_memory()


@pytest.mark.parametrize("name", ["_OPTION", "_LIBRARY_FUSIONS"])
def test_a_compiler_without_the_option_gets_none(monkeypatch, name):
    monkeypatch.setattr(cpu, name, "no_such_option_or_value")
    assert cpu.compiler_options() == {}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
@pytest.mark.parametrize("shared", [True, False])
def test_freed_memory_is_used_again(shared):
    # A process of its own: the setting lasts. Page faults count memory that the system had to provide.
    script = """
import ctypes, resource, sys, threading
from osrjax.devices.cpu import reuse_host_memory
size = int(sys.argv[2]) << 20
print(reuse_host_memory(shared=sys.argv[1] == "True"))
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def use():
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc(size)
        ctypes.memset(block, 1, size)
        libc.free(block)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=use)  # has an arena of its own, unless that is shared
thread.start(); thread.join()
"""
    size = 100 if shared else 40
    command = [sys.executable, "-c", script, str(shared), str(size)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    effect, faults = run.stdout.split()
    if effect == "False":
        pytest.skip("another C library")
    assert int(faults) < 100  # 10,240 or 25,600 pages otherwise
