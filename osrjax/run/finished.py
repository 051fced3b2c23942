"""A finished run, opened again: its configuration, its network and, when asked for, its images.

What experiments/train.py and experiments/contrastive.py leave behind is read here alone, so that a script that works on
trained networks need not know which of the two made one.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from osrjax.data import OpenSetData, choose_data, content_of
from osrjax.data.splits import ClassSplit
from osrjax.files import read_json
from osrjax.methods.classify import CLASS_LOSSES
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import ContrastiveNetwork, OpenSetNetwork, unit_vectors
from osrjax.models.outputs import BatchFunction, network_functions
from osrjax.run.directory import read_network

__all__ = ["FinishedRun", "evaluation_network", "norm_functions", "open_finished"]


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """The files of a finished run; what is large is read at its first use.

    Attributes:
      directory: the run directory.
      config: config.json, every field of the configuration by name.
      provenance: provenance.json: ``split``, ``known_names``, ``image_shape`` and more.
      data_dir: where prepared sets are now; None for where the configuration says.
    """

    directory: Path
    config: dict[str, Any]
    provenance: dict[str, Any]
    data_dir: Path | None = None

    @property
    def is_contrastive(self) -> bool:
        """Whether the network has a projection head instead of class logits."""
        return "hidden" in self.config  # a field of experiments/contrastive.py alone

    @cached_property
    def network(self) -> OpenSetNetwork | ContrastiveNetwork:
        """The network in float32, to be applied to :attr:`variables`."""
        return evaluation_network(self.config, len(self.provenance["known_names"]))

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


def open_finished(
    directory: Path,
    *,
    argument: str = "run",
    needed: Sequence[str] = ("config.json", "provenance.json", "network.npz"),
    data_dir: Path | None = None,
) -> FinishedRun:
    """Opens the run directory of a run that has finished; takes no lock and writes nothing.

    Args:
      directory: as given by the user.
      argument: what the user knows it by, for errors.
      needed: files that must be there, in the order in which a missing one is reported.
      data_dir: directory of prepared sets, if not where the run found them.

    Returns:
      The run.

    Raises:
      ValueError: a needed file is missing, or a JSON file is damaged.
    """
    for name in needed:
        if not (directory / name).exists():
            raise ValueError(f"{argument}={str(directory)!r} has no {name}: finish its training first")
    remedy = "restore it, or train in a new run directory"
    config, provenance = (read_json(directory / name, remedy) for name in ("config.json", "provenance.json"))
    return FinishedRun(directory, config, provenance, data_dir)


def evaluation_network(config: Mapping[str, Any], classes: int) -> OpenSetNetwork | ContrastiveNetwork:
    """The float32 network that a configuration describes.

    Args:
      config: with ``network``, and either ``loss`` or, for a contrastive run, ``hidden`` and ``features``.
      classes: number of known classes.

    Returns:
      The module that the stored variables belong to.

    Example:
      >>> evaluation_network({"network": "small_cnn", "loss": "doc"}, classes=6).head
      'linear'
    """
    backbone = NETWORKS[config["network"]](dtype=jnp.float32)
    if "hidden" in config:
        return ContrastiveNetwork(backbone, config["hidden"], config["features"])
    return OpenSetNetwork(backbone, classes, CLASS_LOSSES[config["loss"]].head)


def norm_functions(network: OpenSetNetwork | ContrastiveNetwork) -> dict[str, BatchFunction]:
    """Functions whose input-Jacobian norms are reported for the network of a run, by name.

    Args:
      network: of either kind.

    Returns:
      ``embedding`` (at unit norm) and ``raw_embedding``, and what only one kind has: ``logits`` or ``projection`` (at
      unit norm). Each is a function of variables and float images that uses running statistics.
    """
    if isinstance(network, OpenSetNetwork):
        return network_functions(network)

    def output(name: str, variables: Any, images: Array) -> Array:
        outputs: Any = network.apply(variables, images, train=False)
        return getattr(outputs, name)

    def unit_embedding(variables: Any, images: Array) -> Array:
        return unit_vectors(output("embedding", variables, images))

    raw_embedding, projection = (partial(output, name) for name in ("embedding", "projection"))
    return {"embedding": unit_embedding, "raw_embedding": raw_embedding, "projection": projection}
