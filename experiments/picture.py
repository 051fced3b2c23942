"""Which images does a run call unknown, and where does it look? One picture of a finished run.

    python experiments/picture.py runs/NAME
    python experiments/picture.py runs/NAME --images 12 --sign 1 --out docs/picture

Above, the scores of all known and unknown test images, with the threshold that rejects `reject_share` of the run's
KNOWN validation images. Below, at their places on the same axis, test images and their LayerCAM of the method's loss,
at the label of a known image and at the predicted class of an unknown one. Writes OUT.png and OUT.svg. Seconds.
"""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

import osrjax
from osrjax.fields import check_above_zero, check_seed
from osrjax.run.launch import FinishedConfig, launch

if TYPE_CHECKING:
    from osrjax.run import FinishedRun


@dataclasses.dataclass(frozen=True)
class Config(FinishedConfig):
    """Draw scores, images and attribution maps of a run."""

    images: int = 9
    """Images of each kind, evenly spaced over the scores."""
    sign: Literal[1, -1] = -1
    """Maps of what would raise the loss (+1), or of the evidence that lowers it (-1)."""
    reject_share: float = 0.1
    """Share of known validation images above the threshold."""
    seed: int = 0
    """Seed of the views of a contrastive run; the images that are shown follow from the scores."""
    out: Path | None = None
    """Path without suffix; default: RUN/picture, with the options that are not the defaults."""

    def check(self) -> None:
        """Refuses numbers out of range."""
        check_above_zero(self, ["images"])
        check_seed(self)
        if not 0 < self.reject_share < 1:
            raise ValueError(f"reject_share={self.reject_share!r} must be between 0 and 1, such as 0.1")


SAID = ("images", "sign", "reject_share", "seed")


def main(arguments: list[str] | None = None) -> int:
    """Parses, checks, draws; returns the exit code."""
    return launch(Config, draw, script="picture.py", description=__doc__, arguments=arguments)


def draw(config: Config) -> int:
    """The whole job; returns the exit code."""
    finished = config.open("scores.npz")
    method, data = finished.method, finished.data
    parts = {"known": data.test_known, "unknown": data.test_unknown}
    fewest = min(len(part.labels) for part in parts.values())
    if config.images > fewest:
        raise ValueError(f"images={config.images} exceeds the {fewest} test images of a kind: give fewer")

    # --------------------------------------------------------------------------------- scores
    outputs, labels = finished.stored_outputs(*method.parts)
    scored = osrjax.methods.score_images(method, outputs, labels.get("train"))[method.score]
    threshold = osrjax.metrics.rejection_threshold(scored.validation, share=config.reject_share)
    scores = {"known": scored.known, "unknown": scored.unknown}
    both = np.concatenate(list(scores.values()))
    ends = np.linspace(both.min(), both.max(), config.images + 1)
    places = (ends[1:] + ends[:-1]) / 2

    # ----------------------------------------------------------------------------------- maps
    chosen = {kind: osrjax.report.spread_over(scores[kind], places) for kind in parts}
    pixels = np.concatenate([parts[kind].images[chosen[kind]] for kind in parts])
    labels = np.concatenate([parts["known"].labels[chosen["known"]], np.full(config.images, -1)])
    pictures, maps = maps_of(finished, pixels, labels, sign=config.sign, seed=config.seed)

    # ---------------------------------------------------------------------------------- write
    halves = {"known": slice(config.images), "unknown": slice(config.images, None)}
    shown = [osrjax.report.ScoredExamples(scores[kind], pictures[half], maps[half]) for kind, half in halves.items()]
    figure = osrjax.report.examples_figure(*shown, places, threshold=threshold, score_name=method.score)
    said = [f"-{name}={getattr(config, name)}" for name in SAID if getattr(config, name) != getattr(Config, name)]
    for path in osrjax.report.save_figure(figure, config.out or config.run / f"picture{''.join(said)}"):
        print(path)
    return 0


def maps_of(
    finished: "FinishedRun", pixels: np.ndarray, labels: np.ndarray, *, sign: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The images themselves, and their maps from the last stages together; a contrastive loss sees them and a view."""
    import jax
    import jax.numpy as jnp

    method, shape = finished.method, pixels.shape[1:]
    stages = len(osrjax.models.zero_taps(finished.network, shape, 1))
    attributed = osrjax.analysis.make_attributed_images(
        *(method, shape), layers=osrjax.attribution.last_layers(stages), signs=(sign,), in_training=False
    )
    plain = osrjax.augment.to_float(jnp.asarray(pixels))
    view = method.attributed.view(jax.random.key(seed), jnp.asarray(pixels))
    found = attributed(finished.variables, plain, view, jnp.asarray(labels))[sign]
    return np.asarray(plain), np.asarray(found.maps)


if __name__ == "__main__":
    sys.exit(main())
