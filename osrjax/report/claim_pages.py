"""Claims on entries in every format: text for a terminal, sections of a Markdown page, CSV and JSON values."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from osrjax.data.splits import FAMILIES, distinct_splits, has_lists
from osrjax.files import number_or_none
from osrjax.report.claims import BASELINE, CLAIM_FIGURES, CLAIM_TEXTS, DIFFERENCE, METHOD, ClaimTable
from osrjax.report.effects import effect_rows, interval_cell, what_would_change
from osrjax.report.leaderboard import ResultTable
from osrjax.report.markup import csv_text, markdown_table, markdown_text
from osrjax.report.studies import STUDY_GATE, STUDY_TEXTS, StudyTable
from osrjax.report.studies_figures import STUDY_FIGURES
from osrjax.report.tables import JND, results_table
from osrjax.report.verdicts import POINT, gate_of

__all__ = ["ClaimPages", "claims_texts"]

RULE = (
    "One number per run; the seeds of a split are averaged, then a 95 % t interval over splits. An effect holds (fails)"
    " if the interval excludes 0 on the expected (other) side, else it is undecided; a claim holds if all its effects"
    f" with an expected sign do and fails if one does, as {METHOD} has it. No verdict below the accuracy of the"
    " leaderboard. AUROC of (g): corrected by Holm for all methods of the leaderboard's table. "
    " A number of splits that would change a verdict finds the present mean with 80 % power. "
    f"{JND}; of the unit embedding."
)
STUDY_RULE = (
    f"Studies: trainings of their own, verdicts from an accuracy of {STUDY_GATE} on: for (f) of every K, seeds averaged"
    " within a class order; for (i) of the arm with both halves; for (h) of both arms, of m-OvR alone where the claim"
    " says that the other value harms. AUROC of (h): corrected by Holm for all arms. Flat: the interval lies within"
    f" {POINT} of 0, both effects hold."
)
NOTES = {
    "c": "The ratio of norms counts as at least 1e-6: where all features of an untrained network are off in the middle"
    " of a line the norm is 0, which the mean over lines shows and their median does not.",
    "i1": "Mean and interval are the jackknife's over splits.",
    "i2": "JND is split by least squares of the norm on the distance, with one slope and an intercept for known and one"
    " for unknown images.",
    "i3": "Between: the inner half of lines between two known images of different classes.",
    "n": "Scores of the 100 + 100 probed images; distance: to the nearest mean of the known ones of a class, each image"
    " left out of its own. Every method is decided here, m-OvR in the table at the top.",
}


class ClaimPages(NamedTuple):
    """Claims in every format.

    Attributes:
      text: aligned, for a terminal: what decides and what was measured of m-OvR beside it.
      markdown: the same as sections of a page.
      blocks: of pages that are made anew, by name: "verdicts" of all claims, and each claim by its letter.
      csv: every effect of every method, numbers in full.
      numbers: JSON values of all.
    """

    text: str
    markdown: str
    csv: str
    numbers: dict[str, Any]
    blocks: dict[str, str]


def claims_texts(tables: Sequence[ClaimTable], studies: Sequence[StudyTable] = ()) -> ClaimPages:
    """Writes claims out.

    Args:
      tables: from :func:`osrjax.report.claim_tables`, one or more; none with studies alone.
      studies: from :func:`osrjax.report.study_tables`.

    Returns:
      The pages.
    """
    heads = [f"{found.name}: {_counted(found)}" for found in tables]
    verdicts = [
        {"claim": letter, "text": text, **{found.name: _verdict(found, letter) for found in tables}}
        for letter, text in CLAIM_TEXTS.items()
    ]
    lines = [{"table": found.name, **_flat(record)} for found in tables for record in found.effects]
    lines += [
        {"table": f"{found.study}, {found.name}", **_flat(record)} for found in studies for record in found.effects
    ]
    text, marked, blocks = [], [], {}
    if tables:
        text = ["\n".join([_wrapped(RULE), *map(_wrapped, heads)]), results_table(verdicts)]
        marked = [_marked(RULE), "\n".join(_marked(f"- {head}") for head in heads), markdown_table(verdicts)]
        blocks["verdicts"] = "\n\n".join(marked)
    for letter in CLAIM_TEXTS if tables else ():
        title, drawn = f"({letter}) {CLAIM_TEXTS[letter]}", _figures_of(letter)
        notes = " ".join(filter(None, (NOTES.get(letter), _least_squares(tables) if letter == "i1" else "")))
        rows = [part for part in (_detector_rows(tables) if letter == "n" else [], _section(tables, letter)) if part]
        text.append("\n".join(filter(None, (f"{title}; figures: {drawn}", *map(results_table, rows), _wrapped(notes)))))
        body = "\n\n".join(filter(None, (*map(markdown_table, rows), _marked(notes))))
        marked.append(f"## {markdown_text(title)}\n\nFigures: {drawn}.\n\n{body}")
        blocks[letter] = f"{_answer({found.name: _verdict(found, letter) for found in tables})}\n\n{body}"
    if studies:
        rows, effects = _study_rows(studies)
        drawn = f"Figures: {', '.join(_study_figures(studies))}."
        text += [_wrapped(STUDY_RULE), _wrapped(drawn), results_table(rows), results_table(effects)]
        marked += ["## Studies", _marked(STUDY_RULE), _marked(drawn), markdown_table(rows), markdown_table(effects)]
        for letter in dict.fromkeys(row["claim"] for row in rows):
            answer = _answer({str(row["data"]): str(row["verdict"]) for row in rows if row["claim"] == letter})
            blocks[str(letter)] = f"{answer}\n\n{markdown_table(_without_claim(effects, letter))}"
    return ClaimPages(
        text="\n\n".join(text),
        markdown="\n\n".join(marked) + "\n",
        csv=csv_text(lines),
        blocks=blocks,
        numbers={
            "rule": RULE,
            "claims": CLAIM_TEXTS,
            "tables": [
                {
                    **{name: getattr(found.table, name) for name in ("dataset", "family", "unknown", "unit")},
                    "accuracy_threshold": gate_of(found.table.dataset),
                    "probed_runs": found.runs,
                    "verdicts": dict(found.verdicts),
                    "effects": list(found.effects),
                    "class_adjusted": dict(found.roles),
                }
                for found in tables
            ],
            "studies": [
                {name: value for name, value in found._asdict().items() if name != "drawn"}
                | {"accuracy_threshold": STUDY_GATE}
                for found in studies
            ],
        },
    )


def _answer(verdicts: Mapping[str, str]) -> str:
    return f"**{'; '.join(f'{name}: {verdict}' for name, verdict in verdicts.items())}**"


def _without_claim(rows: Sequence[Mapping[str, object]], letter: object) -> list[dict[str, object]]:
    """The rows of one claim, on a page that names it."""
    return [{name: cell for name, cell in row.items() if name != "claim"} for row in rows if row["claim"] == letter]


def _section(tables: Sequence[ClaimTable], letter: str) -> list[dict[str, object]]:
    """Effects that decide, of m-OvR and softmax, or of all methods for n; of m-OvR others too (n: and of softmax)."""
    rows = []
    for found in tables:
        gate, unit = gate_of(found.table.dataset), found.table.unit
        own = [record for record in found.effects if record["claim"] == letter]
        decisive = {record["effect"] for record in own if record["expected"]}
        own = [record for record in own if not _is_detector(record)]  # they have a table of their own
        full, brief = ((METHOD, BASELINE), found.probes) if letter == "n" else ((METHOD, DIFFERENCE), (BASELINE,))
        shown = [r for r in own if r["arm"] in full or (r["arm"] in brief and r["effect"] in decisive and r["n"])]
        rows += _without_claim(_changeable(found.name, shown, gate=gate, unit=unit), letter)
    return rows or [{"data": ", ".join(found.name for found in tables), "verdict": "no run"}]


def _study_rows(studies: Sequence[StudyTable]) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """The verdicts of studies, and every effect of theirs."""
    verdicts: list[dict[str, object]] = [
        {"claim": letter, "text": STUDY_TEXTS[letter], "data": found.name, "verdict": verdict}
        for found in studies
        for letter, verdict in found.verdicts.items()
    ]
    effects = [
        row for found in studies for row in _changeable(found.name, found.effects, gate=STUDY_GATE, unit=found.unit)
    ]
    return verdicts, effects


def _study_figures(studies: Sequence[StudyTable]) -> list[str]:
    """Names of the figures of these studies, each with its claims."""
    named = {name: letters for found in studies for name, (letters, _) in STUDY_FIGURES[found.study].items()}
    return [f"{name} ({letters.replace(' ', ', ')})" for name, letters in named.items()]


def _changeable(name: str, records: Sequence[Mapping[str, Any]], *, gate: float, unit: str) -> list[dict[str, object]]:
    """Effects as rows that say of which data they are and what would change their verdicts."""
    records = sorted(records, key=lambda record: record["claim"])
    return [
        {"data": name, **row, "what would change it": what_would_change(record, gate=gate, unit=unit)}
        for record, row in zip(records, effect_rows(records), strict=True)
    ]


def _detector_rows(tables: Sequence[ClaimTable]) -> list[dict[str, object]]:
    """The AUROC of every score, a row per method."""
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for found in tables:
        for record in found.effects:
            if record["claim"] == "n" and _is_detector(record):
                start = {"data": found.name, "method": record["arm"], "n": record["n"]}
                row = rows.setdefault((found.name, record["arm"]), start)
                row[record["effect"].removeprefix("AUROC of the ")] = interval_cell(record["mean"], *record["interval"])
    return list(rows.values())


def _is_detector(record: Mapping[str, Any]) -> bool:
    """Whether an effect of n is the AUROC of a score alone."""
    return not record["expected"] and record["effect"].startswith("AUROC of the ")


def _verdict(found: ClaimTable, letter: str) -> str:
    counted = [
        record["n"]
        for record in found.effects
        if record["claim"] == letter and record["expected"] and record["arm"] in (METHOD, DIFFERENCE)
    ]
    return found.verdicts[letter] + (f", n = {min(counted)}" if counted else "")


def _least_squares(tables: Sequence[ClaimTable]) -> str:
    """What all class means of all splits say at once, taken as independent given split, class and role."""
    found = [
        f"{table.name}, {label} {role['after']['mean']:.3f} [{low:.3f}, {high:.3f}]"
        for table in tables
        for label, role in table.roles.items()
        if label in (METHOD, BASELINE) and None not in (role["after"]["mean"], *role["after"]["interval"])
        for low, high in [role["after"]["interval"]]
    ]
    return (
        f"Least squares on split, class and role of all class means, after training: {'; '.join(found)}."
        if found
        else ""
    )


def _marked(text: str) -> str:
    return _wrapped(markdown_text(text))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 140, break_on_hyphens=False)


def _figures_of(letter: str) -> str:
    return ", ".join(name for name, (letters, _) in CLAIM_FIGURES.items() if letter in letters.split())


def _counted(found: ClaimTable) -> str:
    table, n = found.table, len(found.table.samples)
    counts = [f"{label} {sum(any(probe for probe in row) for row in rows)}" for label, rows in found.probes.items()]
    text = f"{found.runs} probed runs; {table.unit}s with a probe: {', '.join(counts)} of {n}"
    whole = _splits_of_family(table) if table.unit == "split" else n
    return text + (f", {whole - n} of the family's {whole} without an entry" if whole > n else "")


def _splits_of_family(table: ResultTable) -> int:
    """How many splits with other known classes the family has; 0 where it is none of the lists."""
    known = table.family in FAMILIES and has_lists(table.family, table.unknown)
    return len(distinct_splits(table.family, table.unknown)) if known else 0


def _flat(record: Mapping[str, Any]) -> dict[str, object]:
    low, high = record["interval"]
    flat = {name: value for name, value in record.items() if name not in ("interval", "per_split", "level")}
    return {**flat, "low": number_or_none(low), "high": number_or_none(high)}
