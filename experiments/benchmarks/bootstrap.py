"""How long do bootstrap intervals of all metrics take, and how much memory? By numbers of scores and of classes.

    python experiments/benchmarks/bootstrap.py                                  10 million scores, 1000 classes
    python experiments/benchmarks/bootstrap.py --examples 1000 --classes 1000 --resamples 1000

Half of the scores are of known images. Prints one JSON object: seconds of the intervals of one resample, which are
those of the metrics themselves and of sorting; seconds of each further resample; and the largest memory above that of
the arrays given.
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
    resamples: int = 3
    """Bootstrap samples to time, besides the first."""
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
    metrics.bootstrap_intervals(*(part[:2] for part in arguments), resamples=1)  # imports what it needs
    before = peak()
    first, all_of_them = (timed(arguments, resamples) for resamples in (1, 1 + config.resamples))
    seconds = (all_of_them - first) / config.resamples
    found = {"seconds_of_the_first": round(first, 3), "seconds_of_a_further_one": round(seconds, 5)}
    print(json_text({**dataclasses.asdict(config), **found, "mebibytes": (peak() - before) >> 20}))
    return 0


def timed(arguments: tuple[np.ndarray, ...], resamples: int) -> float:
    """Seconds of the intervals."""
    began = time.perf_counter()
    metrics.bootstrap_intervals(*arguments, resamples=resamples)
    return time.perf_counter() - began


def peak() -> int:
    """The largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    sys.exit(main())
