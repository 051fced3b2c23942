"""Accuracy on corrupted images: what tables show of corruption.json, of runs and of entries."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from osrjax.data.table import CORRUPTIONS
from osrjax.metrics.intervals import SHARE, SIGNED, paired_difference, t_interval
from osrjax.report.leaderboard import ResultTable
from osrjax.report.sheets import Sheet, p_text
from osrjax.report.tables import estimate_json, estimate_text
from osrjax.report.verdicts import paired_verdicts

__all__ = ["CORRUPTION_KINDS", "corruption_columns", "corruption_sheets", "corruptions_text"]

CORRUPTION_KINDS = {
    "noise": CORRUPTIONS[:3],
    "blur": CORRUPTIONS[3:7],
    "weather": CORRUPTIONS[7:11],
    "digital": CORRUPTIONS[11:],
}
MEAN = "mean accuracy"


def corruption_columns(found: Mapping[str, Any]) -> dict[str, float]:
    """The accuracies of a run by column.

    Args:
      found: the content of corruption.json.

    Returns:
      On clean images, the mean over corruptions and severities, and that of each kind of corruption that is there.

    Example:
      >>> accuracy = {"fog": {"1": 0.75, "5": 0.5}, "contrast": {"1": 0.5, "5": 0.25}}
      >>> corruption_columns({"clean_accuracy": {"value": 0.9}, "mean_accuracy": {"value": 0.5}, "accuracy": accuracy})
      {'clean accuracy': 0.9, 'mean accuracy': 0.5, 'weather': 0.625, 'digital': 0.375}
    """
    columns = {"clean accuracy": found["clean_accuracy"]["value"], MEAN: found["mean_accuracy"]["value"]}
    for kind, members in CORRUPTION_KINDS.items():
        rows = [list(row.values()) for name, row in found["accuracy"].items() if name.split(" ")[0] in members]
        if rows:
            columns[kind] = float(np.mean(rows))
    return columns


def corruptions_text(found: Iterable[Mapping[str, Any]]) -> str:
    """What some runs were asked about.

    Args:
      found: the content of each corruption.json, one or more.

    Returns:
      Words for a title.

    Raises:
      ValueError: they are about different images or corruptions.

    Example:
      >>> corruptions_text([{"images": 7, "severities": [1, 5], "accuracy": {"fog": {}, "contrast": {}}}])
      '7 test images, 2 corruptions at 1, 5'
    """
    asked = {(run["images"], tuple(run["severities"]), tuple(run["accuracy"]), run.get("corruptions")) for run in found}
    if len(asked) > 1:
        raise ValueError(
            "the files corruption.json are of different images or corruptions: give corruption.py the same"
        )
    ((images, severities, names, _),) = asked
    return f"{images} test images, {len(names)} corruptions at {', '.join(map(str, severities))}"


def corruption_sheets(table: ResultTable, *, reference: str) -> tuple[list[Sheet], dict[str, Any]]:
    """Accuracies of every method on corrupted images, the best mean first, and the reference less each other method.

    Args:
      table: one of :func:`osrjax.report.entry_tables`.
      reference: label of the method.

    Returns:
      The tables, verdicts on the mean accuracy by the rule of :mod:`osrjax.report.verdicts` among them, and the same
      as JSON values by method; nothing where no run has classified corrupted images.

    Raises:
      ValueError: runs that were asked about different images or corruptions.
    """
    results = {
        key: {run: one for run, one in runs.items() if one.own and one.corruption is not None}
        for key, runs in table.results.items()
    }
    files = [one.corruption for runs in results.values() for one in runs.values() if one.corruption is not None]
    if not files:
        return [], {}
    try:
        asked = corruptions_text(files)
    except ValueError as error:
        raise ValueError(f"{table.name}: {error}") from None

    # As a table of its own, whose metrics are the columns.
    found = table._replace(
        results={
            key: {
                run: one._replace(values={**one.values, **corruption_columns(one.corruption or {})})
                for run, one in runs.items()
            }
            for key, runs in results.items()
            if runs
        }
    )
    columns, own = list(corruption_columns(files[0])), found.own_scores
    values = {label: {name: found.values(label, own[label], name) for name in columns} for label in own}
    means = {label: {name: t_interval(runs) for name, runs in of.items()} for label, of in values.items()}
    rows = [
        {"method": label}
        | {name: estimate_text(one, bounds=SHARE) for name, one in means[label].items()}
        | {"runs": str(count) if count == table.runs else f"{count} of {table.runs}, incomplete"}
        for label in sorted(own, key=lambda label: -means[label][MEAN].mean)
        for count in [len(found.results[label, own[label]])]
    ]
    sources = dict.fromkeys(str(file.get("corruptions")) for file in files)
    notes = [f"{asked} ({', '.join(sources)}); mean [95 % t interval over {table.unit}s, seeds averaged first]"]
    if any("procedural" in name for name in files[0]["accuracy"]):
        notes.append("frost, of weather, is a texture and not the paper's photographs")
    sheets = [Sheet("accuracy on corrupted images", rows, notes)]

    compared, comparisons = [], []
    for pair in paired_verdicts(found, reference, metric=MEAN):
        differences = {name: paired_difference(values[reference][name], values[pair.other][name]) for name in columns}
        compared.append(
            {"difference": f"{reference} - {pair.other}"}
            | {name: estimate_text(one, bounds=SIGNED) for name, one in differences.items()}
            | {"n": pair.found.difference.n, "p": p_text(pair.found.p_value), "p, Holm": p_text(pair.corrected)}
            | {"verdict": pair.verdict}
        )
        comparisons.append(
            {"other": pair.other, "p": pair.found.p_value, "p_holm": pair.corrected, "verdict": pair.verdict}
            | {"differences": {name: estimate_json(one, bounds=SIGNED) for name, one in differences.items()}}
        )
    if compared:
        rule = (
            "p and verdict: of the mean accuracy, by the rule of the comparison above; one family of Holm's correction"
        )
        sheets.append(Sheet(f"{reference} against the others on corrupted images", compared, [rule]))
    methods = {
        label: {name: estimate_json(one, bounds=SHARE) for name, one in of.items()} for label, of in means.items()
    }
    return sheets, {"of": asked, "methods": methods, "comparisons": comparisons}
