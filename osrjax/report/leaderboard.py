"""Runs of many methods as tables: one for each data set, family of class splits and unknown set, never two in one.

What counts as a sample is the set of known classes, as in :mod:`osrjax.metrics.intervals`: its seeds are averaged
first, and so is a split that repeats the known classes of another. Where all runs of a table share one set of known
classes, the seeds are the samples, and n counts them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float

from osrjax.data.splits import listed_split
from osrjax.fields import check_printable, check_type
from osrjax.files import json_text, number_or_none
from osrjax.metrics.effects import linear_correlation
from osrjax.metrics.intervals import Estimate, t_interval
from osrjax.report.tables import OOD_COLUMNS
from osrjax.run.entries import Entry, entry_corruption

__all__ = [
    "CLASSIFICATION_COLUMNS",
    "DETECTION_COLUMNS",
    "METRICS",
    "SMALLER_IS_BETTER",
    "ResultTable",
    "RunResult",
    "ScoreRow",
    "accuracy_correlation",
    "accuracy_points",
    "entry_tables",
    "manifest_results",
    "result_tables",
    "score_ranks",
    "score_rows",
]

Run = tuple[int, int]  # split and seed
CLASSIFICATION_COLUMNS = {
    "accuracy": "closed_set_accuracy",
    "auroc": "auroc",
    "oscr": "oscr",
    "macro-f1": "macro_f1",
}
DETECTION_COLUMNS = {name: metric for name, metric in OOD_COLUMNS.items() if name not in CLASSIFICATION_COLUMNS}
METRICS = (*CLASSIFICATION_COLUMNS.values(), *DETECTION_COLUMNS.values())
SMALLER_IS_BETTER = ("fpr_at_95_tpr_unknown_positive", "fpr_at_95_tpr_known_positive")


class RunResult(NamedTuple):
    """One score of one run against one unknown set.

    Attributes:
      label: the method as tables call it.
      dataset: of the known images.
      family: of class splits.
      split: its number in the family.
      seed: of the training.
      unknown: name of the unknown set.
      score: name of the score.
      own: True for the score that belongs to the method.
      known: names of the known classes, in any order.
      values: by metric (:func:`osrjax.metrics.open_set_metrics`).
      seconds: of training, if known.
      recipe: how the network was trained, if known.
      data: what must be alike in all runs of a split: the share that is rejected, and test images by class.
      sha256: checksums of the images, if known; alike in all runs of a split that have them.
      source: where it was read, for errors.
      corruption: the content of corruption.json, where the run has one.
    """

    label: str
    dataset: str
    family: str
    split: int
    seed: int
    unknown: str
    score: str
    own: bool
    known: tuple[str, ...]
    values: Mapping[str, float]
    seconds: float | None = None
    recipe: str = ""
    data: str = ""
    sha256: str = ""
    source: str = ""
    corruption: Mapping[str, Any] | None = None


class ResultTable(NamedTuple):
    """All results on one data set, family and unknown set.

    Attributes:
      dataset: of the known images.
      family: of class splits.
      unknown: name of the unknown set.
      results: by label and score, then by split and seed.
      samples: the runs of each independent sample, of all methods together.
      unit: what a sample is: "split" for a set of known classes, "seed" where there is only one such set.
    """

    dataset: str
    family: str
    unknown: str
    results: Mapping[tuple[str, str], Mapping[Run, RunResult]]
    samples: Sequence[Sequence[Run]]
    unit: Literal["split", "seed"]

    @property
    def name(self) -> str:
        """What the table is of, in words."""
        return f"{self.dataset}, family {self.family}, unknown: {self.unknown}"

    @property
    def runs(self) -> int:
        """How many runs a complete method has."""
        return sum(map(len, self.samples))

    @property
    def own_scores(self) -> dict[str, str]:
        """The score that belongs to each method, by label."""
        return {
            label: score for (label, score), runs in self.results.items() if any(found.own for found in runs.values())
        }

    @property
    def recipes(self) -> dict[str, list[str]]:
        """How the networks of each method were trained, by label."""
        found: dict[str, set[str]] = {}
        for (label, _), runs in self.results.items():
            found.setdefault(label, set()).update(result.recipe for result in runs.values())
        return {label: sorted(recipes) for label, recipes in found.items()}

    def values(self, label: str, score: str, metric: str) -> Float[np.ndarray, "samples runs"]:
        """One metric of every run; nan where there is no run, or where it is not defined."""
        found = np.full((len(self.samples), max(map(len, self.samples))), np.nan)
        of_runs = self.results.get((label, score), {})
        for row, runs in enumerate(self.samples):
            for column, run in enumerate(runs):
                if run in of_runs and math.isfinite(value := of_runs[run].values.get(metric, math.nan)):
                    found[row, column] = value
        return found


class ScoreRow(NamedTuple):
    """A row of a table: one score of one method.

    Attributes:
      label: of the method.
      score: its name.
      own: True for the score that belongs to the method.
      runs: how many there are of it.
      estimates: by metric, over the samples of the table.
      seconds: mean of training, if known.
    """

    label: str
    score: str
    own: bool
    runs: int
    estimates: Mapping[str, Estimate]
    seconds: float | None


def manifest_results(
    manifest: Mapping[str, Any],
    results: Mapping[str, Mapping[str, float]],
    *,
    source: str,
    images: Sequence[int] = (),
    corruption: Mapping[str, Any] | None = None,
) -> list[RunResult]:
    """What tables need of an entry.

    Args:
      manifest: of the entry (:mod:`osrjax.run.entries`).
      results: by score and metric, rebuilt from the entry's scores.
      source: where the entry lies.
      images: test images by class, of the entry.
      corruption: the content of its corruption.json, if it has one.

    Returns:
      One result per score.

    Raises:
      ValueError: a name that is empty or cannot be printed, or numbers that are none.
    """
    same = {name: manifest[name] for name in ("label", "dataset", "family", "split", "seed", "unknown")}
    known, seconds = tuple(map(str, manifest["known_names"])), manifest["seconds"].get("training")
    for name in (*map(str, same.values()), *known, *results):
        check_printable(f"{source}: name", name)
    check_type(f"{source}: seconds", seconds, float | None)
    check_type(f"{source}: reject_share", manifest.get("reject_share"), float | None)
    # What a family lists is known by its ids, whatever the classes are called where the network was made.
    if listed := listed_split(same["family"], same["dataset"], same["split"]):
        known = tuple(map(str, listed.known))
        if len(known) != len(manifest["known_names"]):
            raise ValueError(
                f"{source} has {len(manifest['known_names'])} known classes, family {same['family']} lists {len(known)}"
                f" in split {same['split']} of {same['dataset']}: name the family and split that it is of"
            )
    return [
        RunResult(
            **same,
            score=score,
            own=score == manifest["score"],
            known=known,
            values=values,
            seconds=None if seconds is None else number_or_none(float(seconds)),
            recipe=str(manifest.get("recipe") or ""),
            data=json_text([manifest.get("reject_share"), sorted(zip(known, images, strict=False)), images[-1:]]),
            sha256=json_text(manifest["sha256"]) if manifest.get("sha256") else "",
            source=source,
            corruption=corruption,
        )
        for score, values in results.items()
    ]


def entry_tables(entries: Iterable[Entry]) -> list[ResultTable]:
    """The tables of entries that were read.

    Args:
      entries: of any methods, data sets, families and unknown sets.

    Returns:
      As :func:`result_tables`.

    Raises:
      ValueError: as :func:`manifest_results` and :func:`result_tables`, or a damaged corruption.json.
    """
    return result_tables(
        result
        for entry in entries
        for result in manifest_results(
            entry.manifest,
            entry.results,
            source=str(entry.directory),
            images=entry.images,
            corruption=entry_corruption(entry),
        )
    )


def result_tables(results: Iterable[RunResult]) -> list[ResultTable]:
    """Sorts results into tables.

    Args:
      results: of any methods, data sets, families and unknown sets; one that is there twice counts once.

    Returns:
      One table for each data set, family and unknown set, in the order of their names.

    Raises:
      ValueError: two results of one run that differ, a split with two sets of known classes or of images, or a method
        with two own scores.
    """
    grouped: dict[tuple[str, str, str], list[RunResult]] = {}
    for result in results:
        grouped.setdefault((result.dataset, result.family, result.unknown), []).append(result)
    return [_table(*key, grouped[key]) for key in sorted(grouped)]


def _table(dataset: str, family: str, unknown: str, results: list[RunResult]) -> ResultTable:
    where = f"{dataset}, family {family}, unknown: {unknown}"
    found: dict[tuple[str, str], dict[Run, RunResult]] = {}
    known: dict[int, RunResult] = {}
    checked: dict[int, RunResult] = {}
    own: dict[str, RunResult] = {}
    for result in results:
        runs = found.setdefault((result.label, result.score), {})
        other = runs.setdefault((result.split, result.seed), result)
        if json_text(dict(sorted(other.values.items()))) != json_text(dict(sorted(result.values.items()))):
            raise ValueError(
                f"{where}: {result.label}, split {result.split}, seed {result.seed} has other numbers in {other.source}"
                f" than in {result.source}: leave one of them out"
            )
        other = known.setdefault(result.split, result)
        same_classes = set(other.known) == set(result.known)
        if same_classes and other.data == result.data and result.sha256:  # outputs of a file have no checksums
            other = checked.setdefault(result.split, result)
        if not same_classes or other.data != result.data or (other.sha256 != result.sha256 and result.sha256):
            what = "images or another reject_share" if same_classes else "known classes"
            raise ValueError(
                f"{where}: split {result.split} has other {what} in {other.source} than in {result.source}: leave one"
                " of them out"
            )
        other = own.setdefault(result.label, result) if result.own else result
        if other.score != result.score:
            raise ValueError(
                f"{where}: the own score of {result.label} is {other.score} in {other.source} and {result.score} in"
                f" {result.source}: give each method its own label"
            )
    kinds = {frozenset(result.known) for result in known.values()}
    samples: dict[Any, list[Run]] = {}
    for split, seed in sorted({(result.split, result.seed) for result in results}):
        samples.setdefault(frozenset(known[split].known) if len(kinds) > 1 else seed, []).append((split, seed))
    return ResultTable(dataset, family, unknown, found, list(samples.values()), "split" if len(kinds) > 1 else "seed")


def score_rows(table: ResultTable, *, metric: str = "auroc") -> list[ScoreRow]:
    """The rows of a table: the best method first, by its own score; of each method its own score first, then the best.

    Args:
      table: one of :func:`result_tables`.
      metric: what is best.

    Returns:
      One row for each method and score.
    """
    own, rows = table.own_scores, []
    for (label, score), runs in table.results.items():
        arrays = {name: table.values(label, score, name) for name in METRICS}
        seconds = [found.seconds for found in runs.values() if found.seconds is not None]
        rows.append(
            ScoreRow(
                *(label, score, own.get(label) == score, len(runs)),
                {name: t_interval(values) for name, values in arrays.items() if not np.isnan(values).all()},
                float(np.mean(seconds)) if seconds else None,
            )
        )
    sign = 1.0 if metric in SMALLER_IS_BETTER else -1.0

    def place(row: ScoreRow) -> float:
        return sign * row.estimates[metric].mean if metric in row.estimates else math.inf

    of_method = {row.label: place(row) for row in rows if row.own}
    return sorted(rows, key=lambda row: (of_method.get(row.label, math.inf), row.label, not row.own, place(row)))


def score_ranks(table: ResultTable, *, metric: str = "auroc") -> dict[str, Float[np.ndarray, " runs"]]:
    """The rank of every score in every run, 1 for the best, among the scores that all runs have.

    Args:
      table: one of :func:`result_tables`.
      metric: what is best; scores that tie share the mean of their ranks.

    Returns:
      By score, the best mean rank first, one rank for each run of each method; empty for fewer than two such scores.
    """
    runs: dict[tuple[str, Run], dict[str, float]] = {}
    for (label, score), found in table.results.items():
        for run, result in found.items():
            runs.setdefault((label, run), {})[score] = result.values.get(metric, math.nan)
    shared = [
        score
        for score in dict.fromkeys(score for values in runs.values() for score in values)
        if all(math.isfinite(values.get(score, math.nan)) for values in runs.values())
    ]
    if len(shared) < 2:
        return {}
    values = np.array([[found[score] for score in shared] for found in runs.values()])
    ranks = scipy.stats.rankdata(values if metric in SMALLER_IS_BETTER else -values, axis=1)
    return {shared[place]: ranks[:, place] for place in np.argsort(ranks.mean(axis=0), kind="stable")}


def accuracy_points(table: ResultTable, *, metric: str = "auroc") -> dict[str, Float[np.ndarray, "runs 2"]]:
    """Closed-set accuracy and another metric of every run, by the method's own score.

    Args:
      table: one of :func:`result_tables`.
      metric: the other.

    Returns:
      By label; runs that lack one of the two are left out, and so is a method without any.
    """
    points = {}
    for label, score in table.own_scores.items():
        both = np.stack([table.values(label, score, name).ravel() for name in ("closed_set_accuracy", metric)], axis=1)
        if len(kept := both[~np.isnan(both).any(axis=1)]):
            points[label] = kept
    return points


def accuracy_correlation(table: ResultTable, *, metric: str = "auroc") -> tuple[float, int]:
    """Pearson's correlation of closed-set accuracy and another metric over the runs of all methods.

    Args:
      table: one of :func:`result_tables`.
      metric: the other.

    Returns:
      The coefficient, nan where it is not defined, and the number of runs.
    """
    points = np.concatenate([np.zeros((0, 2)), *accuracy_points(table, metric=metric).values()])
    return linear_correlation(*points.T), len(points)
