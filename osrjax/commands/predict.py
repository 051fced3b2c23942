"""Which known class does this image show, or is it unknown? Image files against a finished run.

    osrjax predict runs/NAME photo.png folder/of/images
    osrjax predict runs/NAME *.png --reject-share 0.05 --json

The threshold is the score that rejects `reject_share` of the run's own KNOWN validation images; no unknown image
has a say in it. An image scoring above it is called unknown. Seconds. Exit code 2: bad input, nothing was classified.
"""

import dataclasses
import os
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

import osrjax
from osrjax.run.launch import FinishedConfig, launch


@dataclasses.dataclass(frozen=True)
class Config(FinishedConfig):
    """Classify image files as a known class or as unknown."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Image files, or folders whose image files are taken."""
    reject_share: float = 0.1
    """Share of known validation images that the threshold rejects; smaller calls fewer images unknown."""
    score: str | None = None
    """Open-set score; default: the one that belongs to the run's method."""
    resize: bool = False
    """Resize images of another size (bilinear) instead of refusing them."""
    json: bool = False
    """One JSON object a line instead of text."""

    def check(self) -> None:
        """Refuses what needs no file to be refused."""
        if not 0 < self.reject_share < 1:
            raise ValueError(f"reject_share={self.reject_share!r} must be between 0 and 1, such as 0.1")
        if not self.images:
            raise ValueError("images is empty: give image files or folders of them")


def main(arguments: list[str] | None = None, *, script: str = "predict.py") -> int:
    """Parses, checks, classifies; returns the exit code."""
    return launch(Config, classify, script=script, description=__doc__, arguments=arguments)


def classify(config: Config) -> int:
    """The whole job; returns the exit code."""
    run = config.open("scores.npz")
    method, names = run.method, run.provenance["known_names"]
    files = [file for path in config.images for file in files_of(path)]
    shape = tuple(run.provenance["image_shape"])
    images = np.stack([read_image(file, shape, resize=config.resize) for file in files])

    # ------------------------------------------------------------------------------ threshold
    stored, labels = run.stored_outputs("validation", *(["train"] if method.fit else []))
    fitted = method.fit(stored["train"], labels["train"]) if method.fit else None
    scores = method.scores(fitted, stored["validation"])
    chosen = config.score or method.score
    if chosen not in scores:
        raise ValueError(f"score={chosen!r} does not exist for this run: choose from {', '.join(scores)}")
    check_finite(chosen, scores[chosen][0], "the run's validation images")
    threshold = osrjax.metrics.rejection_threshold(scores[chosen][0], share=config.reject_share)

    # ------------------------------------------------------------------------------ decisions
    outputs = run.outputs(images, batch_size=min(len(images), 500))
    wanted = {name: outputs[name] for name in stored["validation"]}
    found, predictions = method.scores(fitted, wanted)[chosen]
    check_finite(chosen, found, files)
    unknown = osrjax.metrics.rejected(found, threshold=threshold)
    for path, score, nearest, rejected in zip(files, found, predictions, unknown, strict=True):
        decision = "unknown" if rejected else names[nearest]
        if config.json:
            record = {"file": str(path), "decision": decision, "nearest_class": names[nearest]}
            print(osrjax.files.json_text({**record, "score": float(score), "threshold": threshold}))
        else:
            file = str(path).replace("\n", "\\n").replace("\r", "\\r")  # a name is no line of results
            print(f"{file}: {decision} (nearest {names[nearest]}, {chosen} {score:.4f}, threshold {threshold:.4f})")
    return 0


def check_finite(name: str, scores: np.ndarray, images: "list[Path] | str") -> None:
    """Refuses a score that is no number, which would be above no threshold and so called known."""
    if not np.isfinite(scores).all():
        row = int(np.argmin(np.isfinite(scores)))
        where = images if isinstance(images, str) else str(images[row])
        raise ValueError(f"score={name!r} is {scores[row]} for {where}: give another --score, or train the run again")


def files_of(path: Path) -> list[Path]:
    """The file itself, or the image files of a folder in the order of their names."""
    from osrjax.data.folders import kinds_text, listing

    if not os.path.isdir(path):
        if not os.path.lexists(path):
            raise ValueError(f"images={str(path)!r} does not exist: give image files or folders of them")
        return [path]
    found = listing(path)
    unread = kinds_text([*found.folders, *found.other])
    if not found.images:
        holds = f" but {unread}" if unread else ""
        raise ValueError(f"images={str(path)!r} holds no image file{holds}: give files or a folder of images")
    if unread:
        warnings.warn(f"images={str(path)!r}: not read: {unread}", stacklevel=2)
    return found.images


def read_image(path: Path, shape: tuple[int, ...], *, resize: bool) -> np.ndarray:
    """One uint8 image of the run's height, width and channels."""
    from PIL import Image

    height, width, channels = shape
    pixels = osrjax.data.decoded_image(path, channels)
    if pixels.shape == shape:
        return pixels
    if not resize:
        raise ValueError(
            f"images={str(path)!r} is {pixels.shape[1]}x{pixels.shape[0]} pixels, the run takes {width}x{height}:"
            " resize it, or pass --resize"
        )
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).reshape(shape)
