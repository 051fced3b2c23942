"""The backbones by name; nothing heavy is imported before one is used."""

from typing import TYPE_CHECKING, Literal

__all__ = ["BACKBONES", "NetworkName"]

BACKBONES = {
    "small_cnn": "osrjax.models.backbones:SmallCNN",
    "fast_cnn": "osrjax.models.backbones:FastCNN",
    "classifier32": "osrjax.models.backbones:Classifier32",
    "wrn16_4": "osrjax.models.backbones:wide_resnet_16_4",
    "resnet18_w16": "osrjax.models.backbones:resnet18_w16",
    "resnet18": "osrjax.models.backbones:resnet18",
    "resnet34": "osrjax.models.backbones:resnet34",
    "resnet50": "osrjax.models.backbones:resnet50",
}

# The type of a field of a configuration: its choices are the names of the table.
if TYPE_CHECKING:
    NetworkName = str
else:
    NetworkName = Literal[tuple(BACKBONES)]
