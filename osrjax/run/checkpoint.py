"""Checkpoints of a run: asynchronous, the latest few and the best, checked when they are read.

The only file that knows Orbax. A checkpoint is complete or invisible (Orbax writes to a temporary directory
and renames it), carries a checksum of every leaf, and is read back bit for bit. A checkpoint that cannot be
read, or whose checksums differ, is reported, moved aside and passed over for the one before it.

Several processes of a run share the directory and call the same methods in the same order: all save and restore,
and process 0 alone moves anything.
"""

import contextlib
import json
import logging
import re
import shutil
import zlib
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from osrjax.devices import processes, sharding
from osrjax.files import FileError, check_local, writing

__all__ = ["Checkpoints", "LaneCheckpoints", "Restored", "UnreadableCheckpointsError"]

State = TypeVar("State")


policies = ocp.training.preservation_policies


class UnreadableCheckpointsError(Exception):
    """A run has checkpoints and none of them can be read."""


class Restored(NamedTuple):
    """A state read back, its step, and the lines that say which checkpoints were passed over and why."""

    step: int
    state: Any
    reports: tuple[str, ...]


class Checkpoints:
    """The checkpoints of one run, in one directory.

    Args:
      directory: made if it does not exist; nothing else may live in it.
      keep_latest: how many of the newest checkpoints are kept, at least 1; 2 or more leave something to go
        back to when the newest is damaged.

    Raises:
      ValueError: ``keep_latest`` below 1.
      FileError: a checkpoint cannot be written, here or in any method, nor while closing; earlier ones are intact.

    Example:
      >>> import tempfile, jax.numpy as jnp
      >>> with tempfile.TemporaryDirectory() as directory, Checkpoints(directory) as checkpoints:
      ...     checkpoints.save(7, {"w": jnp.arange(3.0)}, accuracy=0.5)
      ...     checkpoints.wait()
      ...     restored = checkpoints.restore_latest({"w": jnp.zeros(3)})
      >>> restored.step, restored.state["w"].tolist()
      (7, [0.0, 1.0, 2.0])
    """

    def __init__(self, directory: str | Path, *, keep_latest: int = 2) -> None:
        if keep_latest < 1:
            raise ValueError(f"{keep_latest=} is below 1: keep at least the newest checkpoint")
        check_local("directory", str(directory))
        self.directory = Path(directory).resolve()
        self._keep_latest = keep_latest
        with self._writing():
            self._reports = self._set_aside_unlistable()
            self._checkpointer = self._open()

    def _open(self) -> ocp.training.Checkpointer:
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs every step of a save, and errors also raised
        # Reading a damaged checkpoint leaves asyncio tasks with errors that nobody awaits; they are reported here.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        # The caller decides when to save; every call saves. Orbax's declared types for policies exclude its own.
        every_call: Any = ocp.training.save_decision_policies.FixedIntervalPolicy(1)
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics["accuracy"], n=1, keep_checkpoints_without_metrics=False
        )
        latest_and_best: Any = policies.AnyPreservationPolicy([policies.LatestN(self._keep_latest), best])
        with self._patient():
            return ocp.training.Checkpointer(
                str(self.directory),
                save_decision_policy=every_call,
                preservation_policy=latest_and_best,
            )

    @staticmethod
    def _patient() -> contextlib.AbstractContextManager[Any]:
        """Orbax ends a save after 20 minutes by the time of day; a clock that is set must not end one of a process."""
        if jax.process_count() > 1:  # where a process may wait for another that is gone
            return contextlib.nullcontext()
        return ocp.Context(async_options=ocp.options.AsyncOptions(timeout_secs=4 * 10**9))

    def save(self, step: int, state: Any, *, accuracy: float | None = None) -> None:
        """Starts writing a state; returns once its values are copied, the writing goes on behind.

        Args:
          step: the number of steps taken; a step that is already stored is left as it is.
          state: a tree of arrays.
          accuracy: the value by which the best checkpoint is kept: accuracy on KNOWN validation images.
        """
        with self._writing(), self._patient():  # waits for an earlier save, whose failure shows here
            if any(info.step == step for info in self._checkpointer.checkpoints):
                return
            metrics: Any = None if accuracy is None else {"accuracy": float(accuracy)}
            checksums: Any = {"crc32": _checksums(state)}
            self._checkpointer.save_async(step, state, metrics=metrics, custom_metadata=checksums)

    def wait(self) -> None:
        """Blocks until what was saved is on disk."""
        with self._writing():
            self._checkpointer.wait()

    def steps(self) -> list[int]:
        """The stored steps, ascending."""
        return sorted(info.step for info in self._checkpointer.checkpoints)

    def best_step(self) -> int | None:
        """The stored step with the highest accuracy, the latest of equals; None if none has one."""
        scored = [
            (info.metrics["accuracy"], info.step)
            for info in self._checkpointer.checkpoints
            if isinstance(info.metrics, dict)
        ]
        return max(scored)[1] if scored else None

    def restore(self, step: int, like: State) -> State:
        """The state stored at a step, bit for bit.

        Args:
          step: one of :meth:`steps`.
          like: a tree of arrays (or of ``jax.ShapeDtypeStruct`` with shardings) of the stored structure.

        Returns:
          The stored tree, placed as ``like`` is.

        Raises:
          ValueError: the stored bytes are not the ones that were written.
          Exception: whatever Orbax raises for a missing or unreadable file.
        """
        state = self._checkpointer.load(step, jax.tree.map(_abstract, like))
        _compare_checksums(step, self._checkpointer.metadata(step).custom_metadata, state)
        return state

    def restore_latest(self, like: State) -> Restored | None:
        """The newest readable state; damaged ones are moved to ``damaged-STEP`` beside the directory.

        Args:
          like: as for :meth:`restore`.

        Returns:
          The state with its step and reports, or None where nothing is stored.

        Raises:
          UnreadableCheckpointsError: checkpoints exist, here or set aside, and none can be read; none is deleted.
        """
        reports = list(self._reports)
        for step in reversed(self.steps()):
            state, reason = like, ""
            try:
                if jax.process_count() == 1:
                    state = self.restore(step, like)
                else:
                    self._check_alone(step, like)
            except Exception as error:  # whatever a damaged file makes the reader raise
                reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
            # The processes read together, and wait for each other: only what process 0 could read as a whole.
            if reason := processes.gather_text(reason)[0]:
                reports.append(f"checkpoint of step {step} is damaged ({reason})")
                continue
            if jax.process_count() > 1:
                state = self.restore(step, like)
            self._set_aside([other for other in self.steps() if other > step])
            return Restored(step, state, tuple(reports))
        reports += [f"{path.name} was set aside" for path in sorted(self.directory.parent.glob("damaged-*"))]
        if reports:
            raise UnreadableCheckpointsError(
                f"no readable checkpoint in {self.directory}: "
                + "; ".join(reports)
                + ". Start in a new run directory, or delete this one"
            )
        return None

    def _check_alone(self, step: int, like: Any) -> None:
        """Raises where process 0 cannot read a stored state without the others, who read one small array.

        Read they must: Orbax numbers the operations of a process, and numbers that differ would wait for each other.
        """
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(), active_processes={jax.process_index()}
        )
        with ocp.Context(multiprocessing_options=alone):
            leaves, tree = jax.tree.flatten(self._stored_like(like))
            host: list[Any] = [np.empty(leaf.shape, leaf.dtype) for leaf in leaves]
            if not processes.is_first():
                smallest = min(range(len(host)), key=lambda leaf: host[leaf].size)
                host = [leaf if number == smallest else ocp.PLACEHOLDER for number, leaf in enumerate(host)]
            found = ocp.load(str(self.directory / str(step)), tree.unflatten(host), checkpointable_name="state")
            metadata: Any = ocp.metadata(str(self.directory / str(step)))
        if processes.is_first():
            _compare_checksums(step, metadata.custom_metadata, found)

    def _stored_like(self, like: Any) -> Any:
        """Shapes of what is stored for a state."""
        return jax.tree.map(_abstract, like)

    @contextlib.contextmanager
    def _writing(self) -> Generator[None]:
        """Turns what Orbax and TensorStore raise where they cannot write into one line."""
        try:
            with writing(self.directory):
                yield
        except FileError:
            raise
        except Exception as error:
            if processes.is_lost(error) or not re.match("[A-Z_]{6,}: ", str(error)):  # no status of a file operation
                raise
            reason = re.search(r"([^:]+) \[os_error", str(error))  # the operating system's own words
            with writing(self.directory):
                raise OSError(reason[1].strip() if reason else str(error).partition("\n")[0][:300]) from error

    def _set_aside_unlistable(self) -> list[str]:
        """Moves checkpoints whose small JSON files are broken: Orbax could not even list the directory."""
        reports = []
        # Leavings of a killed save. Orbax would remove them behind a save, and twice at once where it is opened twice.
        for path in self.directory.glob("*.orbax-checkpoint-tmp*") if processes.is_first() else ():
            shutil.rmtree(path)
        for path in sorted(self.directory.glob("[0-9]*")) if processes.is_first() else ():
            if not path.name.isdigit():
                continue
            for name in ("_CHECKPOINT_METADATA", "metrics/metrics"):
                try:
                    value = json.loads((path / name).read_text())
                    if not isinstance(value, dict):
                        raise TypeError(f"{type(value).__name__} in place of an object")
                    if name.startswith("metrics"):
                        float(value["accuracy"])
                except FileNotFoundError:
                    continue
                except (OSError, ValueError, TypeError, KeyError) as error:
                    reports.append(f"checkpoint of step {path.name} is damaged ({name}: {error}): set aside")
                    self._move_aside(path)
                    break
        processes.gather_text("")  # the others list the directory after this
        return reports

    def _set_aside(self, steps: list[int]) -> None:
        if not steps:
            return
        self._checkpointer.close()
        for step in steps if processes.is_first() else ():
            self._move_aside(self.directory / str(step))
        processes.gather_text("")  # the others open the directory after this
        self._checkpointer = self._open()

    def _move_aside(self, path: Path) -> None:
        target = self.directory.parent / f"damaged-{path.name}"
        attempt = 0
        while target.exists():
            attempt += 1
            target = self.directory.parent / f"damaged-{path.name}.{attempt}"
        path.rename(target)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and jax.process_count() > 1:
            return  # a save that waits for a lost process would never end
        with contextlib.suppress(*[FileError] * (error is not None)), self._writing():
            self._checkpointer.close()


class LaneCheckpoints(Checkpoints):
    """The checkpoints of a sweep: its lanes without those that pad it, so that any number of devices goes on with them.

    Args:
      directory: as for :class:`Checkpoints`.
      lanes: number of lanes to keep; a state has at least as many.
      mesh: where the lanes of restored states go.
    """

    def __init__(self, directory: str | Path, *, lanes: int, mesh: jax.sharding.Mesh) -> None:
        super().__init__(directory)
        everywhere, members = sharding.replicated(mesh), sharding.lane_sharding(mesh)
        self._cut = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf[:lanes], state), out_shardings=everywhere)
        self._kept = lambda leaf: jax.ShapeDtypeStruct((lanes, *leaf.shape[1:]), leaf.dtype, sharding=everywhere)
        self._lanes, self._members = lanes, members

    def save(self, step: int, state: Any, *, accuracy: float | None = None) -> None:
        """As :meth:`Checkpoints.save`, for a state with all its lanes."""
        padded = jax.tree.leaves(state)[0].shape[0] > self._lanes
        super().save(step, self._cut(state) if padded else state, accuracy=accuracy)

    def restore(self, step: int, like: Any) -> Any:
        """As :meth:`Checkpoints.restore`; lanes of ``like`` beyond those kept repeat the last."""
        added = jax.tree.leaves(like)[0].shape[0] - self._lanes
        if not added:
            return super().restore(step, like)

        def pad(leaf: jax.Array) -> jax.Array:
            return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], added, axis=0)])

        stored = super().restore(step, self._stored_like(like))
        return jax.jit(lambda state: jax.tree.map(pad, state), out_shardings=self._members)(stored)

    def _stored_like(self, like: Any) -> Any:
        return jax.tree.map(self._kept, like)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _compare_checksums(step: int, written: Any, state: Any) -> None:
    if written != {"crc32": _checksums(state)}:
        raise ValueError(f"checksums of {step=} differ from those that were written")


def _checksums(state: Any) -> list[int]:
    """CRC-32 of every leaf's bytes; a leaf that is spread over processes is gathered, so that any number can check."""
    sums = []
    for leaf in jax.tree.leaves(state):
        if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            from jax.experimental import multihost_utils

            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        sums.append(zlib.crc32(np.ascontiguousarray(np.asarray(leaf)).tobytes()))
    return sums
