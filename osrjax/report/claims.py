"""The paper's claims on the entries of a leaderboard: effects, verdicts and figures of their probes, a table at a time.

The tables, their samples, the accuracy that a verdict asks for and the corrected comparison of AUROC are those of the
leaderboard. Claims (a) to (e) and (g) are those of :data:`osrjax.analysis.CLAIMS`; the others stand in
:data:`osrjax.analysis.MECHANISM`. m-OvR decides, and (g) against softmax; every other method is reported.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from osrjax.analysis.claims import CLAIMS, Probes, class_adjusted_norms, dynamics_effects, loss_effects
from osrjax.analysis.mechanism import MECHANISM, detector_effects, mechanism_effects
from osrjax.metrics.effects import claim_verdict, effect
from osrjax.metrics.intervals import SIGNED
from osrjax.report.leaderboard import ResultTable, entry_tables
from osrjax.report.mechanism_figures import detectors_figure, distance_figure, lines_figure, roles_figure
from osrjax.report.probes import (
    probe_arms_figure,
    probe_correlation_figure,
    probe_dynamics_figure,
    probe_embedding_figure,
    probe_histograms,
    probe_interpolation_figure,
)
from osrjax.report.verdicts import LEVEL, gate_of, paired_verdicts
from osrjax.run.entries import Entry, entry_probe

__all__ = ["CLAIM_FIGURES", "CLAIM_TEXTS", "ClaimTable", "claim_entries", "claim_figures", "claim_tables"]

METHOD, BASELINE = "m-OvR", "softmax"
DIFFERENCE = f"{METHOD} - {BASELINE}"
CLAIM_TEXTS = {letter: CLAIMS[letter] for letter in "abcdeg"} | MECHANISM


class ClaimTable(NamedTuple):
    """Every effect on one data set, family and unknown set.

    Attributes:
      table: of the leaderboard.
      probes: by label of the method, for each sample and run; None where a run has no probe.
      effects: records of :func:`osrjax.metrics.effect`, of all methods.
      verdicts: by claim.
      roles: by label, :func:`osrjax.analysis.class_adjusted_norms`.
      class_names: by class id.
      first_names: of the known classes of the first run of m-OvR.
    """

    table: ResultTable
    probes: Mapping[str, Probes]
    effects: Sequence[Mapping[str, Any]]
    verdicts: Mapping[str, str]
    roles: Mapping[str, Mapping[str, Any]]
    class_names: Mapping[int, str]
    first_names: Sequence[str]

    @property
    def name(self) -> str:
        """Short, for columns and files."""
        parts = dict.fromkeys((self.table.dataset, self.table.family, self.table.unknown))
        return "-".join(parts)

    @property
    def runs(self) -> int:
        """How many runs were probed."""
        return sum(probe is not None for rows in self.probes.values() for row in rows for probe in row)


def claim_entries(entries: Iterable[Entry]) -> list[Entry]:
    """Those that answer the claims of every data set: of methods; where there are none, the methods among (h)'s arms.

    Args:
      entries: that were read.

    Returns:
      All without a study; m-OvR and softmax of the study "recipe" for each data set and family that has no other,
      if one has a probe.
    """
    entries = list(entries)
    own = [entry for entry in entries if not entry.manifest.get("study")]
    answered = {_task(entry) for entry in own}
    arms = [
        entry
        for entry in entries
        if entry.manifest.get("study") == "recipe" and entry.manifest["label"] in (METHOD, BASELINE)
    ]
    probed = {_task(entry) for entry in arms if "probe.npz" in entry.manifest["files"]}
    return own + [entry for entry in arms if _task(entry) in probed - answered]


def _task(entry: Entry) -> tuple[str, str]:
    return entry.manifest["dataset"], entry.manifest["family"]


def claim_tables(entries: Iterable[Entry]) -> list[ClaimTable]:
    """Takes every effect anew from the probes of entries, and the comparison of AUROC from their scores.

    Args:
      entries: that were read; those without probe count for the comparison of AUROC alone.

    Returns:
      One for each data set, family and unknown set with a probe, in the order of their names.

    Raises:
      ValueError: no entry with a probe, a damaged one, or entries that contradict each other.
    """
    entries, found = list(entries), []
    for table in entry_tables(entries):
        there = probes_of(table, entries)
        labels = dict.fromkeys((METHOD, BASELINE, *sorted({label for label, _ in there})))
        rows = {
            label: [[there.get((label, run), (None,))[0] for run in runs] for runs in table.samples] for label in labels
        }
        probes = {label: runs for label, runs in rows.items() if any(probe for row in runs for probe in row)}
        if not probes:
            continue
        effects = _effects(table, probes)
        decisive = [record for record in effects if record["arm"] in (METHOD, DIFFERENCE)]
        verdicts = {
            letter: claim_verdict([record for record in decisive if record["claim"] == letter])
            for letter in CLAIM_TEXTS
        }
        roles = {label: class_adjusted_norms(runs) for label, runs in probes.items()}
        names = {
            int(k): str(name)
            for probe, manifest in there.values()
            for k, name in zip(probe["known_classes"], manifest["known_names"], strict=True)
        }
        first = [
            there[label, run][1] for runs in table.samples for run in runs for label in probes if (label, run) in there
        ]
        own = [manifest for manifest in first if manifest["label"] == METHOD]
        found.append(ClaimTable(table, probes, effects, verdicts, roles, names, (own or first)[0]["known_names"]))
    if not found:
        raise ValueError("entries have no probe.npz: give some that were trained with --probe-every")
    return found


def _effects(table: ResultTable, probes: Mapping[str, Probes]) -> list[dict[str, Any]]:
    gate, records = gate_of(table.dataset), []
    for arm, runs in probes.items():
        records += dynamics_effects(runs, arm=arm, decides=arm == METHOD, gate=gate)
        records += mechanism_effects(runs, arm=arm, gate=gate)
        records += detector_effects(runs, arm=arm, gate=gate)
    if {METHOD, BASELINE} <= probes.keys():
        jnd, _ = loss_effects(
            probes[METHOD], probes[BASELINE], gate=gate
        )  # AUROC is that of all runs, not of probed ones
        records += [jnd, *compared_auroc(table, {BASELINE: 1}, claim="g", gate=gate)]
    return sorted(records, key=lambda record: list(CLAIM_TEXTS).index(record["claim"]))


def probes_of(
    table: ResultTable, entries: Sequence[Entry]
) -> dict[tuple[str, tuple[int, int]], tuple[dict[str, np.ndarray], dict[str, Any]]]:
    """Probes and manifests of a table's entries, by label and run; those without probe are left out.

    Raises:
      ValueError: a damaged probe, or two of a label that were not taken at the same steps.
    """
    found = {}
    first: dict[str, tuple[Entry, np.ndarray]] = {}
    for entry in entries:
        m = entry.manifest
        if tuple(m[name] for name in ("dataset", "family", "unknown")) != table[:3]:
            continue
        if (probe := entry_probe(entry)) is None:
            continue
        other, steps = first.setdefault(str(m["label"]), (entry, probe["steps"]))
        if not np.array_equal(steps, probe["steps"]):
            raise ValueError(
                f"{entry.directory} was probed at the steps {probe['steps'].tolist()}, {other.directory} at"
                f" {steps.tolist()}: leave one out"
            )
        found[str(m["label"]), (int(m["split"]), int(m["seed"]))] = probe, m
    return found


def compared_auroc(
    table: ResultTable, expected: Mapping[str, int], *, claim: str, gate: float, harmful: Collection[str] = ()
) -> list[dict[str, Any]]:
    """The leaderboard's comparisons of m-OvR as effects, corrected by Holm for all methods of the table.

    Args:
      table: of the leaderboard.
      expected: by label of the other method, the sign of m-OvR's difference to it.
      claim: its letter.
      gate: the mean accuracy that a verdict asks of both.
      harmful: labels of which the claim says that they classify worse: m-OvR's accuracy alone is asked for.

    Returns:
      Records of :func:`osrjax.metrics.effect`, with the corrected p value and the strictest level; an interval that
      excludes 0 decides only where that p value is below the level.
    """
    pairs = [pair for pair in paired_verdicts(table, METHOD) if pair.own]
    records = []
    for pair in pairs:
        if pair.other not in expected:
            continue
        values = [
            {metric: table.values(label, score, metric) for metric in ("auroc", "closed_set_accuracy")}
            for label, score in zip((METHOD, pair.other), pair.scores, strict=True)
        ]
        difference = values[0]["auroc"] - values[1]["auroc"]
        asked = values[:1] if pair.other in harmful else values
        record = effect(
            difference,
            ~np.isnan(difference),
            [np.where(np.isnan(difference), np.nan, part["closed_set_accuracy"]) for part in asked],
            claim=claim,
            name="AUROC of all test images, corrected by Holm",
            arm=f"{METHOD} - {pair.other}",
            expected=expected[pair.other],
            bounds=SIGNED,
            gate=gate,
        )
        if record["verdict"] in ("holds", "fails") and not pair.corrected < LEVEL:
            record["verdict"] = "undecided"
        records.append(record | {"p_holm": pair.corrected, "level": LEVEL / len(pairs)})
    return records


def _both(found: ClaimTable) -> dict[str, Probes]:
    return {arm: probes for arm, probes in found.probes.items() if arm in (METHOD, BASELINE)} or dict(found.probes)


def _first(found: ClaimTable) -> tuple[str, Probes]:
    return next(iter(_both(found).items()))


# By name: the claims that a figure speaks of, and how it is drawn. Numbers are those of the paper.
CLAIM_FIGURES: dict[str, tuple[str, Callable[[ClaimTable], Figure]]] = {
    "figure-3": ("a", lambda found: probe_histograms(_first(found)[1])),
    "figure-4": ("c", lambda found: probe_interpolation_figure(_both(found))),
    "figure-5": ("a b d", lambda found: probe_dynamics_figure(_first(found)[1], title=_first(found)[0])),
    "figure-6": ("e", lambda found: probe_correlation_figure(_first(found)[1])),
    "figure-8": ("b g", lambda found: probe_arms_figure(_both(found))),
    "figure-12": ("i2", lambda found: probe_embedding_figure(_first(found)[1], class_names=list(found.first_names))),
    "classes": ("a i1", lambda found: roles_figure(_both(found), class_names=found.class_names)),
    "distance": ("i2", lambda found: distance_figure(_both(found))),
    "lines": ("c i3", lambda found: lines_figure(_both(found))),
    "detectors": (
        "n",
        lambda found: detectors_figure([r for r in found.effects if r["claim"] == "n"], title=found.name),
    ),
}


def claim_figures(found: ClaimTable) -> dict[str, Figure]:
    """The figures of a table.

    Args:
      found: from :func:`claim_tables`.

    Returns:
      By name of :data:`CLAIM_FIGURES`; "classes" only where some class is known in one split and unknown in another.
    """
    defined = any(role["after"]["mean"] is not None for role in found.roles.values())
    return {name: draw(found) for name, (_, draw) in CLAIM_FIGURES.items() if name != "classes" or defined}
