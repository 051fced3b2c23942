"""A method of one's own, as a user writes it: the focal loss, its hyper-parameter and the score that belongs to it.

    python experiments/train.py --method focal_method:focal --hyper gamma=1

in this folder, or with it on PYTHONPATH. Nothing of the package knows this file.

References:
  Lin et al., "Focal Loss for Dense Object Detection", arXiv 1708.02002, eq. 4.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from osrjax.methods import ClassifyOptions, ClassLoss, Method, Task, classify
from osrjax.train import Hyper


def focal_loss(logits: Array, labels: Array, hyper: Hyper) -> Array:
    """-(1 - p)^gamma log p with p the softmax of the labelled class; cross-entropy for gamma = 0."""
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]
    return -((1.0 - jnp.exp(log_p)) ** hyper["gamma"]) * log_p


def focal_score(logits: Array, hyper: Hyper) -> dict[str, Array]:
    """The loss at the predicted class; larger = more unknown."""
    return {"focal": focal_loss(logits, jnp.argmax(logits, axis=-1), hyper)}


FOCAL = ClassLoss("linear", focal_loss, ("gamma",), "focal", own={"gamma": 2.0}, scores=focal_score)


def focal(options: ClassifyOptions, task: Task) -> Method:
    """The method: network, optimiser, rotations and masks are those of every classifier."""
    return classify(options, task, FOCAL)
