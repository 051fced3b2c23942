"""Every score of a finished run: those of its own method, and all others that its outputs allow."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from osrjax.data import Examples, OpenSetData
from osrjax.devices.cpu import compiler_options
from osrjax.evaluation import ScoredImages, StoredOutputs, score_outputs
from osrjax.methods import CLASS_LOSSES, score_images
from osrjax.run.finished import FinishedRun
from osrjax.scores import Head
from osrjax.train.apply import apply_in_batches

__all__ = ["outputs_of_images", "parts_of", "score_run", "stored_outputs"]

Outputs = dict[str, dict[str, np.ndarray]]
Labels = dict[str, np.ndarray]


def parts_of(data: OpenSetData) -> dict[str, Examples]:
    """The examples of a class split under the names that outputs have.

    Args:
      data: of a run.

    Returns:
      ``train``, ``validation``, ``known`` and ``unknown``, the last two of the test images.
    """
    return {"train": data.train, "validation": data.validation, "known": data.test_known, "unknown": data.test_unknown}


def stored_outputs(run: FinishedRun) -> tuple[Outputs, Labels]:
    """The outputs that a run kept, without those of training images where its method fits nothing.

    Args:
      run: finished.

    Returns:
      Outputs by part and name, and labels by part.
    """
    return run.stored_outputs(*run.method.parts)


def outputs_of_images(
    run: FinishedRun, parts: Mapping[str, Examples], *, batch_size: int = 500
) -> tuple[Outputs, Labels]:
    """Passes images through the network of a run once more.

    Args:
      run: finished.
      parts: of :func:`parts_of`.
      batch_size: images a call.

    Returns:
      Outputs by part and name, those of the run's method and, of a network with a linear head, ``raw_embedding``, which
      that head reads; and labels by part.
    """
    method, network = run.method, run.network
    linear = "classifier" in run.variables["params"]

    @partial(jax.jit, compiler_options=compiler_options())
    def forward(variables: Any, images: Array) -> dict[str, Array]:
        found = method.outputs(variables, images)
        if linear:  # the same pass, which the compiler takes once
            found["raw_embedding"] = network.apply(variables, images, train=False).raw_embedding
        return found

    outputs = {}
    for part, examples in parts.items():
        passed = partial(forward, run.variables)
        outputs[part] = run.checked(apply_in_batches(passed, examples.images, batch_size=batch_size))
    return outputs, {part: examples.labels for part, examples in parts.items()}


def score_run(
    run: FinishedRun, outputs: Outputs, labels: Labels, *, own: Mapping[str, Callable[..., Any]] | None = None
) -> tuple[dict[str, ScoredImages], dict[str, str]]:
    """The scores of a run's method first, then every other one that its outputs allow.

    Args:
      run: finished.
      outputs: by part and name.
      labels: by part.
      own: as for :func:`osrjax.evaluation.score_outputs`.

    Returns:
      As :func:`osrjax.evaluation.score_outputs`.
    """
    method = run.method
    space = "raw_embedding" if "raw_embedding" in outputs["known"] else method.space
    names = {"logits": "logits", space: "embedding"}
    rows = {
        part: {names[name]: values for name, values in found.items() if name in names}
        for part, found in outputs.items()
    }
    loss = CLASS_LOSSES.get(method.options.method)
    cosines = method.hyper["scale"] if loss is not None and loss.head == "cosine" else None
    head = None
    if space == "raw_embedding":
        classifier = run.variables["params"]["classifier"]
        head = Head(jnp.asarray(classifier["kernel"]), jnp.asarray(classifier["bias"]))
    classes = len(run.provenance["known_names"])
    stored = StoredOutputs(rows, labels, classes, head, cosines)
    scored = score_images(method, outputs, labels.get("train"))
    others, missing = score_outputs(stored, own=own)
    return scored | {name: images for name, images in others.items() if name not in scored}, missing
