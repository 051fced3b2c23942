"""The run directory: what a run was, what it measured, and nothing written by anyone else.

::

    RUN/config.json        the resolved configuration      RUN/metrics.jsonl   one line per logged step
    RUN/provenance.json    split, checksums of data, own   RUN/events/         the same for TensorBoard
                           method, files; every start      RUN/scores.npz      outputs for every image
    RUN/checkpoints/       osrjax.run.checkpoint           RUN/network.npz     the final network
    RUN/figures/           PNG and SVG                     RUN/results.json    the final numbers
    RUN/probes/            one probe a file                RUN/probe.npz       all probes (osrjax.analysis.probe)
    RUN/norms/             Jacobian norms so far           RUN/norms.npz       of every test image
    RUN/profile/           a trace of some steps, for TensorBoard or Perfetto
    RUN/page.html          all of it to look at (osrjax.report.page)

Files appear whole or not at all (written beside and renamed), so a kill at any moment leaves a directory from
which the same command goes on.
"""

import contextlib
import fcntl
import json
import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from osrjax import files
from osrjax.data.identity import other_content
from osrjax.methods.table import METHOD_SOURCE
from osrjax.run.events import Events as _Events

__all__ = ["PAGE", "TRAIN_AGAIN", "Run", "check_files", "open_run", "read_network"]

PAGE = "page.html"
TRAIN_AGAIN = "delete it and the results.json beside it, then give the training's command again"

# What a new directory may hold: of a start that was killed at once, of the file system, and what a queue or shell logs.
_HARMLESS = re.compile(r"\..*|lost\+found|.*\.(log|out|err)")


class Run:
    """One run directory, locked while it is open.

    Args:
      directory: made if it does not exist.
      config: plain JSON values. A directory that holds another configuration is refused.
      content: plain JSON values that say which data the run is about; a directory that was started with other
        data is refused.
      ignore: names of fields that may differ between two starts of one run (the directory itself, say).
      places: names of fields that may differ where the content is the same: where the data lies.
      defaults: what fields mean that the directory lacks, since they came after its time.
      argument: what the user knows the directory by, for errors.
      writes: False in a process that is not the first of several: it reads, and locks and writes nothing. The
        attribute is False too where a finished run lies on a disk that cannot be written.

    Raises:
      ValueError: the directory belongs to another configuration or to other data, is in use by another process, is
        not writable, is not empty and no run directory, holds a link, or a file of it is damaged.
    """

    def __init__(
        self,
        directory: str | Path,
        config: Mapping[str, Any],
        *,
        content: Mapping[str, Any] | None = None,
        ignore: tuple[str, ...] = (),
        places: tuple[str, ...] = (),
        defaults: Mapping[str, Any] | None = None,
        argument: str = "directory",
        writes: bool = True,
    ) -> None:
        files.check_local(argument, str(directory))
        self.directory = Path(directory)
        self._named = f"{argument}={str(directory)!r}"
        self._events: Any = None
        self._lock: Any = None
        self.writes = writes
        if not writes:
            return
        config, content, defaults = (json.loads(files.json_text(given or {})) for given in (config, content, defaults))
        try:
            self._claim()
        except OSError as error:
            if not all((self.directory / name).is_file() for name in ("config.json", "results.json")):
                raise ValueError(f"{self._named} cannot be written ({error.strerror}): choose another one") from error
            self.writes = False
        try:
            self._check_config(config, {*ignore, *places}, defaults)
            self._check_content(content, [name for name in places if name in config], config)
        except BaseException:
            self.close()
            raise

    def _claim(self) -> None:
        """Makes the directory and locks it; an OSError where it cannot be written."""
        self.directory.mkdir(parents=True, exist_ok=True)
        present = [path.name for path in self.directory.iterdir() if not _HARMLESS.fullmatch(path.name)]
        if present and "config.json" not in present:
            raise ValueError(f"{self._named} is neither empty nor a run directory: choose another")
        files.check_no_links(self.directory)
        self._lock = files.open_to_append(self.directory / ".lock")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            reason = "is in use by another process: wait for it or choose another"
            if not isinstance(error, BlockingIOError):
                reason = f"cannot be locked ({error.strerror}): choose one on a file system with locks"
            raise ValueError(f"{self._named} {reason}") from error

    def _check_config(self, config: dict[str, Any], ignore: set[str], defaults: Mapping[str, Any]) -> None:
        """Refuses a directory of another configuration; writes the configuration into a new one."""
        stored = self.read_json("config.json")
        if stored is None:
            return self.write_json("config.json", config)
        before, now = dict(defaults) | stored, dict.fromkeys(stored) | config
        differing = [name for name in sorted(now.keys() - ignore) if before.get(name) != now[name]]
        if not differing:
            return None
        name, remedy = differing[0], "choose another directory or repeat the stored configuration"
        there = f"there {name}={stored[name]!r}" if name in stored else f"there no {name}"
        if name not in stored and name in defaults:
            there += f", which means {defaults[name]!r}"
        if name not in config:
            remedy = "choose another directory, or go on with the version that made it"
        raise ValueError(
            f"{self._named} belongs to another configuration: {there}, now"
            f" {repr(config[name]) if name in config else 'there is no such field'}"
            + (f" ({len(differing) - 1} more differ)" if len(differing) > 1 else "")
            + f"; {remedy}"
        )

    def _check_content(self, content: dict[str, Any], places: Sequence[str], config: Mapping[str, Any]) -> None:
        """Refuses a directory of other data, or of a method that has changed; writes the content into a new one."""
        stored = self.read_json("provenance.json")
        if stored is None:
            return self.write_json("provenance.json", {**content, "starts": []})
        differing = other_content(stored, content)
        if sources := [name for name in differing if name.startswith(METHOD_SOURCE)]:
            raise ValueError(
                f"{self._named} was started with another {sources[0]}: choose another directory or restore that file"
            )
        if not differing:
            return None
        before = self.read_json("config.json") or config
        moved = [f", {n}={before.get(n)!r} then, {config[n]!r} now" for n in places if before.get(n) != config[n]]
        raise ValueError(
            f"{self._named} was started with other data ({differing[0]} differs{''.join(moved)}):"
            " choose another directory or give the data that it had"
        )

    def record_start(self, start: Mapping[str, Any]) -> None:
        """Appends versions, source revision and devices of this start (:func:`provenance`) to provenance.json."""
        if not self.writes:
            return
        stored = self.read_json("provenance.json")
        starts = stored.get("starts")
        self.write_json("provenance.json", stored | {"starts": [*(starts if isinstance(starts, list) else []), start]})

    def start_log(self, step: int) -> None:
        """Opens the logs for steps after ``step`` and drops later lines, which a killed run may have left."""
        if not self.writes:
            return
        path = self.directory / "metrics.jsonl"
        if path.exists():
            with files.reading(path, "delete it, or restore it"):
                lines = path.read_text(errors="replace").splitlines()
            kept = [line for line in lines if _logged_step(line) <= step]
            files.write_whole(path, "".join(line + "\n" for line in kept).encode())
        with files.writing(path):
            self._log = files.open_to_append(path)
        self._events = _Events(self.directory / "events", step + 1)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends scalars to metrics.jsonl and to the TensorBoard events.

        Args:
          step: the number of steps taken.
          metrics: names such as ``train/loss``; null in metrics.jsonl where not finite.
        """
        if not self.writes:
            return
        values = {name: float(value) for name, value in metrics.items()}
        with files.writing(self.directory / "metrics.jsonl"):
            self._log.write(files.json_text({"step": step, **values}) + "\n")
            self._log.flush()
        self._events.add(step, values)

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file whole or not at all."""
        if self.writes:
            files.write_json(self.directory / name, value)

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes a compressed .npz file whole or not at all."""
        if self.writes:
            files.write_arrays(self.directory / name, arrays)

    def write_network(self, variables: Any) -> None:
        """Writes parameters and statistics to network.npz, one array per ``/``-joined path."""
        import jax

        leaves = jax.tree.leaves_with_path(variables)
        self.write_arrays(
            "network.npz",
            {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves},
        )

    def remember_files(self, *names: str) -> None:
        """Keeps the checksums of files in provenance.json, by which a finished run tells them from others."""
        if self.writes:
            found = {name: files.file_sha256(self.directory / name) for name in names}
            self.write_json("provenance.json", {**self.read_json("provenance.json"), "files": found})

    def read_json(self, name: str) -> Any:
        """The content of a JSON file of the run, or None where it does not exist yet; a FileError if it is damaged."""
        path = self.directory / name
        needed = name in ("config.json", "provenance.json")
        remedy = (
            "restore it, or start in a new run directory" if needed else "delete it and give the same command again"
        )
        return files.read_json(path, remedy) if path.exists() else None

    def close(self) -> None:
        """Flushes the logs and releases the lock; safe to call twice."""
        with contextlib.ExitStack() as stack:  # each is closed whatever becomes of the others
            if self._lock is not None:
                stack.callback(self._lock.close)
            if self._events is not None:
                events, self._events = self._events, None
                stack.enter_context(files.writing(self.directory / "metrics.jsonl"))
                stack.callback(self._log.close)
                stack.callback(events.close)

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(*[files.FileError] * (error is not None)):  # a second failure hides no first
            self.close()


def open_run(
    directory: str | Path,
    config: Mapping[str, Any],
    *,
    content: Mapping[str, Any],
    ignore: tuple[str, ...],
    places: tuple[str, ...] = (),
    defaults: Mapping[str, Any] | None = None,
    argument: str = "directory",
    images: np.ndarray,
) -> Run:
    """Opens a run directory; several processes open it together, process 0 for writing.

    Args:
      directory: as for :class:`Run`; on a file system that all processes share.
      config: as for :class:`Run`.
      content: as for :class:`Run`.
      ignore: as for :class:`Run`.
      places: as for :class:`Run`.
      defaults: as for :class:`Run`.
      argument: as for :class:`Run`.
      images: training images; several processes compare them.

    Returns:
      The run.

    Raises:
      ValueError: in all processes: what :class:`Run` refuses, a directory that is not shared, or processes that
        differ in configuration or images.
    """
    import jax

    from osrjax.devices import processes

    several = jax.process_count() > 1
    if several:
        own = ("coordinator", "process", "data_dir", "compilation_cache")  # may differ from process to process
        alike = {name: value for name, value in config.items() if name not in own}
        processes.check_alike(
            alike | dict(content) | {"out": str(directory), "training images": zlib.crc32(images.tobytes())}
        )
    first = processes.is_first()
    of_run: Any = {"content": content, "ignore": ignore, "places": places, "defaults": defaults, "argument": argument}
    run = processes.refuse_together(lambda: Run(directory, config, **of_run, writes=first))
    if several:
        processes.refuse_together(lambda: processes.check_shared(run.directory / "provenance.json"))
    return run


def check_files(directory: Path, needed: Sequence[str], *, argument: str = "run") -> None:
    """Refuses a run directory that lacks files, before anything is imported that reads them.

    Args:
      directory: as given by the user.
      needed: names of files, in the order in which a missing one is reported.
      argument: what the user knows the directory by.

    Raises:
      ValueError: a file is missing.
    """
    files.check_local(argument, directory)
    missing = next((name for name in needed if not (directory / name).is_file()), None)
    if missing is None:
        return
    remedy = "finish its training first"
    if not (directory / "config.json").is_file():
        remedy = "give the directory of a finished run, such as runs/bundled-neal0-seed0"
    elif any((directory / name).exists() for name in ("results.csv", "outputs.npz")):
        remedy = "a sweep keeps no networks; the results.csv of an ablation has the command of every lane, to train it"
    elif (directory / "results.json").exists():
        remedy = "restore it, or delete the results.json beside it and give the training's command again"
    raise ValueError(f"{argument}={str(directory)!r} has no {missing}: {remedy}")


def read_network(path: str | Path) -> dict[str, Any]:
    """The nested mapping of arrays that :meth:`Run.write_network` stored.

    Args:
      path: the network.npz of a run.

    Returns:
      ``{"params": ..., "batch_stats": ...}``, as ``network.apply`` takes it.

    Raises:
      FileError: the file is cut or damaged, or a number in it is not finite.
    """
    variables: dict[str, Any] = {}
    for name, array in files.read_arrays(Path(path), TRAIN_AGAIN).items():
        *parents, leaf = name.split("/")
        node = variables
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise files.FileError(f"{path} is of no network (two arrays share the name {name}): {TRAIN_AGAIN}")
        node[leaf] = array
    return variables


def _logged_step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # the last line of a killed run may be cut
        warnings.warn(f"metrics.jsonl: a cut line is dropped: {line[:40]!r}", stacklevel=3)
        return float("inf")
