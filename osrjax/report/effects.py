"""Effects of claims as rows of a table, and what would change their verdicts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from osrjax.metrics.comparisons import splits_needed
from osrjax.metrics.effects import NO_ACCURACY, NO_RUN
from osrjax.report.sheets import p_text

__all__ = ["effect_rows", "role_rows", "what_would_change"]


def effect_rows(records: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Effects as rows of a table, those of a claim together.

    Args:
      records: of :func:`osrjax.metrics.effect`.

    Returns:
      Cells by column name.
    """
    return [
        {
            "claim": record["claim"],
            "arm": record["arm"],
            "effect": record["effect"],
            "mean [95 % t interval]": interval_cell(record["mean"], *record["interval"]),
            "n": str(record["n"]) + (f", undefined in {record['undefined']} runs" if record["undefined"] else ""),
            "found with 80 % power": record["detectable"],
            "expected": {1: "> 0", -1: "< 0", 0: ""}[record["expected"]],
            "verdict": record["verdict"] + (f", Holm's p {p_text(record['p_holm'])}" if "p_holm" in record else ""),
        }
        for record in sorted(records, key=lambda record: record["claim"])
    ]


def role_rows(roles: Mapping[str, Mapping[str, Any]]) -> list[dict[str, object]]:
    """What being unknown adds to norms of the same classes, as rows of a table.

    Args:
      roles: by arm, :func:`osrjax.analysis.class_adjusted_norms`.

    Returns:
      Cells by column name.
    """
    return [
        {
            "log of unknown over known norm, classes held fixed": arm,
            **{f"{when} [95 %]": interval_cell(role["mean"], *role["interval"]) for when, role in found.items()},
        }
        for arm, found in roles.items()
    ]


def what_would_change(record: Mapping[str, Any], *, gate: float, unit: str = "split") -> str:
    """What it would take for another verdict on an effect.

    Args:
      record: of :func:`osrjax.metrics.effect`.
      gate: accuracy that a verdict asks for.
      unit: what n counts.

    Returns:
      A few words; none for what is only reported. The number of samples is that which finds the mean with 80 % power.

    Example:
      >>> record = {"verdict": "undecided", "expected": 1, "mean": 1.0, "n": 3, "per_split": [0.0, 1.0, 2.0]}
      >>> what_would_change(record, gate=0.85)
      'holds with 10 splits, if mean and spread stay'
    """
    verdict, mean = record["verdict"], record["mean"]
    if verdict in ("holds", "fails"):
        nearest = min(abs(end - mean) for end in record["interval"])
        return f"a mean within {nearest:.3f} of 0 at this spread"
    if verdict == NO_ACCURACY:
        return f"an accuracy of {gate} (now {record['accuracy']:.3f})"
    if verdict != "undecided":
        return {NO_RUN: "runs", "undefined": "runs that define it"}.get(verdict, "")
    if record["n"] < 2:
        return f"a second {unit}"
    deviation = float(np.std([value for value in record["per_split"] if value is not None], ddof=1))
    if mean == 0 or deviation == 0:
        return "another mean"
    verdict = "holds" if (mean > 0) == (record["expected"] > 0) else "fails"
    needed = splits_needed(mean, deviation, level=record.get("level", 0.05))
    return f"{verdict} with {needed or 'a million'} {unit}s, if mean and spread stay"


def interval_cell(mean: float | None, low: float | None, high: float | None) -> str:
    """0.012 [-0.003, 0.027]; a dash without a mean, the mean alone without an interval."""
    if mean is None:
        return "-"
    if low is None or high is None or not np.isfinite([low, high]).all():
        return f"{mean:.3f}"
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"
