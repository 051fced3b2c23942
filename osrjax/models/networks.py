"""Networks for open-set recognition: four convolutional backbones under one head.

A backbone maps images to stage maps and a raw embedding; :class:`OpenSetNetwork` adds the unit-normalised
embedding, the logits and the rotation logits, so that one forward pass gives all that losses, scores,
Jacobians and attribution need. Parameters and batch-norm statistics are float32 whatever the compute dtype;
what is float32 here is float64 for parameters and a compute dtype of float64.

Over devices the batch norms use the statistics of the *global* batch in training: under ``jax.jit`` with a sharded
batch, where the compiler sees to it, and inside a ``jax.shard_map`` over a mesh axis "data", where they ask for it.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

# The two layers that every backbone is made of.
from jaxtyping import Array, Float

from osrjax.arrays import at_least_float32

__all__ = [
    "Classifier",
    "ContrastiveNetwork",
    "ContrastiveOutputs",
    "HeadName",
    "Network",
    "OpenSetNetwork",
    "Outputs",
    "Reciprocal",
    "unit_vectors",
    "zero_taps",
]

HeadName = Literal["cosine", "linear", "reciprocal", "adversarial_reciprocal"]

ROTATIONS = 4  # quarter turns that the rotation head tells apart


class Reciprocal(NamedTuple):
    """What the losses of reciprocal points read.

    Attributes:
        logits: distances from the reciprocal point of each class; float32.
        excess: mean squared distances less the learned radius; float32.
    """

    logits: Float[Array, "batch classes"]
    excess: Float[Array, "batch classes"]


class Outputs(NamedTuple):
    """What one forward pass of :class:`OpenSetNetwork` gives.

    Attributes:
        logits: float32, by head. "cosine": cosines in [-1, 1] of the unit embedding and the unit prototypes, not
            scaled. "linear": ``w_k . raw_embedding + b_k``. "reciprocal": mean squared distance of the raw embedding
            from the reciprocal point of each class. "adversarial_reciprocal": that less their inner product.
        embedding: the raw embedding at unit norm (the zero vector stays zero); float32.
        raw_embedding: the backbone's embedding before normalisation; float32.
        maps: output of each stage after its activation, compute dtype, first stage first.
        rotation_logits: which of 0, 1, 2, 3 quarter turns the image was given; float32.
        reciprocal: what the losses of reciprocal points read; None for other heads.
    """

    logits: Float[Array, "batch classes"]
    embedding: Float[Array, "batch features"]
    raw_embedding: Float[Array, "batch features"]
    maps: tuple[Float[Array, "batch _ _ _"], ...]
    rotation_logits: Float[Array, "batch 4"]
    reciprocal: Reciprocal | None = None


class OpenSetNetwork(nn.Module):
    """A backbone with class prototypes (or a linear classifier) and a rotation head.

    Variables: ``params`` holds ``backbone``, ``rotation`` and either ``prototypes`` of shape
    ``[classes, features]`` (head "cosine"), ``classifier`` (head "linear"), or ``reciprocal_points`` of shape
    ``[classes, features]`` with ``radii`` (a radius per class for "reciprocal", one for all for
    "adversarial_reciprocal"); ``batch_stats`` holds the running statistics. The prototypes start as standard normal
    draws, so their directions are uniform on the sphere; only their directions enter the logits. Reciprocal points
    start as normal draws of scale 0.1, radii as 0.

    Attributes:
        backbone: ``(images, *, train, taps) -> (maps, raw_embedding)``, one of the modules below.
        classes: number of known classes.
        head: "cosine", "linear", "reciprocal" or "adversarial_reciprocal".
    """

    backbone: nn.Module
    classes: int
    head: HeadName = "cosine"

    def __post_init__(self):
        if self.head not in get_args(HeadName):
            raise ValueError(f"head={self.head!r} is not a head: use {', '.join(map(repr, get_args(HeadName)))}")
        if self.classes < 1:
            raise ValueError(f"classes={self.classes!r} leaves nothing to know: use at least 1")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool,
        taps: Sequence[Float[Array, "..."]] | None = None,
    ) -> Outputs:
        """Outputs of the network for a batch of images.

        ``taps[i]`` is added to the map of stage i before it goes on to stage i + 1, so the gradient of any
        scalar with respect to a zero tap is its gradient with respect to that stage map.

        Args:
            images: pixels in [-1, 1].
            train: True normalises by the batch's statistics and updates the running ones (pass
                ``mutable=["batch_stats"]``); False uses the running statistics, and then images do not
                interact.
            taps: one array per stage, of the shapes given by :func:`zero_taps`; None adds nothing.

        Returns:
            The :class:`Outputs`; its maps include the taps.

        Raises:
            ValueError: if images are not floating-point NHWC, or the taps do not fit the stages.
        """
        maps, raw_embedding = _backbone_outputs(self.backbone, images, train, taps)
        embedding = unit_vectors(raw_embedding)
        # The heads cost next to nothing, and scores rank by them: never at reduced precision.
        dense = partial(nn.Dense, precision=jax.lax.Precision.HIGHEST)
        reciprocal = None
        shape = (self.classes, raw_embedding.shape[-1])
        if self.head == "cosine":
            prototypes = self.param("prototypes", nn.initializers.normal(1.0), shape)
            logits = jnp.matmul(embedding, unit_vectors(prototypes).T, precision=jax.lax.Precision.HIGHEST)
        elif self.head == "linear":
            logits = dense(self.classes, name="classifier")(raw_embedding)
        else:
            alone = self.head == "reciprocal"
            points = self.param("reciprocal_points", nn.initializers.normal(0.1), shape)
            radii = self.param("radii", nn.initializers.zeros, (self.classes,) if alone else (1,))
            inner = jnp.matmul(raw_embedding, points.T, precision=jax.lax.Precision.HIGHEST)
            squares = jnp.sum(jnp.square(raw_embedding), axis=-1, keepdims=True) + jnp.sum(jnp.square(points), -1)[None]
            distances = (squares - 2.0 * inner) / shape[-1]
            logits = distances if alone else distances - inner
            reciprocal = Reciprocal(logits, distances - radii[None])
        rotation_logits = dense(ROTATIONS, name="rotation")(raw_embedding)
        return Outputs(logits, embedding, raw_embedding, maps, rotation_logits, reciprocal)


class ContrastiveOutputs(NamedTuple):
    """What one forward pass of :class:`ContrastiveNetwork` gives.

    Attributes:
        projection: z, unit vectors, which the contrastive losses compare; float32.
        embedding: h, the backbone's raw embedding, which linear probes read; float32.
        maps: output of each stage after its activation, compute dtype, first stage first.
    """

    projection: Float[Array, "batch features"]
    embedding: Float[Array, "batch hidden"]
    maps: tuple[Float[Array, "batch _ _ _"], ...]


class ContrastiveNetwork(nn.Module):
    """A backbone with the projection head of contrastive learning: linear, ReLU, linear, unit norm.

    Variables: ``params`` holds ``backbone`` and the layers ``hidden`` and ``projection``; ``batch_stats`` holds
    the running statistics.

    Attributes:
        backbone: as for :class:`OpenSetNetwork`.
        hidden: width of the hidden layer.
        features: length of the projection.

    References:
        Chen et al., arXiv 2002.05709, sec. 4.2; widths as in the code of Xu et al., arXiv 2505.12803.
    """

    backbone: nn.Module
    hidden: int = 512
    features: int = 128

    def __post_init__(self):
        for name in ("hidden", "features"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} is no layer: use at least 1")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool,
        taps: Sequence[Float[Array, "..."]] | None = None,
    ) -> ContrastiveOutputs:
        """Outputs for a batch of images; arguments and errors are those of :class:`OpenSetNetwork`."""
        maps, embedding = _backbone_outputs(self.backbone, images, train, taps)
        dense = partial(nn.Dense, precision=jax.lax.Precision.HIGHEST)
        projection = dense(self.features, name="projection")(nn.relu(dense(self.hidden, name="hidden")(embedding)))
        return ContrastiveOutputs(unit_vectors(projection), embedding, maps)


def _backbone_outputs(backbone, images, train, taps):
    """Stage maps and float32 raw embedding, with the checks that every network shares."""
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images of shape {images.shape} and dtype {images.dtype}: pass a batch of shape "
            "[batch, height, width, channels], as floats in [-1, 1] (osrjax.augment.to_float)"
        )
    maps, raw_embedding = backbone(images, train=train, taps=taps)
    if taps is not None and len(taps) != len(maps):
        raise ValueError(f"len(taps)={len(taps)} but the backbone has {len(maps)} stages: use zero_taps")
    return maps, at_least_float32(raw_embedding)


def unit_vectors(vectors: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
    """Vectors divided by their Euclidean norm, safe at zero.

    A vector shorter than 1e-15 is returned as it is, so the zero vector gives zero with a finite gradient
    (the identity) instead of NaN. The square root sees a replaced argument there: masking its result alone
    would leave ``0 * inf`` in the gradient.

    Args:
        vectors: any finite values; computed in float32 or better.

    Returns:
        Vectors of norm 1, or of norm below 1e-15, in the dtype given.

    Example:
        >>> import jax.numpy as jnp
        >>> from osrjax.models import unit_vectors
        >>> print(unit_vectors(jnp.array([[3.0, 4.0], [0.0, 0.0]])))
        [[0.6 0.8]
         [0.  0. ]]
    """
    values = at_least_float32(vectors)
    bits = jnp.finfo(values.dtype).maxexp
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(values), axis=-1, keepdims=True))
    large = largest > 2.0 ** (3 * bits // 8)  # where squares may leave the range: scaled by a power of 2, exactly
    values = values * jnp.where(large, 2.0 ** -(5 * bits // 8), 1.0)
    squares = jnp.sum(jnp.square(values), axis=-1, keepdims=True)
    return (values / jnp.sqrt(jnp.where(large | (squares > 1e-30), squares, 1.0))).astype(vectors.dtype)


@runtime_checkable
class Network(Protocol):
    """What an objective needs of a network: a module above, or what stands for one (:mod:`osrjax.train.parallel`)."""

    def apply(self, variables: Any, images: Any, /, *, train: bool, mutable: Any = False, taps: Any = None) -> Any:
        """Outputs; with ``mutable="batch_stats"`` a pair of them and of the new statistics, as Flax gives them."""
        ...

    def init_with_output(self, key: Any, images: Any, /, *, train: bool) -> Any:
        """Outputs and fresh variables; for shapes alone."""
        ...


@runtime_checkable
class Classifier(Network, Protocol):
    """A network with logits, as :class:`OpenSetNetwork` has them."""

    @property
    def head(self) -> str:
        """What the logits are."""
        ...


def zero_taps(
    network: Network, image_shape: tuple[int, int, int], batch: int
) -> tuple[Float[Array, "batch _ _ _"], ...]:
    """Zeros of the shape and dtype of every stage map, to differentiate with respect to.

    Args:
        network: whose maps.
        image_shape: ``(height, width, channels)`` of one image.
        batch: number of images.

    Returns:
        One array per stage. Nothing is computed to find the shapes.
    """
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    forward = partial(network.init_with_output, train=False)
    outputs, _ = jax.eval_shape(forward, jax.random.key(0), images)
    return tuple(jnp.zeros(m.shape, m.dtype) for m in outputs.maps)
