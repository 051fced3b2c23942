"""How long do bootstrap intervals of all metrics take, and how much memory? By numbers of scores and of classes.

    python experiments/benchmarks/bootstrap.py                                  10 million scores, 1000 classes
    python experiments/benchmarks/bootstrap.py --examples 1000 --classes 1000 --resamples 1000

Half of the scores are of known images. Prints one JSON object: seconds of the metrics themselves, seconds of a
resample, and the largest memory above that of the arrays given, in bytes an example.
"""

import dataclasses
import resource
import sys
import time

import numpy as np

from osrjax import metrics
from osrjax.fields import check_above_zero
from osrjax.files import json_text
from osrjax.run.launch import launch


@dataclasses.dataclass(frozen=True)
class Config:
    """Time the bootstrap."""

    examples: int = 10_000_000
    """Scores, of known and of unknown images together."""
    classes: int = 1000
    """Known classes."""
    resamples: int = 5
    """Bootstrap samples to time."""
    seed: int = 0
    """Of the scores."""

    def check(self) -> None:
        """Refuses sizes of nothing."""
        check_above_zero(self, ["classes", "resamples"])
        if self.examples < 2:
            raise ValueError(f"examples={self.examples} is below 2: give one known and one unknown image at least")


def main(arguments: list[str] | None = None) -> int:
    """Parses, measures, prints; returns the exit code."""
    return launch(Config, measure, script="bootstrap.py", description=__doc__, arguments=arguments)


def measure(config: Config) -> int:
    """The whole job; returns the exit code."""
    generator = np.random.default_rng(config.seed)
    known = config.examples // 2
    scores = generator.normal(size=known), generator.normal(1, 1, config.examples - known)
    labels, guesses = (generator.integers(0, config.classes, len(part), np.int32) for part in scores)
    predictions = np.where(generator.random(known) < 0.8, labels, (labels + 1) % config.classes)
    arguments = (*scores, predictions, labels, scores[0][:1000], guesses)
    before = peak()
    began = time.perf_counter()
    metrics.open_set_metrics(*arguments)
    point = time.perf_counter() - began
    began = time.perf_counter()
    metrics.bootstrap_intervals(*arguments, resamples=config.resamples)
    seconds = (time.perf_counter() - began - point) / config.resamples  # the intervals take the metrics once more
    found = {"seconds_of_metrics": round(point, 3), "seconds_of_a_resample": round(seconds, 5)}
    memory = round((peak() - before) / config.examples)
    print(json_text({**dataclasses.asdict(config), **found, "bytes_an_example": memory}))
    return 0


def peak() -> int:
    """The largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    sys.exit(main())
