"""Strict numerics for every test, on four virtual CPU devices, with programs that are quick to compile."""

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.append(str(Path(__file__).parents[1] / "experiments"))  # a script imports what lies beside it

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_default_matmul_precision", "highest")

# Most programs run once here and take longer to compile than to run: machine code is optimised little, unless
# the environment has options of its own (XLA_FLAGS= for a user's code). XLA ends a process that gives an option
# it does not know, so another process tries them.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
if "XLA_FLAGS" not in os.environ:
    trial = [sys.executable, "-c", "import jaxlib.xla_client; jaxlib.xla_client.CompileOptions()"]
    refused = subprocess.run(trial, env={**os.environ, "XLA_FLAGS": QUICK}, capture_output=True, check=False).returncode
    os.environ["XLA_FLAGS"] = "" if refused else QUICK


@pytest.fixture(scope="session", autouse=True)
def processes_of_tests(tmp_path_factory):
    """Processes that tests start compile as a user's do, and keep what they compiled for each other."""
    jax.devices()  # this process has its options now
    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # one directory for the workers of a session
        directory = directory.parent
    with pytest.MonkeyPatch.context() as patch:
        if os.environ["XLA_FLAGS"] == QUICK:
            patch.setenv("XLA_FLAGS", "")
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(directory / "compilation_cache"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """Random inputs that are the same in every run."""
    return np.random.default_rng(20260601)


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield
