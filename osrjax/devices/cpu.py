"""Training at full speed on a CPU: three switches of the process around JAX, for the caller to set.

Neither changes what is computed, beyond the order of summation, and on other devices neither does anything.
"""

import ctypes
import os
import sys

import jax

__all__ = ["compiler_options", "one_device_per_core", "reuse_host_memory"]

# Of the libraries that XLA for CPU can call, YNNPACK gets matrix products and reductions, and Eigen the
# convolutions. YNNPACK's reductions are several times faster than generated loops (batch norm), but its
# convolutions are slow where the kernel is as large as the image, and that is what the gradient with respect
# to a weight is: 8 times slower than Eigen's for 16 or 64 channels at 32x32, 2 times for 128 at 16x16. Forward
# and input-gradient convolutions take about the same time in both.
_OPTION = "xla_cpu_experimental_ynn_fusion_type"


_LIBRARY_FUSIONS = "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"


# Parameters of glibc's mallopt, from malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


_HEAP = 2**26  # bytes of the largest heap of an arena that is not the first


def compiler_options() -> dict[str, str | bool]:
    """Options for the outermost ``jax.jit(..., compiler_options=...)`` of a program with convolutions.

    JAX accepts the argument at top level only, not for a function that another transformation calls.

    Returns:
      The options if the default device is a CPU and its compiler knows them (they are experimental in XLA),
      otherwise an empty dictionary, which leaves everything as it is.

    Example:
      >>> import jax
      >>> double = jax.jit(lambda x: 2.0 * x, compiler_options=compiler_options())
      >>> print(double(3.0))
      6.0
    """
    if jax.default_backend() != "cpu":
        return {}
    options: dict[str, str | bool] = {_OPTION: _LIBRARY_FUSIONS}
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:  # "No such compile option", or no such value
        return {}
    return options


def one_device_per_core() -> None:
    """Makes JAX see each core of a CPU as a device of its own, for programs whose devices work independently.

    Lanes of a sweep then run one on each core, without the waits of many cores that share small operations. Call it
    before anything that makes JAX look for its devices; GPUs and TPUs are not affected, nor is a process whose
    XLA_FLAGS or JAX's configuration (JAX_NUM_CPU_DEVICES) say how many devices there are.
    """
    told = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if (
        not told and getattr(jax.config, "jax_num_cpu_devices", -1) == -1
    ):  # its default; JAX_NUM_CPU_DEVICES sets it too
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        jax.config.update("jax_num_cpu_devices", cores)


def reuse_host_memory(*, shared: bool = True) -> bool:
    """Makes the C library keep freed memory for the next allocation, for the rest of the process.

    A compiled step allocates its temporary memory, tens or hundreds of MiB, anew in each call. By default glibc maps
    it from the system and unmaps it afterwards, and the system clears page by page as they are touched: up to a
    tenth of a CPU training step. The price is a process that does not shrink again. Call it before anything that
    makes JAX look for its devices: threads that already run keep their ways.

    Args:
      shared: all threads take their memory from one place, in which blocks of any size are kept; they wait for each
        other, which costs programs of several CPU devices, or with small steps, more than they gain. False: each has
        its own, in which blocks of up to 64 MiB are kept; larger ones are mapped as ever.

    Returns:
      Whether it took effect: True on Linux with glibc and a CPU as the default device.

    Example:
      >>> reuse_host_memory() in (True, False)
      True
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    # One arena, because the heaps of all others are limited to 64 MiB and larger blocks would be mapped. An
    # arena is made when a thread first allocates, so this comes before JAX starts its threads.
    if mallopt is None or mallopt(_M_ARENA_MAX, 1 if shared else 0) != 1:
        return False
    if jax.default_backend() != "cpu":
        mallopt(_M_ARENA_MAX, 0)  # back to glibc's own choice
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1}
    if not shared:
        settings[_M_TOP_PAD] = _HEAP  # else a heap with nothing left in it is given back whole
    return all(mallopt(parameter, value) == 1 for parameter, value in settings.items())
