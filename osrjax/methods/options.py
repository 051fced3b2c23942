"""What a user can choose of a method, as dataclasses: the fields of every script that trains, each written once.

A field of type :data:`Traced` is a number that a compiled program reads: another value never recompiles, and lanes of
one program may differ in it. Every other field is part of the program's structure. This module imports no JAX.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from osrjax.fields import check_above_zero, check_at_most, check_not_negative, check_type
from osrjax.methods.table import MethodName
from osrjax.models.table import BACKBONES, NetworkName

__all__ = [
    "ClassifyOptions",
    "ContrastOptions",
    "ContrastWeights",
    "Options",
    "Traced",
    "options_of",
    "structure_of",
    "traced_fields",
]

Traced = Annotated[float, "traced"]
T = TypeVar("T", bound="Options")


@dataclasses.dataclass(frozen=True)
class Options:
    """What every method has."""

    method: MethodName = "m_ovr"
    """What is trained: a name of osrjax/methods/table.py, or MODULE:FUNCTION for a method of one's own."""
    hyper: tuple[str, ...] = ()
    """Hyper-parameters that are no option here, as NAME=VALUE: of cac, rpl, arpl and of methods of one's own."""
    network: NetworkName = "small_cnn"
    """Backbone; resnet18_w16 is ResNet-18 with a quarter of the channels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of training; parameters, scores and evaluation stay float32."""

    def check(self) -> None:
        """Refuses a network that does not exist, and traced numbers that are not finite.

        Raises:
          ValueError: names the field, its value and the remedy.
        """
        if self.network not in BACKBONES:
            raise ValueError(f"network={self.network!r} does not exist: choose from {', '.join(BACKBONES)}")
        for name in traced_fields(type(self)):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r} is not finite: give a number")

    def own_hyper(self, defaults: Mapping[str, float]) -> dict[str, float]:
        """The hyper-parameters that are no field here: their defaults, and what :attr:`hyper` changes.

        Args:
          defaults: every name that the method reads beside the fields, and its value.

        Returns:
          A number for each of these names.

        Raises:
          ValueError: an entry of ``hyper`` that is no NAME=VALUE, a value that is not finite, or a name that the
            method does not have or that is there twice.
        """
        found = dict(defaults)
        names = [text.partition("=")[0] for text in self.hyper]
        for text in self.hyper:
            name, equals, value = text.partition("=")
            if not equals or name not in defaults:
                known = ", ".join(f"{name}=..." for name in defaults) or "none"
                raise ValueError(f"hyper={text!r} is nothing that method={self.method!r} has: its own are {known}")
            try:
                found[name] = float(value)
            except ValueError:
                raise ValueError(f"hyper={text!r} is no number: write it as {name}=0.5") from None
            if not math.isfinite(found[name]):
                raise ValueError(f"hyper={text!r} is not finite: write it as {name}=0.5")
            if names.count(name) > 1:
                raise ValueError(f"hyper={list(self.hyper)} names {name} twice: leave one out")
        return found


@dataclasses.dataclass(frozen=True)
class ClassifyOptions(Options):
    """Options of methods that classify: the losses on class logits, with rotations or masks."""

    margin: Traced = 0.5
    """m of m-OvR, radians, and of its score."""
    scale: Traced = 16.0
    """T, by which cosines are multiplied."""
    intra_weight: Traced = 1.0
    """Weight of the labelled class's term of a one-vs-rest loss."""
    inter_weight: Traced = 1.0
    """Weight of the other classes' terms."""
    rotations: Literal["none", "one", "all"] = "none"
    """Self-supervision: predict the rotation of no copy, one randomly rotated copy, or all four."""
    rotation_weight: Traced = 0.1
    """lambda_self, the weight of the rotation loss."""

    mixing: Literal["none", "gradmix", "random_box"] = "none"
    """Classify masked images too: boxes at the peaks of the class loss's attribution (GradMix), or anywhere."""
    cam_sign: Literal[1, -1] = 1
    """With gradmix, +1: mask what would raise the loss; -1: the evidence that lowers it."""
    cam_layers: tuple[int, ...] = ()
    """Stages whose maps are summed, 1 = the first; default: the last three."""
    fill: Literal["noise", "noise_pixel", "paste", "mean"] = "noise"
    """What goes into a box: noise shared by the channels, noise, a whole other image, the image's mean."""
    mixed_weight: Traced = 1.0
    """Weight of the masked images' class loss."""
    smallest_kept: Traced = 0.5
    """Smallest share of an image that a box leaves."""
    largest_kept: Traced = 0.9
    """Largest one."""

    learning_rate: Traced = 0.1
    """Peak learning rate of SGD, cosine to final_learning_rate."""
    final_learning_rate: Traced = 1e-5
    """Where the cosine ends, at the step after the last."""
    momentum: float = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    warmup: float = 0.0
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: Traced = 1e-3
    """L2 decay of kernels and prototypes."""
    crop_padding: int | None = None
    """Padding of the random crop, pixels; 0: no crop. Default: what the data set implies."""
    flip: bool | None = None
    """Random horizontal flip. Default: what the data set implies, off for digits."""

    def check(self) -> None:
        """Refuses what would fail late or give a plausible wrong number; errors as :meth:`Options.check`."""
        check_above_zero(self, ["learning_rate", "scale"])
        rates = ("final_learning_rate", "weight_decay")
        weights = ("rotation_weight", "intra_weight", "inter_weight", "mixed_weight")
        check_not_negative(self, ["margin", *rates, *weights, "crop_padding"])
        if not self.margin < math.pi:
            raise ValueError(f"margin={self.margin!r} is an angle in radians: give one below pi, such as 0.5")
        check_kept(self.smallest_kept, self.largest_kept)
        meaningless = {"none": ("cam_sign", "cam_layers", "fill"), "random_box": ("cam_sign", "cam_layers")}
        check_unread(self, meaningless.get(self.mixing, ()))
        if self.mixing != "none" and self.rotations != "none":
            raise ValueError(f"mixing={self.mixing!r} with rotations={self.rotations!r} is not built: leave one out")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum!r} must be in [0, 1)")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup!r} is a share of the steps: give one in [0, 1), such as 0.2")


CAM = ("cam_sign", "cam_layers", "cam_method", "cam_aggregation", "cam_statistics", "cam_temperature")
BOX = ("fill", "mask_views", "per_image", "kept_weight", "smallest_kept", "largest_kept", "mixing_beta")
TERM = ("clean_term", "own_positive", "statistics_from")
UNREAD: dict[str, tuple[str, ...]] = {
    "none": (*CAM, *BOX, *TERM, "mixing_alpha", "reuse_second_view"),
    "gradmix": (),
    "random_box": CAM,
    "cutout": (*CAM, *BOX, "mixing_alpha", "reuse_second_view"),
} | dict.fromkeys(("mixup", "cutmix", "saliency_mix", "fmix"), (*CAM, *BOX, "reuse_second_view"))


@dataclasses.dataclass(frozen=True)
class ContrastWeights:
    """What is varied most in contrastive training."""

    supcon_weight: Traced = 1.0
    """gamma, the weight of SupCon, which reads labels; 0: self-supervised."""
    ssl_weight: Traced = 1.2
    """lambda_s, the weight of NT-Xent and the mixed term."""
    temperature: Traced = 0.05
    """T of all contrastive losses."""

    def check(self) -> None:
        """Refuses weights that leave nothing to minimise; errors as :meth:`Options.check`."""
        check_above_zero(self, ["temperature"])
        check_not_negative(self, ["supcon_weight", "ssl_weight"])
        if not self.supcon_weight and not self.ssl_weight:
            raise ValueError("supcon_weight=0 and ssl_weight=0 leave nothing to minimise: raise one of them")


@dataclasses.dataclass(frozen=True)
class ContrastOptions(ContrastWeights, Options):
    """Options of contrastive training: SupCon, NT-Xent and the mixed term of GradMix and its rivals."""

    method: MethodName = "contrast"
    """What is trained: contrast, or MODULE:FUNCTION for a method of one's own that takes these options."""
    hidden: int = 512
    """Width of the projection head's hidden layer."""
    features: int = 128
    """Length of the projection."""

    mixing: Literal["none", "gradmix", "random_box", "mixup", "cutmix", "cutout", "saliency_mix", "fmix"] = "gradmix"
    """The mixed term: gradmix masks boxes at the peaks of the attribution, random_box the same boxes anywhere."""
    cam_sign: Literal[1, -1] = 1
    """+1: mask what would raise the loss (the authors' code); -1: the evidence that lowers it (what is learned)."""
    cam_layers: tuple[int, ...] = ()
    """Stages whose maps are summed, 1 = the first; default: the last three."""
    cam_method: Literal["layer_cam", "grad_cam"] = "layer_cam"
    """grad_cam on the last stage alone is the authors' CamMix, up to the peak's place within its cell."""
    cam_aggregation: Literal["batch_minmax_sum", "raw_sum", "sample_max_sum"] = "batch_minmax_sum"
    """How the maps of several stages become one."""
    cam_statistics: Literal["train", "running"] = "train"
    """Batch norm in the attribution pass; running costs one more forward pass."""
    cam_temperature: float | None = None
    """T of the loss that is attributed; default: `temperature`."""
    fill: Literal["noise", "noise_pixel", "paste", "mean"] = "noise"
    """What goes into a box: noise shared by the channels, noise, a whole other image, the image's mean."""
    mask_views: Literal["first", "both"] = "first"
    """Views that are masked."""
    per_image: bool = False
    """A lambda for every image instead of one for the batch."""
    kept_weight: Literal["nominal", "true"] = "nominal"
    """Weight of the mixed term: from the nominal box, or from its area within the image."""
    smallest_kept: Traced = 0.5
    """Smallest lambda, the share of an image that a box leaves."""
    largest_kept: Traced = 0.9
    """Largest lambda."""
    mixing_alpha: float = 1.0
    """First parameter of lambda's Beta distribution; of both for mixup, cutmix, saliency_mix and fmix."""
    mixing_beta: float = 1.0
    """Second parameter for gradmix and random_box."""
    clean_term: bool = True
    """Keep NT-Xent on the clean views beside the mixed term."""
    reuse_second_view: bool = True
    """Take an unmixed view's projection from the clean pass instead of a second one."""
    own_positive: bool = False
    """An anchor's own mixed view is a positive too."""
    statistics_from: Literal["clean", "clean and mixed"] = "clean"
    """Passes that update the running statistics of batch norm."""
    block_size: int | None = None
    """Columns at a time of the contrastive losses, for large batches; default: all."""

    learning_rate: Traced = 1e-3
    """First learning rate of Adam, cosine to final_learning_rate."""
    final_learning_rate: Traced = 5.12e-4
    """Where the cosine ends."""
    crop: bool = True
    """Random resized crop of 0.2 to 1 of the area."""
    flip: bool | None = None
    """Random horizontal flip. Default: what the data set implies, off for digits."""
    jitter: float = 1.0
    """Factor of the colour jitter's strengths; 0: none."""
    policy: Literal["none", "rand_augment", "aug_mix"] = "none"
    """A published policy before everything else, in both views."""
    neighbours: int = 3
    """K of the class-wise nearest neighbours."""

    def check(self) -> None:
        """Refuses what would fail late or give a plausible wrong number; errors as :meth:`Options.check`."""
        sizes = ("neighbours", "hidden", "features")
        check_above_zero(self, ["learning_rate", *sizes, "mixing_alpha", "mixing_beta"])
        check_at_most(self, dict.fromkeys(sizes, 100_000))
        check_not_negative(self, ["final_learning_rate", "jitter"])
        if self.cam_temperature is not None and not self.cam_temperature > 0:
            raise ValueError(f"cam_temperature={self.cam_temperature!r} must be above 0, or left out")
        check_kept(self.smallest_kept, self.largest_kept)
        if self.block_size is not None and self.block_size < 1:
            raise ValueError(f"block_size={self.block_size!r} must be at least 1, or left out")
        if self.jitter > 5:
            raise ValueError(f"jitter={self.jitter!r} is above 5: give a factor of the usual strengths, such as 1")
        if not (self.crop or self.flip or self.jitter or self.policy != "none"):
            raise ValueError(
                "crop=False, flip=False, jitter=0 and policy='none' give two equal views: turn one of them on"
            )
        if self.mixing != "none" and not self.ssl_weight:
            raise ValueError(f"ssl_weight=0 gives the mixed term of mixing={self.mixing!r} no weight: use mixing none")
        check_unread(self, UNREAD[self.mixing])


def check_kept(smallest: float, largest: float) -> None:
    """Refuses a range that is no range of shares.

    Args:
      smallest: smallest_kept.
      largest: largest_kept.

    Raises:
      ValueError: outside (0, 1], or the wrong way round.
    """
    if not 0 < smallest <= largest <= 1:
        raise ValueError(
            f"smallest_kept={smallest!r}, largest_kept={largest!r}: give shares with 0 < smallest <= largest <= 1,"
            " such as 0.5 and 0.9"
        )


def check_unread(options: Options, names: tuple[str, ...]) -> None:
    """Refuses a changed field that the chosen mixing does not read.

    Args:
      options: with a field ``mixing``.
      names: of fields that it leaves unread.

    Raises:
      ValueError: one of them is not at its default.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    for name in names:
        if getattr(options, name) != defaults[name]:
            mixing = getattr(options, "mixing", None)
            raise ValueError(f"{name}={getattr(options, name)!r} does nothing with mixing={mixing!r}: leave it out")


def traced_fields(options: Any) -> tuple[str, ...]:
    """Names of the fields that are traced numbers.

    Args:
      options: a class of options.

    Returns:
      The names, in order.

    Example:
      >>> traced_fields(ContrastOptions)[:3]
      ('supcon_weight', 'ssl_weight', 'temperature')
    """
    hints = get_type_hints(options, include_extras=True)
    return tuple(field.name for field in dataclasses.fields(options) if hints[field.name] is Traced)


def structure_of(options: Options) -> tuple[tuple[str, Any], ...]:
    """What makes another compiled program: every field that is not traced, with its value.

    Args:
      options: of a method.

    Returns:
      Pairs of name and value, hashable; lanes of one program agree in them.
    """
    traced = {*traced_fields(type(options)), "hyper"}
    return tuple((f.name, getattr(options, f.name)) for f in dataclasses.fields(options) if f.name not in traced)


def options_of(config: Any, kind: type[T]) -> T:
    """The options that a configuration holds.

    Args:
      config: the fields of a script's configuration, as an object or as the config.json of a run.
      kind: the class of options; fields that the configuration lacks keep their defaults.

    Returns:
      The options.

    Raises:
      ValueError: a value of a mapping is not of its field's type.

    Example:
      >>> options_of({"network": "wrn16_4", "margin": 0.2, "cam_layers": [1, 2], "seed": 3}, ClassifyOptions).cam_layers
      (1, 2)
    """
    given = config if isinstance(config, Mapping) else vars(config)
    found = {f.name: given[f.name] for f in dataclasses.fields(kind) if f.name in given}
    found = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    if isinstance(config, Mapping):  # of a file, say
        try:
            hints = get_type_hints(kind)
        except NameError:  # of a class of one's own: a name that is imported for type checkers alone
            hints = {}
        for name in found.keys() & hints.keys():
            check_type(name, found[name], hints[name])
    make: Any = kind
    return make(**found)
