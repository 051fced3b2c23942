"""Tables of results as plain text, and estimates as text and JSON values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from osrjax.data.open_set import OpenSetData
from osrjax.files import number_or_none
from osrjax.metrics.intervals import Estimate, clipped

__all__ = [
    "JND",
    "OOD_COLUMNS",
    "cell_text",
    "data_text",
    "estimate_json",
    "estimate_text",
    "interval_text",
    "number_text",
    "open_set_table",
    "operating_point_text",
    "results_table",
]


# Column of a table of OOD detection -> metric; "+" is the positive class.
OOD_COLUMNS = {
    "auroc": "auroc",
    "fpr95, unknown +": "fpr_at_95_tpr_unknown_positive",
    "fpr95, known +": "fpr_at_95_tpr_known_positive",
    "aupr, unknown +": "aupr_unknown_positive",
    "aupr, known +": "aupr_known_positive",
    "detacc": "detection_accuracy",
}

JND = "JND: Jacobian norm difference, the mean input-Jacobian norm of unknown less that of known test images"


def results_table(rows: Sequence[Mapping[str, object]], *, digits: int = 3) -> str:
    """Plain-text table of results, one line per row, for a terminal or a file.

    Args:
      rows: one or more, cells by column name; columns stand in the order in which they first occur. Numbers are
        rounded, pairs of numbers become intervals, None or a missing cell a dash.
      digits: decimals of numbers that are not integers, at least 0.

    Returns:
      Lines without a final newline; text is left-aligned, numbers are right-aligned.

    Example:
      >>> print(results_table([
      ...     {"metric": "auroc", "value": 0.8512, "interval": (0.8204, 0.8811)},
      ...     {"metric": "images", "value": 1000},
      ... ]))
      metric  value        interval
      ------  -----  --------------
      auroc   0.851  [0.820, 0.881]
      images   1000               -
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns] + [[cell_text(row.get(name), digits=digits) for name in columns] for row in rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    is_text = [any(isinstance(row.get(name), str) for row in rows) for name in columns]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(line, widths, is_text, strict=True)
        ).rstrip()
        for line in lines
    )


def cell_text(value: object, *, digits: int = 3) -> str:
    """A cell of a table, in one line.

    Args:
      value: as in the rows of :func:`results_table`.
      digits: as there.

    Example:
      >>> cell_text(None), cell_text(0.8512), cell_text((0.82, 0.881)), cell_text(True)
      ('-', '0.851', '[0.820, 0.881]', 'yes')
    """
    if value is None:
        return "-"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.{digits}f}"
    if isinstance(value, tuple):
        return "[" + ", ".join(cell_text(part, digits=digits) for part in value) + "]"
    return " ".join(str(value).splitlines())


def number_text(value: float | None) -> str:
    """A number as tables show it.

    Args:
      value: None, nan or infinite where it is not defined for the data, as the Davies-Bouldin index of one image a
        class or of class means that coincide.

    Returns:
      Three decimals, or a word.

    Example:
      >>> number_text(0.9117), number_text(None)
      ('0.912', 'undefined')
    """
    return "undefined" if number_or_none(value) is None else f"{value:.3f}"


def interval_text(value: Mapping[str, float | None]) -> str:
    """A number with its interval, as tables show it.

    Args:
      value: ``value``, and the ends ``low`` and ``high`` of its interval, or None for both.

    Returns:
      Three decimals each.

    Example:
      >>> interval_text({"value": 0.9117, "low": 0.9, "high": 0.922})
      '0.912 [0.900, 0.922]'
    """
    text = number_text(value["value"])
    return text if value["low"] is None else f"{text} [{value['low']:.3f}, {value['high']:.3f}]"


def estimate_text(estimate: Estimate, *, bounds: tuple[float, float] = (-np.inf, np.inf)) -> str:
    """A mean over splits with its interval, as tables show it.

    Args:
      estimate: from :func:`osrjax.metrics.intervals.t_interval`.
      bounds: the range of the quantity (:func:`osrjax.metrics.range_of`), which the interval does not leave.

    Returns:
      Three decimals each; the mean alone where there is a single split.

    Example:
      >>> estimate_text(Estimate(0.9117, (0.9, 0.922), 3))
      '0.912 [0.900, 0.922]'
      >>> estimate_text(Estimate(0.9, (0.75, 1.05), 2), bounds=(0.0, 1.0))
      '0.900 [0.750, 1.000]'
    """
    low, high = clipped(estimate.interval, bounds)
    return f"{estimate.mean:.3f}" + (f" [{low:.3f}, {high:.3f}]" if estimate.n > 1 else "")


def estimate_json(estimate: Estimate, *, bounds: tuple[float, float] = (-np.inf, np.inf)) -> dict[str, Any]:
    """The same as plain JSON values.

    Args:
      estimate: as for :func:`estimate_text`.
      bounds: as there.

    Returns:
      Mean, interval (None for its ends where there is a single split) and number of splits.
    """
    ends = clipped(estimate.interval, bounds) if estimate.n > 1 else estimate.interval
    return {"mean": estimate.mean, "interval": [number_or_none(end) for end in ends], "n": estimate.n}


def open_set_table(
    trained: Mapping[str, Mapping[str, Any]], untrained: Mapping[str, Mapping[str, Any]] | None, *, score: str
) -> str:
    """The main table of a run: one row per score, then the run's own score of the untrained network.

    Args:
      trained: metrics by score, as :func:`osrjax.methods.assess` gives under ``scores``.
      untrained: the same of the network before training; None: no such row.
      score: the run's own one, which gets a star.

    Returns:
      The lines of the table.
    """
    fpr = "fpr_at_95_tpr_unknown_positive"
    columns = {n: n for n in ("auroc", "oscr", fpr, "detection_accuracy", "macro_f1")} | {fpr: "fpr95, unknown +"}
    named = {name + (" *" if name == score else ""): values for name, values in trained.items()}
    if untrained is not None:
        named[f"{score}, untrained"] = untrained[score]
    rows = [
        {"score": name, **{column: interval_text(values[metric]) for metric, column in columns.items()}}
        for name, values in named.items()
    ]
    return results_table(rows)


def operating_point_text(values: Mapping[str, Any], *, score: str) -> str:
    """Where a score draws the line, and how many test images lie above it.

    Args:
      values: of the score, as for :func:`open_set_table`: its ``threshold`` and shares ``rejected``.
      score: its name.

    Returns:
      One line for the end of a table.

    Example:
      >>> found = {"threshold": -0.51234, "rejected": {"validation": 0.1, "known": 0.125, "unknown": 0.75}}
      >>> operating_point_text(found, score="ovr")
      'operating point of ovr: threshold -0.5123 rejects 0.100 of validation, 0.125 of known, 0.750 of unknown images'
    """
    shares = ", ".join(f"{values['rejected'][part]:.3f} of {part}" for part in ("validation", "known", "unknown"))
    return f"operating point of {score}: threshold {values['threshold']:.4g} rejects {shares} images"


def data_text(data: OpenSetData) -> str:
    """How many images were looked at, and where all of them come from.

    Args:
      data: of a run.

    Returns:
      Two lines or more, for the end of a table.
    """
    lines = [f"{len(data.test_known.labels)} known and {len(data.test_unknown.labels)} unknown images"]
    for name, _, complete in data.sources:
        lines.append(f"source: {name} ({'complete' if complete else 'NOT the complete data set'})")
    return "\n".join(lines)
