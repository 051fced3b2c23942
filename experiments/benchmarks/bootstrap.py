"""How long do all metrics and their bootstrap intervals take, and how much memory? By numbers of scores and of classes.

    python experiments/benchmarks/bootstrap.py                                  10 million scores, 1000 classes
    python experiments/benchmarks/bootstrap.py --examples 1000 --classes 1000 --resamples 1000
    taskset -c 0 python experiments/benchmarks/bootstrap.py --examples 2000000 --classes 10     metrics on one core

Half of the scores are of known images. Prints one JSON object: seconds of all metrics of one score; of the intervals of
one resample, which are those of the metrics and of sorting; of each further resample; the largest memory above that of
the arrays given; and how far AUROC and OSCR of the first 1000 scores of each kind, rounded so that most are tied, are
from the mean over all pairs.
"""

import dataclasses
import resource
import sys
import time
from collections.abc import Callable
from functools import partial

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
    alone = timed(metrics.open_set_metrics, *arguments)
    first, all_of_them = (
        timed(partial(metrics.bootstrap_intervals, resamples=resamples), *arguments)
        for resamples in (1, 1 + config.resamples)
    )
    found = {
        "seconds_of_the_metrics": round(alone, 3),
        "seconds_of_the_first": round(first, 3),
        "seconds_of_a_further_one": round((all_of_them - first) / config.resamples, 5),
        "mebibytes": (peak() - before) >> 20,
        "difference_from_pairs": difference_from_pairs(*(part[:1000] for part in arguments[:4])),
    }
    print(json_text(dataclasses.asdict(config) | found))
    return 0


def timed(function: Callable[..., object], *arguments: np.ndarray) -> float:
    """Seconds of a call."""
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def difference_from_pairs(known: np.ndarray, unknown: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> float:
    """The larger of the differences of AUROC and OSCR from means over all pairs, of scores that tie."""
    known, unknown = known.round(1), unknown.round(1)
    found = metrics.open_set_metrics(known, unknown, predictions, labels)
    outscored = ((known[:, None] < unknown) + 0.5 * (known[:, None] == unknown)).mean(axis=1)
    wanted = {"auroc": outscored.mean(), "oscr": (outscored * (predictions == labels)).mean()}
    return max(abs(found[name] - value) for name, value in wanted.items())


def peak() -> int:
    """The largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    sys.exit(main())
