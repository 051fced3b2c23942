"""What must be known to repeat a run."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["provenance"]

PACKAGES = ("osrjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn", "grain")


def provenance() -> dict[str, Any]:
    """What must be known to repeat a run: versions of packages, source revision, machine and devices.

    Returns:
      Plain JSON values. ``revision`` is None outside a git checkout; ``modified`` says whether tracked files
      differed from it.
    """
    import jax

    here = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "revision": git("rev-parse", "HEAD"),
        "modified": bool(changes) if changes is not None else None,
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
