"""Which known class does this image show, or is it unknown? Image files against a finished run.

    python experiments/predict.py runs/NAME photo.png folder/of/images
    python experiments/predict.py runs/NAME *.png --reject-share 0.05 --json

The threshold is the score that rejects `reject_share` of the run's own KNOWN validation images; no unknown image
has a say in it. An image scoring above it is called unknown. Exit code 2: bad input, nothing was classified.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from PIL import Image

from osrjax import metrics
from osrjax.data.folders import IMAGE_SUFFIXES
from osrjax.data.source import decoded_image
from osrjax.evaluation.assessment import open_set_scores
from osrjax.methods.classify import CLASS_LOSSES
from osrjax.run.finished import open_finished
from osrjax.train.apply import evaluate


@dataclasses.dataclass(frozen=True)
class Config:
    """Classify image files as a known class or as unknown."""

    run: Annotated[Path, tyro.conf.Positional]
    """A finished run directory of experiments/train.py."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files, or folders whose image files are taken."""
    reject_share: float = 0.1
    """Share of known validation images that the threshold rejects; smaller calls fewer images unknown."""
    score: str | None = None
    """Open-set score; default: the one that belongs to the run's loss."""
    resize: bool = False
    """Resize images of another size (bilinear) instead of refusing them."""
    json: bool = False
    """One JSON object a line instead of text."""


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, classifies; returns the exit code."""
    config = tyro.cli(Config, args=arguments, description=__doc__)
    try:
        return classify(config)
    except ValueError as error:
        print(f"predict.py: {error}", file=sys.stderr)
        return 2


def classify(config: Config) -> int:
    """The whole job; returns the exit code."""
    if not 0 < config.reject_share < 1:
        raise ValueError(f"reject_share={config.reject_share!r} must be between 0 and 1, such as 0.1")
    needed = ("config.json", "provenance.json", "scores.npz", "network.npz")
    finished = open_finished(config.run, needed=needed)
    if finished.is_contrastive:
        raise ValueError(f"run={str(config.run)!r} is contrastive and has no class logits: give a run of train.py")
    trained, provenance = finished.config, finished.provenance
    absent = {"loss", "scale", "margin", "network"} - trained.keys() | {
        "known_names",
        "image_shape",
    } - provenance.keys()
    if absent:
        raise ValueError(f"run={str(config.run)!r} records no {', '.join(sorted(absent))}: give a run of train.py")
    names, shape = provenance["known_names"], tuple(provenance["image_shape"])
    if not config.images:
        raise ValueError("images is empty: give image files or folders of them")
    files = [file for path in config.images for file in files_of(path)]
    images = np.stack([read_image(file, shape, resize=config.resize) for file in files])

    loss = CLASS_LOSSES[trained["loss"]]
    chosen = config.score or loss.score

    def scores_of(logits: np.ndarray) -> np.ndarray:
        found = open_set_scores(logits, head=loss.head, scale=trained["scale"], margin=trained["margin"])
        if chosen not in found:
            raise ValueError(f"score={chosen!r} does not exist for this run: choose from {', '.join(found)}")
        return found[chosen]

    with np.load(config.run / "scores.npz") as stored:
        threshold = metrics.rejection_threshold(scores_of(stored["validation_logits"]), share=config.reject_share)
    network, variables = finished.network, finished.variables
    forward = jax.jit(lambda rows: network.apply(variables, rows, train=False))
    logits = evaluate(forward, images, batch_size=min(len(images), 500)).logits
    for file, row, score in zip(files, logits, scores_of(logits), strict=True):
        nearest = names[int(row.argmax())]
        decision = "unknown" if score > threshold else nearest
        if config.json:
            record = {"file": str(file), "decision": decision, "nearest_class": nearest}
            print(json.dumps({**record, "score": float(score), "threshold": threshold}))
        else:
            print(f"{file}: {decision} (nearest {nearest}, {chosen} {score:.4f}, threshold {threshold:.4f})")
    return 0


def files_of(path: Path) -> list[Path]:
    """The file itself, or the image files of a folder in the order of their names."""
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise ValueError(f"images={str(path)!r} holds no image file: give files or a folder of images")
        return found
    if not path.exists():
        raise ValueError(f"images={str(path)!r} does not exist: give image files or folders of them")
    return [path]


def read_image(path: Path, shape: tuple[int, ...], *, resize: bool) -> np.ndarray:
    """One uint8 image of the run's height, width and channels."""
    height, width, channels = shape
    pixels = decoded_image(path, channels)
    if pixels.shape == shape:
        return pixels
    if not resize:
        raise ValueError(
            f"images={str(path)!r} is {pixels.shape[1]}x{pixels.shape[0]} pixels, the run takes {width}x{height}:"
            " resize it, or pass --resize"
        )
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).reshape(shape)


if __name__ == "__main__":
    sys.exit(main())
