"""What the paper claims of input-Jacobian norms, each claim as effects of many training runs.

A run enters as its probe, the arrays that ``train.py --probe-every`` stores: ``steps``; one array over steps
per metric (``jnd``, ``norm_known``, ``norm_unknown``, ``davies_bouldin``, ``auroc``, ``accuracy``); and the
``profiles`` [2, pairs, fractions] of the first and last probe with their ``fractions``. The runs of an arm
are rows of splits with one entry per seed; a missing run is None. The rule of the verdicts is that of
:mod:`osrjax.metrics.effects`.

References:
  Park et al., "Understanding Open-Set Recognition by Jacobian Norm and Inter-Class Separation", Pattern
  Recognition 2024, arXiv 2209.11436, sections 3 to 5.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from osrjax.files import number_or_none
from osrjax.metrics.effects import (
    ACCURACY,
    curvature,
    effect,
    half_change,
    inner_peaks,
    log_ratio,
    peak,
    rank_correlation,
    role_effect,
)
from osrjax.metrics.intervals import SHARE, SIGNED

__all__ = [
    "CLAIMS",
    "class_adjusted_norms",
    "dynamics_effects",
    "half_effects",
    "known_classes_effects",
    "loss_effects",
    "series",
]

CLAIMS = {
    "a": "JND is near zero before training and positive after",
    "b": "the norms of known and of unknown images both grow during training",
    "c": "the norm along a line between two known classes peaks in the middle",
    "d": "the Davies-Bouldin index improves early, JND late",
    "e": "AUROC correlates with JND over training, non-linearly",
    "f": "JND grows with the number of known classes",
    "g": "m-OvR has a larger JND and AUROC than softmax",
    "i": "intra-class learning alone lowers known norms, inter-class learning alone raises unknown ones",
}


# The range of the effects that have one: no interval leaves it.
BOUNDS = {
    **dict.fromkeys(("Spearman of DBI and JND", "Spearman of AUROC and JND", "Spearman of JND and K"), SIGNED),
    **dict.fromkeys(("half of the rise of JND", "half of the fall of DBI"), SHARE),
    **dict.fromkeys(("half of the change, JND - DBI", "AUROC after training"), SIGNED),
    **{
        f"share of lines with the largest norm in the inner half, {when}": bounds
        for when, bounds in {"before": SHARE, "after": SHARE, "after - before": SIGNED}.items()
    },
}


Probe = Mapping[str, np.ndarray]


Probes = Sequence[Sequence[Probe | None]]  # [splits][seeds]


def series(probes: Probes, name: str) -> Float[np.ndarray, "splits seeds *steps"]:
    """One array of every run's probe, missing runs filled with nan.

    Args:
      probes: of every split and seed, at least one run among them.
      name: of the array.

    Returns:
      Splits and seeds first, in float64.

    Raises:
      ValueError: no run, or runs whose arrays differ in shape.
    """
    found = {(i, j): probe[name] for i, row in enumerate(probes) for j, probe in enumerate(row) if probe is not None}
    shapes = {np.shape(array) for array in found.values()}
    if len(shapes) != 1:
        raise ValueError(f"{name} has the shapes {sorted(shapes)} in {len(found)} runs: give runs of one grid")
    stacked = np.full((len(probes), max(map(len, probes)), *shapes.pop()), np.nan)
    for position, array in found.items():
        stacked[position] = array
    return stacked


def dynamics_effects(probes: Probes, *, arm: str, decides: bool = True, gate: float = ACCURACY) -> list[dict[str, Any]]:
    """Claims (a) to (e): what training does to the norms, the profiles, DBI and AUROC of one arm.

    Args:
      probes: of the arm.
      arm: its name.
      decides: False reports the effects without verdicts, for an arm that the claims are not about.
      gate: least mean accuracy that gives a verdict.

    Returns:
      Records of :func:`osrjax.metrics.effects.effect`. ``|JND before| / |JND after|`` divides by the mean over runs,
      since the quotient of a single run has no mean where JND may be 0.
    """
    accuracy = per_run(probes, lambda probe: probe["accuracy"][-1])
    before, after = (per_run(probes, lambda probe, end=end: probe["jnd"][end]) for end in (0, -1))
    scale = abs(np.nanmean(after)) if np.isfinite(after).any() else np.nan
    share = np.abs(before) / scale if scale > 0 else np.full_like(before, np.nan)
    numbers: list[tuple[str, str, int, np.ndarray]] = [
        ("a", "JND before training", 0, before),
        ("a", "JND after training", 1, after),
        ("a", "JND after - before", 1, after - before),
        ("a", "|JND before| / |mean JND after|", 0, share),
    ]
    # Scale-free, added after the first split was seen: training changes the norms themselves several times over.
    for when, end in (("before", 0), ("after", -1)):
        kinds = (
            per_run(probes, lambda probe, n=f"norm_{kind}", end=end: probe[n][end]) for kind in ("unknown", "known")
        )
        ratio = np.vectorize(log_ratio, otypes=[np.float64])(*kinds)
        numbers.append(("a", f"log of unknown over known norm, {when}", 0, ratio))
    for kind in ("known", "unknown"):
        numbers.append(("b", f"log growth of the {kind} norm", 1, _growth(probes, f"norm_{kind}")))
        # Added after the first split was seen: both norms fell until the first probe and grew from there on.
        later = _growth(probes, f"norm_{kind}", start=1)
        numbers.append(("b", f"the same from the second probe on, {kind}", 0, later))
    for when, end, expected in (("before", 0, 0), ("after", -1, 1)):
        values = per_run(probes, lambda probe, end=end: peak(probe["profiles"][end], probe["fractions"]))
        numbers.append(("c", f"log of middle over ends, {when}", expected, values))
    # Added last: a network whose features are all off in the middle of one line has the norm 0 there.
    for when, end in (("before", 0), ("after", -1)):
        values = per_run(
            probes, lambda probe, end=end: peak(probe["profiles"][end], probe["fractions"], average=np.median)
        )
        numbers.append(("c", f"the same of the median line, {when}", 0, values))
    # Added after the first split was seen: the rule above can hold for a profile that rises from end to end.
    inner = {
        when: per_run(probes, lambda probe, end=end: inner_peaks(probe["profiles"][end], probe["fractions"]))
        for when, end in (("before", 0), ("after", -1))
    }
    for when, values in (inner | {"after - before": inner["after"] - inner["before"]}).items():
        numbers.append(("c", f"share of lines with the largest norm in the inner half, {when}", 0, values))
    halves = {
        name: per_run(probes, lambda probe, name=name, sign=sign: half_change(probe["steps"], probe[name], sign=sign))
        for name, sign in (("jnd", 1), ("davies_bouldin", -1))
    }
    numbers += [
        ("d", "half of the rise of JND", 0, halves["jnd"]),
        ("d", "half of the fall of DBI", 0, halves["davies_bouldin"]),
        ("d", "half of the change, JND - DBI", 1, halves["jnd"] - halves["davies_bouldin"]),
        ("d", "Spearman of DBI and JND", 0, _correlation(probes, "davies_bouldin")),
        ("e", "Spearman of AUROC and JND", 1, _correlation(probes, "auroc")),
        ("e", "gain of a parabola in adjusted R2", 1, per_run(probes, _bend)),
    ]
    return [
        bounded_effect(
            values,
            finished_runs(probes),
            [accuracy],
            claim=claim,
            name=name,
            arm=arm,
            expected=expected if decides else 0,
            gate=gate,
        )
        for claim, name, expected, values in numbers
    ]


def class_adjusted_norms(probes: Probes) -> dict[str, dict[str, Any]]:
    """How much larger norms of unknown images are than those of the SAME classes where they are known.

    JND compares different classes; this compares roles, over splits in which a class is known and others in which
    it is not.

    Args:
      probes: of an arm; each with ``known_classes``, the class id of each known position.

    Returns:
      For "before" and "after" training the coefficient of :func:`osrjax.metrics.role_effect` on logs of mean norms,
      averaged over seeds: mean, interval, degrees of freedom.
    """
    found = {}
    for when, end in (("before", 0), ("after", -1)):
        cells: dict[tuple[int, int, bool], list[float]] = {}
        for split, row in enumerate(probes):
            for probe in row:
                if probe is None:
                    continue
                ids = {False: probe["known_classes"][probe["labels_known"]], True: probe["labels_unknown"]}
                for unknown, name in ((False, "norms_known"), (True, "norms_unknown")):
                    norms = probe[name][end].astype(np.float64)
                    for k in np.unique(ids[unknown]):
                        mean = norms[ids[unknown] == k].mean()
                        cells.setdefault((split, int(k), unknown), []).append(log_ratio(mean, 1.0))
        keys = np.array([key[:2] for key in cells]).reshape(-1, 2)
        role, interval, degrees = role_effect(
            np.array([np.mean(values) for values in cells.values()]),
            keys[:, 0],
            keys[:, 1],
            np.array([key[2] for key in cells], bool),
        )
        ends = [number_or_none(end) for end in interval]
        found[when] = {"mean": number_or_none(role), "interval": ends, "degrees_of_freedom": degrees}
    return found


def known_classes_effects(
    counts: Int[np.ndarray, " counts"],
    jnd: Float[np.ndarray, "orders seeds counts"],
    accuracy: Float[np.ndarray, "orders seeds counts"],
    *,
    arm: str,
    gate: float = ACCURACY,
    reported: Mapping[str, Float[np.ndarray, "orders seeds counts"]] | None = None,
) -> list[dict[str, Any]]:
    """Claim (f): JND after training against the number of known classes.

    A class order (known classes nested, unknown ones the same throughout) takes the place of a split.

    Args:
      counts: numbers of known classes, rising.
      jnd: after training; nan for a missing run, without which its order and seed have no effect.
      accuracy: closed-set accuracy after training; the smallest of the means of the counts has to reach the
        threshold.
      arm: name of the loss.
      gate: least mean accuracy that gives a verdict.
      reported: what else was measured, such as the norms of which JND is the difference, by name.

    Returns:
      Records of :func:`osrjax.metrics.effects.effect`: Spearman's rho of JND, and without a verdict slopes per class,
      of JND and of all that is reported.
    """
    rank = np.full(jnd.shape[:2], np.nan)
    for position in np.ndindex(*rank.shape):
        if np.isfinite(jnd[position]).all():
            rank[position] = rank_correlation(counts.astype(np.float64), jnd[position])
    finished = np.isfinite(accuracy.sum(axis=-1))  # a nan in the sum: one of the counts is missing
    parts = list(np.moveaxis(np.where(finished[..., None], accuracy, np.nan), -1, 0))
    slopes = [
        effect(slope, finished, parts, claim="f", name=f"slope of {name} per class", arm=arm, expected=0, gate=gate)
        for name, values in {"JND": jnd, **(reported or {})}.items()
        for slope in [_slopes(counts, values)]
    ]
    return [
        bounded_effect(rank, finished, parts, claim="f", name="Spearman of JND and K", arm=arm, expected=1, gate=gate),
        *slopes,
    ]


def _slopes(
    counts: Int[np.ndarray, " counts"], values: Float[np.ndarray, "orders seeds counts"]
) -> Float[np.ndarray, "orders seeds"]:
    """By least squares; nan where a value is missing or not finite."""
    if counts.size < 2:
        return np.full(values.shape[:2], np.nan)
    centred = counts - counts.mean()
    return np.where(np.isfinite(values), values, np.nan) @ centred / (centred @ centred)


def loss_effects(m_ovr: Probes, softmax: Probes, *, gate: float = ACCURACY) -> list[dict[str, Any]]:
    """Claim (g): m-OvR minus softmax at the last probe, run by run.

    Args:
      m_ovr: probes of the runs of m-OvR.
      softmax: of softmax cross-entropy on the same splits and seeds; a run that either misses counts for
        neither, and both arms have to reach the accuracy.
      gate: least mean accuracy that gives a verdict.

    Returns:
      Records of :func:`osrjax.metrics.effects.effect` for JND and AUROC.
    """
    last = {
        name: [per_run(probes, lambda probe, name=name: probe[name][-1]) for probes in (m_ovr, softmax)]
        for name in ("jnd", "auroc", "accuracy")
    }
    return [
        bounded_effect(
            last[name][0] - last[name][1],
            finished_runs(m_ovr) & finished_runs(softmax),
            last["accuracy"],
            claim="g",
            name=f"{title} after training",
            arm="m-OvR - softmax",
            expected=1,
            gate=gate,
        )
        for name, title in (("jnd", "JND"), ("auroc", "AUROC"))
    ]


def half_effects(intra: Probes, inter: Probes, both: Probes, *, gate: float = ACCURACY) -> list[dict[str, Any]]:
    """Claim (i): what each half of the loss alone does to the norms.

    A half of the loss classifies nothing in particular, so the accuracy that a verdict needs is that of the
    arm with both halves, which says that network, data and budget can learn the task.

    Args:
      intra: probes of the runs with the labelled class's term alone.
      inter: with the other classes' terms alone.
      both: with both.
      gate: least mean accuracy that gives a verdict.

    Returns:
      Records of :func:`osrjax.metrics.effects.effect`: log growth of both norms for each arm, of which the intra
      half's on known and the inter half's on unknown images decide; and unknown minus known.
    """
    accuracy = per_run(both, lambda probe: probe["accuracy"][-1])
    records = []
    for arm, probes, decisive in (("intra half", intra, "known"), ("inter half", inter, "unknown"), ("both", both, "")):
        growths = {kind: _growth(probes, f"norm_{kind}") for kind in ("known", "unknown")}
        sign = -1 if arm == "intra half" else 1
        for kind, growth in growths.items():
            records.append(
                effect(
                    growth,
                    finished_runs(probes),
                    [accuracy],
                    claim="i",
                    name=f"log growth of the {kind} norm",
                    arm=arm,
                    expected=sign if kind == decisive else 0,
                    gate=gate,
                )
            )
        selective = growths["unknown"] - growths["known"]
        records.append(
            effect(
                selective,
                finished_runs(probes),
                [accuracy],
                claim="i",
                name="log growth, unknown - known",
                arm=arm,
                expected=0,
                gate=gate,
            )
        )
    return records


def bounded_effect(
    values: np.ndarray, *runs: Any, claim: str, name: str, arm: str, expected: int, gate: float = ACCURACY
) -> dict[str, Any]:
    """The effect, whose name says its range."""
    bounds = BOUNDS.get(name, (-np.inf, np.inf))
    return effect(values, *runs, claim=claim, name=name, arm=arm, expected=expected, bounds=bounds, gate=gate)


def per_run(probes: Probes, number: Callable[[Probe], float]) -> np.ndarray:
    """[splits, seeds] of a number of each run, nan where it is missing."""
    found = np.full((len(probes), max(map(len, probes))), np.nan)
    for i, row in enumerate(probes):
        for j, probe in enumerate(row):
            if probe is not None:
                found[i, j] = number(probe)
    return found


def finished_runs(probes: Probes) -> np.ndarray:
    """[splits, seeds], True where there is a run."""
    return ~np.isnan(per_run(probes, lambda probe: 0.0))


def _growth(probes: Probes, name: str, *, start: int = 0) -> np.ndarray:
    return per_run(probes, lambda probe: log_ratio(float(probe[name][-1]), float(probe[name][start])))


def _correlation(probes: Probes, name: str) -> np.ndarray:
    return per_run(probes, lambda probe: rank_correlation(probe[name], probe["jnd"]))


def _bend(probe: Probe) -> float:
    return curvature(probe["jnd"], probe["auroc"])
