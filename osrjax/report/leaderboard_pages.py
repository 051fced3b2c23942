"""A leaderboard in every format: text for a terminal, Markdown, LaTeX, CSV and JSON values."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from osrjax.files import number_or_none
from osrjax.metrics.intervals import Estimate, clipped, range_of
from osrjax.report.anchors import published_anchors
from osrjax.report.corruption import corruption_sheets
from osrjax.report.leaderboard import (
    METRICS,
    ResultTable,
    ScoreRow,
    accuracy_correlation,
    score_ranks,
    score_rows,
)
from osrjax.report.markup import csv_text, latex_table, markdown_table, markdown_text
from osrjax.report.sheets import Sheet, comparison_sheet, own_sheet, score_sheets
from osrjax.report.tables import estimate_json, results_table
from osrjax.report.verdicts import PairedVerdict, paired_verdicts

__all__ = ["Leaderboard", "leaderboard_texts"]


class Leaderboard(NamedTuple):
    """A leaderboard in every format.

    Attributes:
      text: aligned, for a terminal.
      markdown: a page without title.
      latex: table environments, which need the package booktabs.
      csv: one line for each method and score of each table, published numbers marked.
      numbers: JSON values, the comparisons among them.
      blocks: of pages that are made anew, by the title of a table; "TABLE: own scores", the best first, among them.
    """

    text: str
    markdown: str
    latex: str
    csv: str
    numbers: dict[str, Any]
    blocks: dict[str, str]


def leaderboard_texts(
    tables: Sequence[ResultTable], *, reference: str, metric: str = "auroc", common: str | None = None
) -> Leaderboard:
    """Writes tables out: scores, published numbers beside them, comparisons with a reference method, corrupted images.

    Args:
      tables: from :func:`osrjax.report.result_tables`, one or more.
      reference: label of the method that the others are compared with.
      metric: by which methods are sorted and compared, one of the columns.
      common: a score by which all methods that have it are compared too.

    Returns:
      The leaderboard.

    Raises:
      ValueError: a reference, metric or common score that no table has, or runs of a table that were asked about
        different corrupted images.
    """
    _check(tables, reference, metric, common)
    sheets, lines, numbers = [], [], []
    for table in tables:
        rows = score_rows(table, metric=metric)
        pairs = paired_verdicts(table, reference, metric=metric, common=common)
        compared = [comparison_sheet(table, pairs, reference=reference, metric=metric)] if pairs else []
        corrupted, of_corrupted = corruption_sheets(table, reference=reference)
        sheets += [(table, sheet) for sheet in (*score_sheets(table, rows), *compared, *corrupted)]
        lines += _lines(table, rows)
        numbers.append(_numbers(table, rows, pairs, metric) | {"corruption": of_corrupted})
    own = [(table, own_sheet(sheet)) for table, sheet in sheets if sheet.title == "scores"]
    return Leaderboard(
        blocks={f"{table.name}: {sheet.title}": markdown_table(sheet.rows) for table, sheet in (*sheets, *own)},
        text="\n\n".join(
            "\n".join([f"{table.name}: {sheet.title}", results_table(sheet.rows), *sheet.notes])
            for table, sheet in sheets
        ),
        markdown="\n\n".join(_markdown(table, sheet) for table, sheet in sheets) + "\n",
        latex="% \\usepackage{booktabs}\n\n"
        + "\n\n".join(
            latex_table(sheet.rows, caption=". ".join([f"{table.name}: {sheet.title}", *sheet.notes]))
            for table, sheet in sheets
        )
        + "\n",
        csv=csv_text(lines),
        numbers={"reference": reference, "metric": metric, "common": common, "tables": numbers},
    )


def _check(tables: Sequence[ResultTable], reference: str, metric: str, common: str | None) -> None:
    labels, scores = (sorted({key[place] for table in tables for key in table.results}) for place in (0, 1))
    for name, value, choices in (
        ("reference", reference, labels),
        ("metric", metric, METRICS),
        ("common", common, [None, *scores]),
    ):
        if value not in choices:
            raise ValueError(f"{name}={value!r} is not there: choose from {', '.join(filter(None, choices))}")


def _markdown(table: ResultTable, sheet: Sheet) -> str:
    notes = "\n".join(f"* {markdown_text(note)}" for note in sheet.notes)
    return f"## {markdown_text(f'{table.name}: {sheet.title}')}\n\n{markdown_table(sheet.rows)}\n\n{notes}"


def _lines(table: ResultTable, rows: Sequence[ScoreRow]) -> list[dict[str, object]]:
    """Of the CSV: every number in full."""
    place = {"dataset": table.dataset, "family": table.family, "unknown": table.unknown}
    lines: list[dict[str, object]] = []
    for row in rows:
        line: dict[str, object] = {**place, "kind": "run", "method": row.label, "score": row.score, "own": int(row.own)}
        line |= {"runs": row.runs, "runs_of_table": table.runs, "unit": table.unit}
        line |= {"n": max((found.n for found in row.estimates.values()), default=0), "seconds": row.seconds}
        for metric in METRICS:
            found = row.estimates.get(metric)
            low, high = (None, None) if found is None else _ends(found, metric)
            line |= {metric: found and found.mean, f"{metric}_low": low, f"{metric}_high": high}
        lines.append(line)
    for anchor in published_anchors(table):
        line = {**place, "kind": "published", "method": anchor.label, "score": anchor.score, "source": anchor.source}
        lines.append({**line, **anchor.values})
    return lines


def _ends(found: Estimate, metric: str) -> tuple[float | None, float | None]:
    low, high = clipped(found.interval, range_of(metric)) if found.n > 1 else found.interval
    return number_or_none(low), number_or_none(high)


def _numbers(
    table: ResultTable, rows: Sequence[ScoreRow], pairs: Sequence[PairedVerdict], metric: str
) -> dict[str, Any]:
    correlation, runs = accuracy_correlation(table, metric=metric)
    return {
        "dataset": table.dataset,
        "family": table.family,
        "unknown": table.unknown,
        "unit": table.unit,
        "samples": [[list(run) for run in runs] for runs in table.samples],
        "scores": [
            {
                **{"method": row.label, "score": row.score, "own": row.own, "runs": row.runs, "seconds": row.seconds},
                **{name: estimate_json(found, bounds=range_of(name)) for name, found in row.estimates.items()},
            }
            for row in rows
        ],
        "published": [anchor._asdict() for anchor in published_anchors(table)],
        "comparisons": [
            {
                **{"other": pair.other, "scores": list(pair.scores), "own": pair.own},
                "difference": estimate_json(pair.found.difference, bounds=range_of(metric, difference=True)),
                **{"deviation": pair.found.deviation, "p": pair.found.p_value, "p_holm": pair.corrected},
                **{"power": pair.power, "needed": pair.needed},
                **{"accuracies": list(pair.accuracies), "verdict": pair.verdict},
            }
            for pair in pairs
        ],
        "correlation_with_accuracy": {"r": correlation, "runs": runs},
        "mean_ranks": {score: float(ranks.mean()) for score, ranks in score_ranks(table, metric=metric).items()},
    }
