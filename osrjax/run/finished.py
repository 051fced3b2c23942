"""A finished run, opened again: its configuration, its method, its network and, when asked for, its images.

What the scripts that train leave behind is read here alone; a script that works on trained networks asks the method
of the run, never which script made it. A run directory may come from anywhere: what is read is checked, and what is
of another run, damaged or of another type is refused by name.
"""

import dataclasses
import json
import reprlib
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from osrjax.data import OpenSetData, Source, choose_data, content_of, open_source, other_content
from osrjax.data.source import MissingDataError
from osrjax.data.splits import ClassSplit
from osrjax.data.table import set_name
from osrjax.devices.cpu import compiler_options
from osrjax.fields import check_type
from osrjax.files import FileError, file_sha256, read_arrays, read_json
from osrjax.methods.find import make_method, method_source
from osrjax.methods.method import Method, Task, check_image_shape
from osrjax.methods.table import METHODS
from osrjax.run.directory import TRAIN_AGAIN, check_files, read_network
from osrjax.train.apply import NotFiniteError, apply_in_batches, check_finite

__all__ = ["FinishedRun", "open_finished"]

_RESTORE = "restore it, or train in a new run directory"


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """The files of a finished run; what is large is read at its first use.

    Attributes:
      directory: the run directory.
      config: config.json, every field of the configuration by name.
      provenance: provenance.json: ``split``, ``known_names``, ``image_shape`` and more.
      data_dir: where prepared sets are now; None for where the configuration says.
      own_method: MODULE:FUNCTION of a method that is not of this package, which the user has named again.
      data_now: what opens the run's data now, if it has moved: ``npz:FILE``, say.
      unknown_data_now: the same of the unknown classes' source, where the run has one.
    """

    directory: Path
    config: dict[str, Any]
    provenance: dict[str, Any]
    data_dir: Path | None = None
    own_method: str | None = None
    data_now: str | None = None
    unknown_data_now: str | None = None

    @cached_property
    def method(self) -> Method:
        """The method that was trained; a ValueError where this version cannot read it."""
        name, named = self.config.get("method"), f"run={str(self.directory)!r}"
        if isinstance(name, str) and name not in METHODS and name != self.own_method:
            raise ValueError(
                f"{named} was trained with method={name!r}, which is not of this package: name it again (--own-method"
                f" {name}) to have that code imported"
            )
        try:
            check_type("method", name, str | None)
            steps = max(1, self.number("steps")) if "steps" in self.config else 1
            task = Task(len(self.provenance["known_names"]), tuple(self.provenance["image_shape"]), steps)
            method = make_method(self.config, task)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise ValueError(f"{named}: {error}") from error
        for source, checksum in method_source(method.options.method).items():
            if self.provenance.get(source, checksum) != checksum:
                raise ValueError(f"{named} was trained with another {source}: restore that file, or train again")
        return method

    def number(self, name: str) -> int:
        """An integer of the configuration, such as ``seed``; a ValueError where it is none."""
        found: Any = self.config.get(name)
        check_type(name, found, int)
        return found

    @cached_property
    def network(self) -> Any:
        """The network in float32, to be applied to :attr:`variables`."""
        return self.method.make_network(jnp.float32)

    @cached_property
    def variables(self) -> dict[str, Any]:
        """``{"params": ..., "batch_stats": ...}`` after the last step, on the default device."""
        path = self.directory / "network.npz"
        found = read_network(path)
        self._check_file(path)
        image = jax.ShapeDtypeStruct((1, *self.provenance["image_shape"]), jnp.float32)
        wanted = jax.eval_shape(partial(self.network.init, train=False), jax.random.key(0), image)
        shapes = _shapes({name: wanted[name] for name in ("params", "batch_stats")})
        there = _shapes(found)
        for name in sorted(shapes.keys() | there.keys()):
            if there.get(name) != shapes.get(name):
                raise FileError(
                    f"{path} is of another network ({name} has shape {there.get(name, 'none')}, not"
                    f" {shapes.get(name, 'none')}): {TRAIN_AGAIN}"
                )
        return jax.tree.map(jnp.asarray, found)

    @cached_property
    def split(self) -> ClassSplit:
        """The known and unknown classes."""
        stored: Any = self.provenance.get("split")
        try:
            lists = {name: tuple(stored[name]) for name in ("known", "unknown")}
            return ClassSplit(**(stored | lists))
        except (TypeError, KeyError, ValueError) as error:
            raise FileError(
                f"{self.directory / 'provenance.json'} has no split that can be read: {_RESTORE}"
            ) from error

    @cached_property
    def data(self) -> OpenSetData:
        """The images that the run was about; a ValueError where they are no longer the same set."""
        split, data = self._choose(self._data_fields)
        if differing := other_content(self.provenance, json.loads(json.dumps(content_of(data, split)))):
            raise ValueError(
                f"run={str(self.directory)!r} was started with other data ({differing[0]} differs): give the data that"
                " it had, with --data if it has moved"
            )
        return data

    @property
    def source(self) -> Source:
        """The source of the run's data, with images that took no part in it too; refused as :attr:`data`."""
        _ = self.data
        return open_source(self._data_fields["data"], data_dir=self._data_fields.get("data_dir"))

    @cached_property
    def _data_fields(self) -> dict[str, Any]:
        now = {"data": self.data_now, "unknown_data": self.unknown_data_now, "data_dir": self.data_dir}
        fields = self.config | {name: value for name, value in now.items() if value is not None}
        if self.data_now is not None and isinstance(there := self.config.get("data"), str):
            fields["dataset"] = self.config.get("dataset") or set_name(there)  # the file may have another name now
        known, names = fields.get("known"), self.provenance.get("known_names")
        if names and isinstance(known, list) and len(known) == len(names) and all(type(c) is int for c in known):
            fields["known"] = names  # what a number means has changed once; a name has not
        return fields

    def data_of_lists(self, dataset: str) -> OpenSetData:
        """The run's known images with the unknown classes that its family lists for another set.

        Args:
          dataset: such as cifar+50 for a run of cifar+10, whose known classes are the same.

        Raises:
          ValueError: the known images are not those of the run.
        """
        split, data = self._choose(self._data_fields | {"dataset": dataset})
        now, known = content_of(data, split)["sha256"], content_of(self.data, self.split)["sha256"]
        if differing := [part for part in known if part != "test_unknown" and known[part] != now[part]]:
            raise ValueError(f"dataset={dataset!r} has other known classes than the run ({differing[0]}): train on it")
        return data

    def _choose(self, fields: dict[str, Any]) -> tuple[ClassSplit, OpenSetData]:
        try:
            return choose_data(fields)
        except MissingDataError as error:
            raise ValueError(
                f"run={str(self.directory)!r}: {error}; if it has moved, say where it is now: --data, --unknown-data or"
                " --data-dir"
            ) from error

    def outputs(self, images: np.ndarray, *, batch_size: int = 500) -> dict[str, np.ndarray]:
        """The method's outputs for images.

        Args:
          images: uint8, of the shape that the run knows.
          batch_size: images a call.

        Returns:
          Host arrays by name, one row per image.

        Raises:
          NotFiniteError: what the network gives is no number.
        """
        return self.checked(apply_in_batches(partial(self._forward, self.variables), images, batch_size=batch_size))

    def checked(self, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of the network, unless they are no numbers (a NotFiniteError)."""
        try:
            check_finite(outputs)
        except NotFiniteError as error:
            raise NotFiniteError(f"run={str(self.directory)!r} gives {error}: restore its network.npz") from error
        return outputs

    @cached_property
    def _forward(self) -> Any:
        return jax.jit(self.method.outputs, compiler_options=compiler_options())

    def stored_outputs(self, *parts: str) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
        """The outputs that the run kept in scores.npz.

        Args:
          *parts: of ``train``, ``validation``, ``known``, ``unknown``.

        Returns:
          Outputs by part and name, and labels by part.

        Raises:
          ValueError: they are not what the run's network gives for as many images as the run has.
        """
        path = self.directory / "scores.npz"
        arrays = read_arrays(path, TRAIN_AGAIN)
        self._check_file(path)
        found = {
            part: {name.removeprefix(f"{part}_"): rows for name, rows in arrays.items() if name.startswith(f"{part}_")}
            for part in parts
        }
        image = jax.ShapeDtypeStruct((1, *self.provenance["image_shape"]), jnp.float32)
        wanted = jax.eval_shape(self.method.outputs, self.variables, image)
        shapes = {name: rows.shape[1:] for name, rows in wanted.items()} | {"labels": ()}
        for part, outputs in found.items():
            sizes = {len(rows) for rows in outputs.values() if rows.ndim}
            if {name: rows.shape[1:] for name, rows in outputs.items() if rows.ndim} != shapes or len(sizes) != 1:
                raise FileError(f"{path} is of another run (the {part} outputs have other shapes): {TRAIN_AGAIN}")
            if not self._fit(part, outputs["labels"]):
                raise FileError(f"{path} is of another run (the {part} labels are others): {TRAIN_AGAIN}")
        return found, {part: rows.pop("labels") for part, rows in found.items()}

    def _fit(self, part: str, labels: np.ndarray) -> bool:
        """Whether labels may be those of a part of the run's data."""
        counts = self.provenance.get("images")
        name = part if part in ("train", "validation") else f"test_{part}"
        count = counts.get(name, len(labels)) if isinstance(counts, dict) else len(labels)
        classes = np.inf if part == "unknown" else len(self.provenance["known_names"])
        integers = labels.dtype.kind in "iu" and 0 < len(labels) == count
        return integers and bool(0 <= labels.min() <= labels.max() < classes)

    def _check_file(self, path: Path) -> None:
        """Refuses a file that is not the one that the run wrote, where it remembers."""
        remembered = self.provenance.get("files")
        checksum = remembered.get(path.name) if isinstance(remembered, dict) else None
        if checksum is not None and checksum != file_sha256(path):
            raise FileError(f"{path} is not the file that this run wrote: restore that one, or {TRAIN_AGAIN}")


def _shapes(variables: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree.leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def open_finished(
    directory: Path,
    *,
    argument: str = "run",
    needed: Sequence[str] = ("config.json", "provenance.json", "network.npz"),
    data_dir: Path | None = None,
    own_method: str | None = None,
    data: str | None = None,
    unknown_data: str | None = None,
) -> FinishedRun:
    """Opens the run directory of a run that has finished; takes no lock and writes nothing.

    Args:
      directory: as given by the user.
      argument: what the user knows it by, for errors.
      needed: files that must be there, in the order in which a missing one is reported.
      data_dir: directory of prepared sets, if not where the run found them.
      own_method: as in :class:`FinishedRun`.
      data: what opens the run's data now, if it has moved; another set is refused when it is read.
      unknown_data: the same of the unknown classes' source.

    Returns:
      The run.

    Raises:
      ValueError: a needed file is missing, or a JSON file is damaged or says what no run can be.
    """
    check_files(directory, needed, argument=argument)
    config, provenance = (read_json(directory / name, _RESTORE) for name in ("config.json", "provenance.json"))
    names, shape = provenance.get("known_names"), provenance.get("image_shape")
    where = directory / "provenance.json"
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise FileError(f"{where} lists no known_names: {_RESTORE}")
    sizes = isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)
    if not sizes or shape[2] not in (1, 3):
        raise FileError(f"{where} has image_shape={reprlib.repr(shape)}, not height, width, 1 or 3: {_RESTORE}")
    check_image_shape(shape, str(where))
    return FinishedRun(directory, config, provenance, data_dir, own_method, data, unknown_data)
