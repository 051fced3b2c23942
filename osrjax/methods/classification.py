"""Methods that classify: a class loss on the logits of one network, alone, with rotations, or with masked images.

Every loss here is a :class:`ClassLoss`; :func:`classify` makes the method of any, one's own included.

From parts, without a :class:`osrjax.methods.Method`::

    network = OpenSetNetwork(NETWORKS["small_cnn"](), classes=6)  # cosines to six prototypes
    objective = make_classify_objective(network, CLASS_LOSSES["m_ovr"], make_crop_and_flip(crop_padding=4))
    step = jax.jit(make_train_step(objective, make_sgd(total_steps=400)), donate_argnums=0)
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from osrjax import augment, losses
from osrjax.attribution.maps import check_layers, last_layers
from osrjax.augment.pixels import to_float
from osrjax.augment.views import make_crop_and_flip
from osrjax.data.table import DataSet
from osrjax.evaluation.assessment import SCORES, open_set_scores
from osrjax.fields import check_fields
from osrjax.methods.class_losses import CLASS_LOSSES, ClassLoss
from osrjax.methods.masked import make_masked_classify_objective
from osrjax.methods.masks import Attribution, Box, GradMix, RandomBox
from osrjax.methods.method import Attributed, Method, Needs, Task
from osrjax.methods.options import ClassifyOptions
from osrjax.models.backbones import NETWORKS
from osrjax.models.networks import Classifier, OpenSetNetwork, zero_taps
from osrjax.models.outputs import network_functions
from osrjax.train.objective import Batch, Hyper, Objective, ObjectiveAux, PyTree
from osrjax.train.optimizers import make_sgd

__all__ = ["classify", "make_classify_objective"]


UNNAMED = DataSet()  # what is implied where no data set was named


def classify(options: ClassifyOptions, task: Task, class_loss: ClassLoss) -> Method:
    """The method that trains a class loss, alone, with rotations or with masks.

    Args:
      options: what the user chose.
      task: what the run is about.
      class_loss: an entry of ``CLASS_LOSSES``, or one's own.

    Returns:
      The method.

    Raises:
      ValueError: rotations of images that are not square; stages that the network has not; unknown hyper-parameters.
    """
    height, width, _ = task.image_shape
    if options.rotations != "none" and height != width:
        raise ValueError(f"rotations={options.rotations!r} needs square images, these are {height}x{width}: use none")
    check_fields(options)
    own = options.own_hyper(class_loss.own)
    unknown = [name for name in class_loss.hyper if name not in own and not hasattr(options, name)]
    if unknown:
        raise ValueError(f"hyper={unknown} of the loss are no options: give them defaults in ClassLoss(own=...)")
    if idle := sorted(set(own) - set(class_loss.hyper)):
        raise ValueError(f"own={idle} of the loss are not among its hyper={class_loss.hyper}: name them there")
    if class_loss.scores is None and class_loss.score not in SCORES[class_loss.head]:
        known = ", ".join(SCORES[class_loss.head])
        raise ValueError(f"score={class_loss.score!r} is none of the {class_loss.head} head: choose from {known}")

    def make_network(dtype: DTypeLike) -> OpenSetNetwork:
        return OpenSetNetwork(NETWORKS[options.network](dtype=jnp.dtype(dtype)), task.classes, class_loss.head)

    network = make_network(jnp.float32)
    augmentation = make_crop_and_flip(
        crop_padding=UNNAMED.crop_padding if options.crop_padding is None else options.crop_padding,
        flip=UNNAMED.flip if options.flip is None else options.flip,
    )
    names = ("learning_rate", "final_learning_rate", "weight_decay", *class_loss.hyper)
    make_objective = partial(
        make_classify_objective, class_loss=class_loss, augmentation=augmentation, rotations=options.rotations
    )
    if options.rotations != "none":
        names += ("rotation_weight",)
    if options.mixing != "none" or options.cam_layers:
        stages = len(zero_taps(network, task.image_shape, 1))
        layers = options.cam_layers or last_layers(stages)
        check_layers(layers, stages)
    if options.mixing != "none":
        box = Box(fill=options.fill)
        attributed = Attribution(layers=layers, sign=options.cam_sign)
        mix = GradMix(attributed, box) if options.mixing == "gradmix" else RandomBox(box)
        make_objective = partial(
            make_masked_classify_objective, class_loss=class_loss, augmentation=augmentation, mix=mix
        )
        names += ("mixed_weight", *mix.hyper)
    hyper = {name: own[name] if name in own else getattr(options, name) for name in names}

    def outputs(variables: PyTree, images: Array) -> dict[str, Array]:
        found: Any = network.apply(variables, images, train=False)
        return {"logits": found.logits, "embedding": found.embedding}

    def scores(fitted: None, outputs: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        del fitted
        logits = outputs["logits"]
        found = open_set_scores(logits, head=class_loss.head, scale=options.scale, margin=options.margin)
        if class_loss.scores is not None:
            extra = class_loss.scores(jnp.asarray(logits), hyper)
            found = {name: np.asarray(values) for name, values in extra.items()} | found
        return {name: (values, logits.argmax(-1)) for name, values in found.items()}

    def attributed_loss(outputs: Any, labels: Array) -> Array:
        labels = jnp.where(labels < 0, jnp.argmax(outputs.logits, axis=-1), labels)
        return jnp.mean(class_loss.of(outputs, labels, hyper))

    return Method(
        options=options,
        task=task,
        make_network=make_network,
        make_objective=make_objective,
        optimizer=make_sgd(
            total_steps=task.steps, momentum=options.momentum, nesterov=options.nesterov, warmup=options.warmup
        ),
        hyper=hyper,
        functions=network_functions(network),
        outputs=outputs,
        fit=None,
        scores=scores,
        score=class_loss.score,
        scored="logits",
        spaces={"davies_bouldin": "embedding"},
        attributed=Attributed(options.method, lambda _, images: to_float(images), 1, attributed_loss),
        needs=Needs(
            batch=2 if options.mixing != "none" else 1,
            classes=2 if class_loss in CLASS_LOSSES.values() else 1,  # a loss of one's own may need no comparison
        ),
    )


def make_classify_objective(
    network: Classifier,
    class_loss: ClassLoss,
    augmentation: Callable[[Array, Array], Array],
    *,
    rotations: Literal["none", "one", "all"] = "none",
) -> Objective:
    r"""Returns the objective of a classifier with optional rotation prediction.

    .. math:: L = \mathrm{mean}_i\, L_{class}(x_i, y_i) + \lambda_{self}\, \mathrm{mean}_i\, L_{rotation}(x_i).

    The class loss and the running statistics see upright images only; rotated copies pass through the
    network once more, with statistics of their own batch. *Cost* in passes over the batch: 1 without
    rotations, 2 with one random rotation an image, 4 with all four.

    Args:
      network: gives ``Outputs``; its head must be the one that the loss reads.
      class_loss: an entry of ``CLASS_LOSSES`` or one's own.
      augmentation: ``(key, uint8 images) -> float images``, such as :func:`osrjax.augment.make_crop_and_flip`.
      rotations: ``"none"``; ``"one"``: each image at one of the four rotations, drawn at random; ``"all"``.

    Returns:
      An objective. It reads from ``hyper`` what the loss names, and ``rotation_weight`` unless ``"none"``.

    Raises:
      ValueError: the network's head is not the one that the loss reads; unknown ``rotations``.

    References:
      Park et al., arXiv 2209.11436, sec. 5 (objective and self-supervision S).
    """
    if network.head != class_loss.head:
        raise ValueError(f"{network.head=} does not fit a loss on the {class_loss.head} head: use that head")
    if rotations not in ("none", "one", "all"):
        raise ValueError(f'{rotations=} is not one of "none", "one", "all"')

    def objective(params: PyTree, stats: PyTree, batch: Batch, key: Array, hyper: Hyper) -> tuple[Array, ObjectiveAux]:
        chex.assert_rank([batch.images, batch.labels], [4, 1])
        chex.assert_equal_shape_prefix([batch.images, batch.labels], 1)
        chex.assert_type([batch.images, batch.labels], [jnp.uint8, int])  # float images would be scaled twice
        image_key, turn_key = jax.random.split(key)
        images = augmentation(image_key, batch.images)
        variables = {"params": params, "batch_stats": stats}

        def forward(images: Array) -> tuple:
            return network.apply(variables, images, train=True, mutable="batch_stats")

        outputs, new_variables = forward(images)
        loss = jnp.mean(class_loss.of(outputs, batch.labels, hyper))
        correct = jnp.argmax(outputs.logits, axis=-1) == batch.labels
        metrics = {"class_loss": loss, "accuracy": jnp.mean(correct.astype(jnp.float32))}
        if rotations != "none":
            if rotations == "one":
                turned, turns = augment.random_quarter_turns(turn_key, images)
                rotated, _ = forward(turned)
                rotation_logits = rotated.rotation_logits
            else:
                # The copies of an image lie side by side: behind one another, a batch that is spread over devices
                # would have to change places.
                copies = jnp.stack([jnp.rot90(images, k, (1, 2)) for k in (1, 2, 3)], axis=1)
                rotated, _ = forward(copies.reshape(-1, *images.shape[1:]))
                three = rotated.rotation_logits.reshape(images.shape[0], 3, -1)
                rotation_logits = jnp.concatenate([outputs.rotation_logits[:, None], three], axis=1)
                turns = jnp.broadcast_to(jnp.arange(4), rotation_logits.shape[:2])
            rotation_loss = jnp.mean(losses.rotation_loss(rotation_logits, turns))
            loss = loss + hyper["rotation_weight"] * rotation_loss
            metrics["rotation_loss"] = rotation_loss
        return loss, ObjectiveAux(new_variables["batch_stats"], metrics)

    return objective
