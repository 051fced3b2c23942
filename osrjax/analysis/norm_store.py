"""Norms on disk: a directory that belongs to one set of images, variables and functions, filled batch by batch.

::

    DIRECTORY/NAME.npy              the finished norms of a function
    DIRECTORY/.NAME.npy.partial     the batches that are done, nan for the others
    DIRECTORY/content.json          whose norms these are; .lock is held while a process writes
"""

import fcntl
import hashlib
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from osrjax.analysis.variables import leaf_bytes
from osrjax.files import (
    check_local,
    check_no_links,
    json_text,
    open_to_append,
    read_json,
    reading,
    write_whole,
    writing,
)
from osrjax.models.outputs import PyTree


@contextmanager
def claimed(
    directory: Path | None, variables: PyTree, images: np.ndarray, samples: Mapping[str, list[float]]
) -> Generator[None]:
    """Holds a directory that belongs to these images, variables and functions; refuses any other."""
    if directory is None:
        yield
        return
    check_local("directory", directory)
    digest = hashlib.sha256()
    for leaf in (images, *jax.tree.leaves(variables)):
        digest.update(leaf_bytes(leaf))
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        check_no_links(directory)
        lock = open_to_append(directory / ".lock")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"directory={str(directory)!r} is in use by another process: choose another") from error
        except OSError as error:
            raise ValueError(
                f"directory={str(directory)!r} cannot be locked ({error.strerror}): choose another"
            ) from error
        path = directory / "content.json"
        stored: dict[str, Any] = {"sha256": digest.hexdigest(), "samples": {}}
        if path.exists():
            stored = read_json(path, "it tells whose norms these are, so delete the whole directory")
            if not {"sha256", "samples"} <= stored.keys():
                raise ValueError(f"{path} is no such file as this one writes: choose another directory")
        elif any(_files(directory, name)[kind].exists() for name in samples for kind in (0, 1)):
            raise ValueError(f"directory={str(directory)!r} holds arrays of unknown origin: choose another")
        same = stored["sha256"] == digest.hexdigest() and all(
            len(sample) == len(earlier)
            and np.allclose(np.array(earlier, float), sample, rtol=1e-3, atol=1e-6, equal_nan=True)
            for name, sample in samples.items()
            if (earlier := stored["samples"].get(name)) is not None
        )
        if not same:
            raise ValueError(
                f"directory={str(directory)!r} holds norms of other images, variables or functions: choose another"
            )
        stored["samples"] = {**stored["samples"], **samples}
        write_whole(path, json_text(stored).encode())
        yield


class NormStore:
    """The norms of one function, in memory or in a file that is written batch by batch."""

    def __init__(self, directory: Path | None, name: str, size: int) -> None:
        self.finished = False
        self._files = None
        if directory is None:
            self.values = np.full(size, np.nan, np.float32)
            return
        done, unfinished = self._files = _files(directory, name)
        self.finished = done.exists()
        if self.finished:
            self.values = self._load(done, size)
            return
        if not unfinished.exists():  # renamed when whole: neither kill nor power cut leaves a file that is half zeros
            fresh = directory / f".{name}.fresh.npy"
            with writing(done):
                fresh.unlink(missing_ok=True)
                with fresh.open("xb") as file:
                    np.save(file, np.full(size, np.nan, np.float32))
                    file.flush()
                    os.fsync(file.fileno())
                fresh.replace(unfinished)
        self.values = self._load(unfinished, size, mmap_mode="r+")

    @staticmethod
    def _load(path: Path, size: int, mmap_mode: Literal["r+"] | None = None) -> np.ndarray:
        with reading(path, "delete it and give the same command again"):
            values = np.load(path, mmap_mode="r")  # "r+" would make a short file as long as its header says
            if values.shape != (size,) or values.dtype != np.float32:
                raise ValueError(f"{values.dtype} {values.shape} for {size} images")
            return np.load(path, mmap_mode=mmap_mode)

    def has(self, rows: slice) -> bool:
        """Whether these norms are done."""
        return bool(np.isfinite(self.values[rows]).all())

    def put(self, rows: slice, norms: np.ndarray) -> None:
        """Keeps the norms of a batch; on disk when it returns."""
        self.values[rows] = norms
        if isinstance(self.values, np.memmap):
            with writing(str(self.values.filename)):
                self.values.flush()

    def finish(self) -> None:
        """Gives the file its final name, when all norms are done."""
        if self._files is not None:
            done, unfinished = self._files
            self.values = np.array(self.values)
            with writing(done):
                unfinished.replace(done)


def _files(directory: Path, name: str) -> tuple[Path, Path]:
    """Where the norms of a function are kept when finished, and before."""
    return directory / f"{name}.npy", directory / f".{name}.npy.partial"
