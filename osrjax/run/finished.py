"""A finished run, opened again: its configuration, its method, its network and, when asked for, its images.

What the scripts that train leave behind is read here alone; a script that works on trained networks asks the method
of the run, never which script made it.
"""

import dataclasses
import json
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from osrjax.data import OpenSetData, choose_data, content_of
from osrjax.data.splits import ClassSplit
from osrjax.devices.cpu import compiler_options
from osrjax.files import read_json, reading
from osrjax.methods.find import make_method
from osrjax.methods.method import Method, Task
from osrjax.methods.table import METHODS
from osrjax.run.directory import check_files, read_network
from osrjax.train.apply import NotFiniteError, apply_in_batches, check_finite

__all__ = ["FinishedRun", "open_finished"]


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """The files of a finished run; what is large is read at its first use.

    Attributes:
      directory: the run directory.
      config: config.json, every field of the configuration by name.
      provenance: provenance.json: ``split``, ``known_names``, ``image_shape`` and more.
      data_dir: where prepared sets are now; None for where the configuration says.
      own_method: MODULE:FUNCTION of a method that is not of this package, which the user has named again.
    """

    directory: Path
    config: dict[str, Any]
    provenance: dict[str, Any]
    data_dir: Path | None = None
    own_method: str | None = None

    @cached_property
    def method(self) -> Method:
        """The method that was trained; a ValueError where this version cannot read it."""
        name = self.config.get("method")
        if name is not None and name not in METHODS and name != self.own_method:
            raise ValueError(
                f"run={str(self.directory)!r} was trained with method={name!r}, which is not of this package: name it"
                f" again (--own-method {name}) to have that code imported"
            )
        classes, shape = len(self.provenance["known_names"]), tuple(self.provenance["image_shape"])
        try:
            return make_method(self.config, Task(classes, shape, max(1, self.config.get("steps", 1))))
        except (ValueError, TypeError) as error:
            raise ValueError(f"run={str(self.directory)!r}: {error}") from error

    @cached_property
    def network(self) -> Any:
        """The network in float32, to be applied to :attr:`variables`."""
        return self.method.make_network(jnp.float32)

    @cached_property
    def variables(self) -> dict[str, Any]:
        """``{"params": ..., "batch_stats": ...}`` after the last step, on the default device."""
        return jax.tree.map(jnp.asarray, read_network(self.directory / "network.npz"))

    @cached_property
    def split(self) -> ClassSplit:
        """The known and unknown classes."""
        stored = self.provenance["split"]
        known, unknown = tuple(stored["known"]), tuple(stored["unknown"])
        return ClassSplit(stored["family"], stored["dataset"], stored["index"], known, unknown, stored["two_sets"])

    @cached_property
    def data(self) -> OpenSetData:
        """The images that the run was about; a ValueError where they are no longer the same set."""
        moved = {} if self.data_dir is None else {"data_dir": self.data_dir}
        split, data = choose_data({**self.config, **moved})
        found = json.loads(json.dumps(content_of(data, split)))
        for name in ("split", "known_names", "unknown_names", "image_shape", "images"):
            if found[name] != self.provenance.get(name):
                raise ValueError(
                    f"run={str(self.directory)!r} was started with other data ({name} differs):"
                    " give the data that it had"
                )
        return data

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
        found = apply_in_batches(partial(self._forward, self.variables), images, batch_size=batch_size)
        try:
            check_finite(found)
        except NotFiniteError as error:
            raise NotFiniteError(f"run={str(self.directory)!r} gives {error}: restore its network.npz") from error
        return found

    @cached_property
    def _forward(self) -> Any:
        return jax.jit(self.method.outputs, compiler_options=compiler_options())

    def stored_outputs(self, *parts: str) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
        """The outputs that the run kept in scores.npz.

        Args:
          *parts: of ``train``, ``validation``, ``known``, ``unknown``.

        Returns:
          Outputs by part and name, and labels by part.
        """
        file = self.directory / "scores.npz"
        with reading(file, "delete it and results.json, then give the training's command again"), np.load(file) as all_:
            found = {
                part: {name.removeprefix(f"{part}_"): all_[name] for name in all_.files if name.startswith(f"{part}_")}
                for part in parts
            }
        return found, {part: rows.pop("labels") for part, rows in found.items()}


def open_finished(
    directory: Path,
    *,
    argument: str = "run",
    needed: Sequence[str] = ("config.json", "provenance.json", "network.npz"),
    data_dir: Path | None = None,
    own_method: str | None = None,
) -> FinishedRun:
    """Opens the run directory of a run that has finished; takes no lock and writes nothing.

    Args:
      directory: as given by the user.
      argument: what the user knows it by, for errors.
      needed: files that must be there, in the order in which a missing one is reported.
      data_dir: directory of prepared sets, if not where the run found them.
      own_method: as in :class:`FinishedRun`.

    Returns:
      The run.

    Raises:
      ValueError: a needed file is missing, or a JSON file is damaged.
    """
    check_files(directory, needed, argument=argument)
    remedy = "restore it, or train in a new run directory"
    config, provenance = (read_json(directory / name, remedy) for name in ("config.json", "provenance.json"))
    return FinishedRun(directory, config, provenance, data_dir, own_method)
