"""Strict numerics for every test, on four virtual CPU devices, with programs that are quick to compile."""

import functools
import gc
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.append(str(Path(__file__).parents[1] / "experiments"))  # a script imports what lies beside it

import jax
import numpy as np
import pytest
from narrow import narrow_network

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
NARROW = Path(__file__).with_name("narrow.py")

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
OPTIONS = os.environ["XLA_FLAGS"]


@functools.cache
def load_script(name: str) -> ModuleType:
    """A script of experiments/ as a module, with nothing run; the same one for all tests of a process."""
    return _second_copy(f"experiments_{name.replace('/', '_')}", EXPERIMENTS / f"{name}.py")


def pytest_collection_finish():
    """What was imported lives to the end: the garbage collector need not walk it for every test again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)  # tracing makes many objects and few cycles


def plain_module(module: ModuleType) -> ModuleType:
    """A module as users import it: without the shape checks that the tests install."""
    return _second_copy("plain_" + module.__name__.replace(".", "_"), Path(str(module.__file__)))


def _second_copy(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def start(script: str, *arguments: object, **environment: str) -> subprocess.Popen:
    """A script of experiments/ as a process of its own, as a user starts it."""
    return subprocess.Popen(
        [sys.executable, str(EXPERIMENTS / f"{script}.py"), *map(str, arguments)],
        # One device, one configuration of numerics for every process whose bits are compared.
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "error", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def quick_process(script: Path, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.Popen:
    """A script as a process that takes half the time: a narrow network, and programs that are optimised little."""
    return subprocess.Popen(
        [sys.executable, str(NARROW), str(script), *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": OPTIONS, **environment},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, timeout: float = 240) -> tuple[int, str]:
    """Exit code and output of a process, when it has ended."""
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


@pytest.fixture(scope="session", autouse=True)
def processes_of_tests(tmp_path_factory):
    """Programs are kept: this process's for itself, for each other those of processes, which compile as a user's do."""
    jax.devices()  # this process has its options now
    directory = tmp_path_factory.getbasetemp()
    jax.config.update("jax_compilation_cache_dir", str(directory / "compiled"))  # of a worker: JAX writes without locks
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    if "PYTEST_XDIST_WORKER" in os.environ:  # one directory for the workers of a session
        directory = directory.parent
    with pytest.MonkeyPatch.context() as patch:
        if OPTIONS == QUICK:
            patch.setenv("XLA_FLAGS", "")
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(directory / "compilation_cache"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
        yield


@pytest.fixture
def narrow():
    """small_cnn with an eighth of its channels, in this process: for scripts whose network is not what is tested."""
    with narrow_network():
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
