"""Figures of the claims that need trainings of their own: number of known classes, recipe, halves of the loss.

Means and 95 % t intervals are those over class splits, or class orders.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from osrjax.metrics.effects import NO_ACCURACY, claim_verdict
from osrjax.metrics.intervals import SHARE
from osrjax.report.claims import METHOD
from osrjax.report.effect_figures import Point, effects_figure
from osrjax.report.effects import interval_cell
from osrjax.report.jacobian import KINDS, known_classes_figure
from osrjax.report.probes import probe_arms_figure
from osrjax.report.studies import ARMS_TOGETHER, FLAT, HARMFUL, LARGEST_LOGIT, PARTS, REPORTED, StudyTable
from osrjax.report.sweep import arms_figure, response_figure
from osrjax.report.titles import metric_title
from osrjax.report.verdicts import POINT

__all__ = ["STUDY_FIGURES", "growth_figure", "recipe_figure", "study_figures"]

_VERDICTS = {
    "holds": ("holds", "#009E73", "o"),
    "fails": ("fails", "#D55E00", "X"),
    "undecided": ("undecided", "black", "s"),
    NO_ACCURACY: (NO_ACCURACY, "#CC79A7", "^"),
    "reported": ("reported alone", "0.5", "D"),
    LARGEST_LOGIT: ("by the largest logit, reported alone", "#56B4E9", "d"),
}


def recipe_figure(effects: Sequence[Mapping[str, Any]], *, unit: str = "split", title: str = "") -> Figure | None:
    """Claim (h): the AUROC of m-OvR less that of each other arm, marked by its verdict, and that by the largest logit.

    Args:
      effects: of :func:`osrjax.report.study_tables`, of recipe.
      unit: what n counts.
      title: above the axes.

    Returns:
      A row per arm, shaded where the claim wants the interval; None where no arm has a difference.
    """
    by_arm: dict[str, list[Mapping[str, Any]]] = {}
    by_logit: dict[str, list[Point]] = {}
    for record in effects:
        arm = record["arm"].removeprefix(f"{METHOD} - ")
        if record["effect"] != LARGEST_LOGIT:
            by_arm.setdefault(arm, []).append(record)
        elif record["mean"] is not None:
            by_logit[arm] = [Point(record, LARGEST_LOGIT)]
    rows = {}
    for arm in (*PARTS, *HARMFUL, *FLAT, *REPORTED):
        record, *flat = by_arm.get(arm, [{"mean": None}])
        if record["mean"] is not None:
            verdict = claim_verdict(flat) if flat else record["verdict"]
            wanted = (-POINT, POINT) if flat else _side(record)
            rows[arm] = [Point(record, verdict, wanted), *by_logit.get(arm, [])]
    label = f"AUROC of {METHOD} less that of the arm,\n{_over(rows, unit)}"
    return effects_figure(rows, _VERDICTS, origin=0.0, label=label, title=title, linear=POINT) if rows else None


def growth_figure(effects: Sequence[Mapping[str, Any]], *, unit: str = "split", title: str = "") -> Figure | None:
    """Claim (i): log growth of known and unknown norms by each half of the loss and by both.

    Args:
      effects: of :func:`osrjax.report.study_tables`, of halves.
      unit: what n counts.
      title: above the axes.

    Returns:
      A row per arm, shaded where the claim wants the interval; None where no arm has a probe.
    """
    rows: dict[str, list[Point]] = {}
    for record in effects:
        kind = record["effect"].removeprefix("log growth of the ").removesuffix(" norm")
        if kind in KINDS and record["mean"] is not None:
            arm = record["arm"] + (", margin 0" if record["claim"] == "i0" else "")
            rows.setdefault(arm, []).append(Point(record, kind, _side(record)))
    looks = {
        kind: (f"{kind} images", colour, marker)
        for (kind, (colour, _)), marker in zip(KINDS.items(), "ox", strict=True)
    }
    label = f"log of the mean norm after over before training,\n{_over(rows, unit)}"
    return effects_figure(rows, looks, origin=0.0, label=label, title=title) if rows else None


def _over(rows: Mapping[str, Sequence[Point]], unit: str) -> str:
    n = max((point.record["n"] for points in rows.values() for point in points), default=0)
    return f"mean and 95 % interval over {n} {unit}s" if n > 1 else f"one {unit}"


def _side(record: Mapping[str, Any]) -> tuple[float, float] | None:
    return {1: (0.0, np.inf), -1: (-np.inf, 0.0), 0: None}[record["expected"]]


def _known_classes(found: StudyTable) -> Figure | None:
    jnd, title = found.drawn["jnd"], f"JND and the number of known classes, {found.name}"
    labels = [f"{', '.join(names)} unknown" for names in found.drawn["unknown"]]
    return None if np.isnan(jnd).all() else known_classes_figure(found.drawn["counts"], jnd, labels=labels, title=title)


def _values(found: StudyTable) -> Figure | None:
    auroc, panels = metric_title("auroc"), found.drawn["values"]
    return response_figure(panels, metric=auroc, bounds=SHARE, unit=found.unit) if panels else None


def _jnd_and_auroc(found: StudyTable) -> Figure | None:
    jnd, auroc = found.drawn["jnd"], found.drawn["auroc"]
    probed = [arm for arm, values in jnd.items() if not np.isnan(values).all()]
    if len(probed) < 2:
        return None
    (rho,) = (record for record in found.effects if record["effect"] == ARMS_TOGETHER)
    rank = interval_cell(rho["mean"], *rho["interval"])
    together = "" if rho["mean"] is None else f"Spearman over those of a {found.unit} {rank}"
    return arms_figure(jnd, auroc, x=metric_title("jnd"), y=metric_title("auroc"), together=together)


def _steps(found: StudyTable) -> Figure | None:
    return probe_arms_figure(found.drawn, names=("norm_known", "norm_unknown", "accuracy")) if found.drawn else None


# By study and name: the claims that a figure speaks of, and how it is drawn, if it can be.
STUDY_FIGURES: dict[str, dict[str, tuple[str, Callable[[StudyTable], Figure | None]]]] = {
    "classes": {"figure-7": ("f", _known_classes)},
    "recipe": {
        "recipe": ("h", lambda found: recipe_figure(found.effects, unit=found.unit, title=found.name)),
        "figure-13": ("h", _jnd_and_auroc),
        "figure-14": ("h", _values),
    },
    "halves": {
        "halves": ("i i0", lambda found: growth_figure(found.effects, unit=found.unit, title=found.name)),
        "halves-steps": ("i i0", _steps),
    },
}


def study_figures(found: StudyTable) -> dict[str, Figure]:
    """The figures of a study.

    Args:
      found: from :func:`osrjax.report.study_tables`.

    Returns:
      By name of :data:`STUDY_FIGURES`, those of which there is something to draw.
    """
    drawn = {name: draw(found) for name, (_, draw) in STUDY_FIGURES[found.study].items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}
