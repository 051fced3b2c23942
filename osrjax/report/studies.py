"""The claims that need trainings of their own, on the entries of studies (experiments/benchmark.py --study).

The rule, fixed before any run. Claims (f) and (i) are effects of probes as in :mod:`osrjax.analysis.claims`; for (f) a
class order takes the place of a split. Claim (h) compares the AUROC of m-OvR with that of every other arm, corrected by
Holm over all of them. The accuracy asked for is :data:`STUDY_GATE`: for (f) of every K, for (i) of the arm with both
halves, for (h) of both arms, but of m-OvR alone where the claim says that the other value harms. "Flat" asks that the
interval of the difference lies within one point of AUROC, uncorrected, and fails where it lies outside. The same
difference by the largest logit, which every arm has, is reported: it tells what an arm does to a network from what it
does to its own score.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from osrjax.analysis.claims import CLAIMS, Probes, half_effects, known_classes_effects
from osrjax.metrics.effects import claim_verdict, effect, log_ratio, rank_correlation
from osrjax.metrics.intervals import SIGNED
from osrjax.report.claims import METHOD, compared_auroc, probes_of
from osrjax.report.leaderboard import ResultTable, entry_tables
from osrjax.report.sweep import response_panels
from osrjax.report.verdicts import POINT
from osrjax.run.entries import Entry, entry_probe

__all__ = ["STUDY_GATE", "STUDY_TEXTS", "StudyTable", "study_tables"]

STUDY_GATE = 0.9  # of all data sets: trainings of studies may be shorter than those of the leaderboard
STUDY_TEXTS = {
    "f": CLAIMS["f"],
    "h": "each of A, W, S, N helps; a large margin, weight decay or lambda_self hurts; T is large enough, then flat",
    "i": CLAIMS["i"],
    "i0": f"at margin 0: {CLAIMS['i']}",
}
STUDY_CLAIMS = {"classes": ("f",), "recipe": ("h",), "halves": ("i", "i0")}
# By arm, the sign of m-OvR's difference to it that (h) asks for; the recipe's own values are those of m-OvR.
PARTS = {"without A": 1, "without W": 1, "with S": -1, "without N": 1}
HARMFUL = {"T 2": 1, "margin 1": 1, "weight decay 0.1": 1, "lambda_self 1": 1}
FLAT = ("T 32", "T 64")
LAST = ("jnd", "accuracy", "norm_known", "norm_unknown")  # of the last probe
LARGEST_LOGIT = "AUROC of the largest logit"
ARMS_TOGETHER = "Spearman of JND and AUROC"
REPORTED = ("softmax", "T 8", "margin 0", "margin 0.25", "weight decay 0.01")
# Hyper-parameters of (h) by their field in a configuration, as the claim calls them.
FIELDS = {"scale": "T", "margin": "margin", "weight_decay": "weight decay", "rotation_weight": "lambda_self"}


class StudyTable(NamedTuple):
    """The claims of one study on one data set.

    Attributes:
      study: its name.
      name: of the data set and the family of splits.
      unit: what n counts.
      effects: records of :func:`osrjax.metrics.effect`.
      verdicts: by claim.
      drawn: what its figures show beside the effects: of classes, ``"counts"``, ``"jnd"`` at the end of every order,
        seed and count, and the ``"unknown"`` classes of every order; of recipe, ``"values"``: by hyper-parameter, its
        values and their AUROC, ``"jnd"`` and ``"auroc"``: by arm, those of every run; of halves, by arm, the probes.
    """

    study: str
    name: str
    unit: str
    effects: Sequence[Mapping[str, Any]]
    verdicts: Mapping[str, str]
    drawn: Mapping[str, Any]


def study_tables(entries: Iterable[Entry]) -> list[StudyTable]:
    """Decides claims (f), (h) and (i).

    Args:
      entries: that were read; those of no such study are left out.

    Returns:
      One for each study and data set, in the order of their names.

    Raises:
      ValueError: entries that contradict each other, or a damaged probe.
    """
    found: list[StudyTable] = []
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.manifest.get("study") or "", entry.manifest["dataset"]), []).append(entry)
    for (study, dataset), members in sorted(groups.items()):
        if study == "classes":
            found.append(_decided(study, f"{dataset}-orders", "class order", *_classes(members)))
        elif study in ("halves", "recipe"):
            for table in entry_tables(members):
                name = "-".join(dict.fromkeys((dataset, table.family, table.unknown)))
                parts = _recipe(table, members) if study == "recipe" else _halves(table, members)
                found.append(_decided(study, name, table.unit, *parts))
    return found


def _decided(study: str, name: str, unit: str, effects: list[dict[str, Any]], drawn: Mapping[Any, Any]) -> StudyTable:
    of_claims = {letter: [record for record in effects if record["claim"] == letter] for letter in STUDY_CLAIMS[study]}
    verdicts = {letter: claim_verdict(records) for letter, records in of_claims.items()}
    return StudyTable(study, name, unit, effects, verdicts, drawn)


def _classes(entries: Sequence[Entry]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Claim (f): of every class order and seed, JND after training for each number of known classes."""
    last: dict[tuple[int, int, int], tuple[float, ...]] = {}
    where: dict[tuple[int, int, int], Entry] = {}
    for entry in entries:
        manifest, probe = entry.manifest, entry_probe(entry)
        position = (int(manifest["split"]), int(manifest["seed"]), len(manifest["known_names"]))
        first = next(iter(where.values()), entry)
        options, others = manifest["config"], first.manifest["config"]
        if unlike := [name for name in {**options, **others} if options.get(name) != others.get(name)]:
            raise ValueError(
                f"classes: {first.directory} and {entry.directory} were trained differently ({', '.join(unlike)}):"
                " leave one out"
            )
        for other in (where[key] for key in where if key[0] == position[0]):
            names = sorted((set(e.manifest["known_names"]) for e in (entry, other)), key=len)
            if not names[0] <= names[1] or set(manifest["unknown_names"]) != set(other.manifest["unknown_names"]):
                raise ValueError(
                    f"classes, order {position[0]}: {other.directory} and {entry.directory} are of two class orders:"
                    " leave one out"
                )
        if position in where:
            raise ValueError(
                f"classes, order {position[0]}, seed {position[1]}, K {position[2]} is in {where[position].directory}"
                f" and in {entry.directory}: leave one out"
            )
        where[position] = entry
        if probe is not None:
            last[position] = tuple(float(probe[name][-1]) for name in LAST)
    orders, seeds, counts = (sorted({key[axis] for key in where}) for axis in range(3))
    missing = (np.nan,) * len(LAST)
    jnd, accuracy, known, unknown = np.moveaxis(
        np.array([[[last.get((i, j, k), missing) for k in counts] for j in seeds] for i in orders]), -1, 0
    )
    relative = np.vectorize(log_ratio)(unknown, known)  # does JND grow more than norms do?
    reported = {"the known norm": known, "the unknown norm": unknown, "log(unknown / known norm)": relative}
    effects = known_classes_effects(np.array(counts), jnd, accuracy, arm=METHOD, gate=STUDY_GATE, reported=reported)
    unknown_names = {key[0]: entry.manifest["unknown_names"] for key, entry in where.items()}
    return effects, {"counts": np.array(counts), "jnd": jnd, "unknown": [unknown_names[order] for order in orders]}


def _halves(table: ResultTable, entries: Sequence[Entry]) -> tuple[list[dict[str, Any]], dict[str, Probes]]:
    """Claim (i), with the margin and without."""
    there, records, drawn = probes_of(table, entries), [], {}
    for claim, end in (("i", ""), ("i0", " margin 0")):
        arms = {
            label + end: [[there.get((label + end, run), (None,))[0] for run in runs] for runs in table.samples]
            for label in ("intra half", "inter half", METHOD)
        }
        records += [record | {"claim": claim} for record in half_effects(*arms.values(), gate=STUDY_GATE)]
        drawn |= {label: probes for label, probes in arms.items() if any(run for row in probes for run in row)}
    return records, drawn


def _recipe(table: ResultTable, entries: Sequence[Entry]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Claim (h): the parts, the values that harm, and T from the recipe's on."""
    expected = {**PARTS, **HARMFUL, **dict.fromkeys((*FLAT, *REPORTED), 0)}
    compared = compared_auroc(table, expected, claim="h", gate=STUDY_GATE, harmful=HARMFUL)
    records = {record["arm"].removeprefix(f"{METHOD} - "): record for record in compared}
    missing = np.full((len(table.samples), 1), np.nan)
    none = [
        effect(missing, missing == 0, [], claim="h", name="AUROC", arm=f"{METHOD} - {arm}", expected=1)
        for arm in (*PARTS, *HARMFUL, *FLAT)
        if arm not in records
    ]
    flat = [part for arm in FLAT if arm in records for part in _flat(table, arm)]
    shared = [arm for arm in expected if arm in records and (arm, "max_logit") in table.results]
    effects = [*compared, *flat, *none, *(_by_largest_logit(table, arm) for arm in shared)]
    auroc = {label: table.values(label, score, "auroc") for label, score in table.own_scores.items()}
    there = probes_of(table, entries)
    jnd = {label: np.full_like(values, np.nan) for label, values in auroc.items()}
    for (label, run), (probe, _) in there.items():
        jnd[label][_place(table, run)] = probe["jnd"][-1]
    if there:
        effects.append(_over_arms(table, jnd, auroc))
    recipes = {entry.manifest["label"]: _with_rotations(entry.manifest.get("config") or {}) for entry in entries}
    complete = {label: recipe for label, recipe in recipes.items() if label in auroc and FIELDS.keys() <= recipe.keys()}
    return effects, {"values": response_panels(complete, auroc, fields=FIELDS), "jnd": jnd, "auroc": auroc}


def _place(table: ResultTable, run: tuple[int, int]) -> tuple[int, int]:
    """Row and column of a run among the samples."""
    return next((row, runs.index(run)) for row, runs in enumerate(table.samples) if run in runs)


def _over_arms(table: ResultTable, jnd: Mapping[str, np.ndarray], auroc: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Spearman's rho of JND and AUROC over the arms, of every split and seed that has all of them."""
    x, y = (np.stack([values[label] for label in jnd], axis=-1) for values in (jnd, auroc))
    rho = np.array([[rank_correlation(*pair) for pair in zip(*rows, strict=True)] for rows in zip(x, y, strict=True)])
    finished = np.asarray(~np.isnan(x).all(axis=-1))
    accuracies = [table.values(label, score, "closed_set_accuracy") for label, score in table.own_scores.items()]
    name, arm = ARMS_TOGETHER, "all arms"
    return effect(rho, finished, accuracies, claim="h", name=name, arm=arm, expected=0, bounds=SIGNED)


def _by_largest_logit(table: ResultTable, arm: str) -> dict[str, Any]:
    """The difference of AUROC by a score that both have, which decides nothing."""
    difference, accuracy = _difference(table, arm, dict.fromkeys((METHOD, arm), "max_logit"))
    of_arm = f"{METHOD} - {arm}"
    options = {"expected": 0, "bounds": SIGNED, "gate": STUDY_GATE}
    return effect(difference, ~np.isnan(difference), accuracy, claim="h", name=LARGEST_LOGIT, arm=of_arm, **options)


def _difference(table: ResultTable, arm: str, scores: Mapping[str, str]) -> tuple[np.ndarray, list[np.ndarray]]:
    """AUROC of m-OvR less that of an arm, each by its score, and the accuracies of both."""
    auroc, accuracy = (
        [table.values(label, scores[label], metric) for label in (METHOD, arm)]
        for metric in ("auroc", "closed_set_accuracy")
    )
    return auroc[0] - auroc[1], accuracy


def _with_rotations(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe without rotations as one with rotations of weight 0."""
    return {**recipe, **({"rotations": "one", "rotation_weight": 0.0} if recipe.get("rotations") == "none" else {})}


def _flat(table: ResultTable, arm: str) -> list[dict[str, Any]]:
    """Two effects that both hold where the interval of the difference lies within one point of 0."""
    difference, accuracy = _difference(table, arm, table.own_scores)
    accuracies = [np.where(np.isnan(difference), np.nan, part) for part in accuracy]
    return [
        effect(
            POINT + sign * difference,
            ~np.isnan(difference),
            accuracies,
            claim="h",
            name=f"{POINT} {'+' if sign > 0 else '-'} difference of AUROC",
            arm=f"{METHOD} - {arm}",
            expected=1,
            bounds=SIGNED,
            gate=STUDY_GATE,
        )
        for sign in (1, -1)
    ]
