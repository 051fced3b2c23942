"""The run directory: what a run was, what it measured, and nothing written by anyone else.

::

    RUN/config.json        the resolved configuration      RUN/metrics.jsonl   one line per logged step
    RUN/provenance.json    data, split; versions, device   RUN/events/         the same for TensorBoard
                           and source of every start       RUN/scores.npz      outputs for every image
    RUN/checkpoints/       osrjax.run.checkpoint           RUN/network.npz     the final network
    RUN/figures/           PNG and SVG                     RUN/results.json    the final numbers
    RUN/probes/            one probe a file                RUN/probe.npz       all probes (osrjax.analysis.probe)
    RUN/norms/             Jacobian norms so far           RUN/norms.npz       of every test image
    RUN/profile/           a trace of some steps, for TensorBoard or Perfetto

Files appear whole or not at all (written beside and renamed), so a kill at any moment leaves a directory from
which the same command goes on.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
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
from osrjax.fields import execution_fields
from osrjax.run.events import Events as _Events

__all__ = ["Run", "check_files", "open_run", "read_network", "run_name"]


class Run:
    """One run directory, locked while it is open.

    Args:
      directory: made if it does not exist.
      config: plain JSON values. A directory that holds another configuration is refused.
      content: plain JSON values that say which data the run is about; a directory that was started with other
        data is refused.
      ignore: names of fields that may differ between two starts of one run (the directory itself, say).
      writes: False in a process that is not the first of several: it reads, and locks and writes nothing.

    Raises:
      ValueError: the directory belongs to another configuration, is in use by another process, is not
        writable, is not empty and no run directory, or a file of it is damaged.
    """

    def __init__(
        self,
        directory: str | Path,
        config: Mapping[str, Any],
        *,
        content: Mapping[str, Any] | None = None,
        ignore: tuple[str, ...] = (),
        writes: bool = True,
    ) -> None:
        self.directory = Path(directory)
        self._events: Any = None
        self.writes = writes
        if not writes:
            return
        config = json.loads(files.json_text(config))
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            present = {path.name for path in self.directory.iterdir()}
            leavings = {".lock", ".config.json.partial"}  # of a start that was killed at once
            if present - leavings and "config.json" not in present:
                raise ValueError(
                    f"directory={str(self.directory)!r} is neither empty nor a run directory: choose another"
                )
            self._lock = (self.directory / ".lock").open("w")
        except OSError as error:
            raise ValueError(
                f"directory={str(self.directory)!r} cannot be written ({error.strerror}): choose another one"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise ValueError(
                f"directory={str(self.directory)!r} is in use by another process: wait for it or choose another"
            ) from error
        except OSError as error:
            self._lock.close()
            raise ValueError(
                f"directory={str(self.directory)!r} cannot be locked ({error.strerror}): choose one on a file system"
                " with locks"
            ) from error
        try:
            self._check_owner(config, content, ignore)
        except BaseException:
            self._lock.close()
            raise

    def _check_owner(
        self, config: Mapping[str, Any], content: Mapping[str, Any] | None, ignore: tuple[str, ...]
    ) -> None:
        """Refuses a directory of another configuration or of other data; writes both into a new one."""
        if (stored := self.read_json("config.json")) is not None:
            names = sorted((stored.keys() | config.keys()) - set(ignore))
            differing = [name for name in names if stored.get(name) != config.get(name)]
            if differing:
                name = differing[0]
                there = f"{name}={stored[name]!r}" if name in stored else f"no {name}"
                now = repr(config[name]) if name in config else "there is no such field"
                raise ValueError(
                    f"directory={str(self.directory)!r} belongs to another configuration: there {there}, now {now}"
                    + (f" ({len(differing) - 1} more differ)" if len(differing) > 1 else "")
                    + "; choose another directory or repeat the stored configuration"
                )
        else:
            self.write_json("config.json", config)
        stored = self.read_json("provenance.json")
        content = json.loads(files.json_text(content or {}))
        for name, value in content.items():
            if stored is not None and stored.get(name) != value:
                raise ValueError(
                    f"directory={str(self.directory)!r} was started with other data ({name} differs):"
                    " choose another directory or give the data that it had"
                )
        if stored is None:
            self.write_json("provenance.json", {**content, "starts": []})

    def record_start(self, start: Mapping[str, Any]) -> None:
        """Appends versions, source revision and devices of this start (:func:`provenance`) to provenance.json."""
        if not self.writes:
            return
        stored = self.read_json("provenance.json")
        self.write_json("provenance.json", {**stored, "starts": [*stored["starts"], dict(start)]})

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
            self._log = path.open("a")
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
            if self.writes:
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
    images: np.ndarray,
) -> Run:
    """Opens a run directory; several processes open it together, process 0 for writing.

    Args:
      directory: as for :class:`Run`; on a file system that all processes share.
      config: as for :class:`Run`.
      content: as for :class:`Run`.
      ignore: as for :class:`Run`.
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
    run = processes.refuse_together(lambda: Run(directory, config, content=content, ignore=ignore, writes=first))
    if several:
        processes.refuse_together(lambda: processes.check_shared(run.directory / "provenance.json"))
    return run


def run_name(config: Any, preset: Any, *, prefix: str = "") -> str:
    """The default name of a run directory: short, and another one for every other configuration.

    Args:
      config: a dataclass; fields marked with :class:`osrjax.fields.Execution` have no say in the name.
      preset: the defaults that it started from, of the same class.
      prefix: begins the name.

    Returns:
      Preset, class split and seed, then every other field that differs from the preset.

    Example:
      >>> from osrjax.run.launch import SingleRunConfig
      >>> run_name(SingleRunConfig(seed=3), SingleRunConfig()), run_name(SingleRunConfig(smoke=True), SingleRunConfig())
      ('bundled-seed3', 'bundled-smoke-seed0')
    """
    fields = [field.name for field in dataclasses.fields(config)]
    parts = [prefix, config.preset, "smoke" if config.smoke else ""]
    said = set(execution_fields(type(config)))
    if "split" in fields:
        said.add("split")
        if not config.known:
            said.add("family")
        parts.append(f"{'split' if config.known else config.family}{config.split}")
    if "seed" in fields:
        said.add("seed")
        parts.append(f"seed{config.seed}")
    for name in fields:
        if name not in said and getattr(config, name) != getattr(preset, name):
            parts.append(f"{name}={_brief(getattr(config, name))}")
    return _shortened("-".join(part for part in parts if part), 150)


def _brief(value: Any) -> str:
    """A value as a part of a file name: the last part of a path, the end of a long text; what is lost, as a hash."""
    text = ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    if not text:
        return "none"
    if len(text) <= 24 and re.fullmatch(r"[\w.,+-]+", text, re.ASCII):
        return text
    end = re.sub(r"[^\w.,+-]+", "_", re.split(r"[/:\\]", text)[-1], flags=re.ASCII)[-16:]
    return f"{end}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _shortened(text: str, length: int) -> str:
    """The text, or its beginning and a hash of all of it."""
    return text if len(text) <= length else f"{text[: length - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def check_files(directory: Path, needed: Sequence[str], *, argument: str = "run") -> None:
    """Refuses a run directory that lacks files, before anything is imported that reads them.

    Args:
      directory: as given by the user.
      needed: names of files, in the order in which a missing one is reported.
      argument: what the user knows the directory by.

    Raises:
      ValueError: a file is missing.
    """
    for name in needed:
        if not (directory / name).exists():
            raise ValueError(f"{argument}={str(directory)!r} has no {name}: finish its training first")


def read_network(path: str | Path) -> dict[str, Any]:
    """The nested mapping of arrays that :meth:`Run.write_network` stored.

    Args:
      path: the network.npz of a run.

    Returns:
      ``{"params": ..., "batch_stats": ...}``, as ``network.apply`` takes it.

    Raises:
      FileError: the file is cut or damaged.
    """
    variables: dict[str, Any] = {}
    remedy = "delete it and the results.json beside it, then give the training's command again"
    with files.reading(path, remedy), np.load(path) as arrays:
        for name in arrays.files:
            *parents, leaf = name.split("/")
            node = variables
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = arrays[name]
    return variables


def _logged_step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # the last line of a killed run may be cut
        warnings.warn(f"metrics.jsonl: a cut line is dropped: {line[:40]!r}", stacklevel=3)
        return float("inf")
