"""The tables of a leaderboard as rows of plain text: scores, published numbers beside them, comparisons."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from osrjax.files import number_or_none
from osrjax.metrics.intervals import range_of
from osrjax.report.anchors import published_anchors
from osrjax.report.leaderboard import (
    CLASSIFICATION_COLUMNS,
    DETECTION_COLUMNS,
    SMALLER_IS_BETTER,
    ResultTable,
    ScoreRow,
)
from osrjax.report.tables import estimate_text
from osrjax.report.verdicts import POINT, PairedVerdict, gate_of

__all__ = ["Sheet", "comparison_sheet", "own_sheet", "p_text", "score_sheets"]


class Sheet(NamedTuple):
    """One table.

    Attributes:
      title: what it shows.
      rows: cells by column name, as :func:`osrjax.report.results_table` takes them.
      notes: lines below it.
    """

    title: str
    rows: Sequence[Mapping[str, object]]
    notes: Sequence[str] = ()


def score_sheets(table: ResultTable, rows: Sequence[ScoreRow]) -> list[Sheet]:
    """Every score of every method, with the published numbers that belong there.

    Args:
      table: one of :func:`osrjax.report.result_tables`.
      rows: of it, from :func:`osrjax.report.score_rows`.

    Returns:
      A table of classification and its detection, and one of further metrics of detection.
    """
    first, second = _score_cells(rows, CLASSIFICATION_COLUMNS), _score_cells(rows, DETECTION_COLUMNS)
    for cells, row in zip(first, rows, strict=True):
        cells["seconds"] = None if row.seconds is None else round(row.seconds)
        cells["runs"] = str(row.runs) if row.runs == table.runs else f"{row.runs} of {table.runs}, incomplete"
    anchors = published_anchors(table)
    for anchor in anchors:
        for cells, columns in ((first, CLASSIFICATION_COLUMNS), (second, DETECTION_COLUMNS)):
            values = {name: f"{anchor.values[m]:.3f}" for name, m in columns.items() if m in anchor.values}
            if values:
                named = {"method": f"published: {anchor.label}", "score": anchor.score}
                cells.append({**named, **values, "runs": anchor.runs})
    sources = [f"published, not counted among ours: {anchor.label}: {anchor.source}" for anchor in anchors]
    mixed = [f"{label} mixes recipes: {' / '.join(r)}" for label, r in table.recipes.items() if len(r) > 1]
    return [
        Sheet("scores", first, [_counted(table), *mixed, *sources]),
        Sheet("scores, detection alone", second, ["+: the positive class"]),
    ]


def _score_cells(rows: Sequence[ScoreRow], columns: Mapping[str, str]) -> list[dict[str, object]]:
    return [
        {"method": row.label, "score": row.score + (" *" if row.own else "")}
        | {
            name: estimate_text(row.estimates[metric], bounds=range_of(metric)) if metric in row.estimates else None
            for name, metric in columns.items()
        }
        for row in rows
    ]


def _counted(table: ResultTable) -> str:
    n = len(table.samples)
    if table.unit == "seed":
        text = f"{table.runs} runs of one set of known classes, n = {n} seeds; mean [95 % t interval over seeds]"
    else:
        text = f"{table.runs} runs, n = {n} splits; mean [95 % t interval over splits, seeds averaged first]"
        numbers = {split for runs in table.samples for split, _ in runs}
        if len(numbers) > n:
            text += f"; of {len(numbers)} numbered splits, those with the same known classes count once"
    return f"{text}; * the method's own score; seconds: mean of a training"


def own_sheet(scores: Sheet) -> Sheet:
    """The own scores of methods alone, without published numbers.

    Args:
      scores: the first of :func:`score_sheets`.
    """
    return Sheet("own scores", [row for row in scores.rows if str(row["score"]).endswith(" *")])


def comparison_sheet(
    table: ResultTable, found: Sequence[PairedVerdict], *, reference: str, metric: str = "auroc"
) -> Sheet:
    """Comparisons of the reference with the other methods.

    Args:
      table: one of :func:`osrjax.report.result_tables`.
      found: of it, one or more, from :func:`osrjax.report.paired_verdicts`.
      reference: label of the method.
      metric: that was compared.

    Returns:
      The table, with the rule of its verdicts and which differences of one point this n could see.
    """
    names = {value: name for name, value in (CLASSIFICATION_COLUMNS | DETECTION_COLUMNS).items()}
    rows: list[dict[str, object]] = [
        {
            "difference": f"{reference} - {pair.other}",
            "scores": " - ".join(dict.fromkeys(pair.scores)) + (" *" if pair.own else ""),
            names[metric]: estimate_text(pair.found.difference, bounds=range_of(metric, difference=True)),
            "n": pair.found.difference.n,
            "p": p_text(pair.found.p_value),
            "p, Holm": p_text(pair.corrected),
            f"power for {POINT}": number_or_none(pair.power),
            f"n for {POINT}": pair.needed,
            "accuracies": " / ".join(f"{accuracy:.3f}" for accuracy in pair.accuracies),
            "verdict": pair.verdict,
        }
        for pair in found
    ]
    rule = (
        "verdict, by a rule fixed before the runs: above or below if Holm's p < 0.05 and the 95 % interval excludes 0;"
        f" no difference above one point if the interval lies within {POINT} of 0; undecided otherwise; none if a mean"
        f" accuracy is below {gate_of(table.dataset)}; own scores (*) are one family of Holm's correction, a common"
        " score another; power and n at its strictest level"
    )
    if metric in SMALLER_IS_BETTER:
        rule += "; of this metric less is better: above is worse"
    return Sheet(f"{reference} against the others, paired by split and seed", rows, [rule, _one_point(table, found)])


def p_text(value: float) -> str:
    """A p value as tables show it.

    Args:
      value: nan where there is none.

    Example:
      >>> p_text(0.01234), p_text(math.nan)
      ('0.012', '-')
    """
    return "-" if math.isnan(value) else f"{value:.2g}"


def _one_point(table: ResultTable, found: Sequence[PairedVerdict]) -> str:
    named = [(pair, pair.other + ("" if pair.own else f" by {pair.scores[0]}")) for pair in found]
    seen = [name for pair, name in named if pair.sees_one_point]
    needed = [f"{name} ({pair.needed or 'unknown'})" for pair, name in named if not pair.sees_one_point]
    text = (
        f"a difference of one point ({POINT}), as publications report them, this n would find with 80 % power against"
    )
    text += f" {', '.join(seen) or 'no method'}"
    return text + (f"; {table.unit}s that it would take against the others: {', '.join(needed)}" if needed else "")
