"""Figures of the probes of many runs; the runs of an arm are rows of splits with one entry per seed, or None."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure

from osrjax.analysis.claims import Probes, series
from osrjax.analysis.probe import PROBE_METRICS
from osrjax.metrics.intervals import Range, range_of
from osrjax.report.jacobian import (
    correlation_figure,
    dynamics_figure,
    embedding_heat_map,
    interpolation_figure,
    norm_histograms,
)
from osrjax.report.titles import metric_title

__all__ = [
    "probe_arms_figure",
    "probe_correlation_figure",
    "probe_dynamics_figure",
    "probe_embedding_figure",
    "probe_histograms",
    "probe_interpolation_figure",
    "probe_steps",
]

_STAGES = {"before training": 0, "after training": -1}


def probe_steps(probes: Probes) -> Int[np.ndarray, " steps"]:
    """The probed steps, which all runs of a grid share.

    Args:
      probes: of an arm, with a run.
    """
    return next(run["steps"] for row in probes for run in row if run is not None)


def probe_histograms(probes: Probes) -> Figure:
    """Figure 3 of the paper: norms of known and unknown images before and after training, all runs together.

    Args:
      probes: of an arm, with a run.

    Returns:
      The figure of :func:`osrjax.report.norm_histograms`.
    """
    runs = [run for row in probes for run in row if run is not None]
    both = {
        stage: [np.concatenate([run[f"norms_{kind}"][end] for run in runs]) for kind in ("known", "unknown")]
        for stage, end in _STAGES.items()
    }
    return norm_histograms({stage: (known, unknown) for stage, (known, unknown) in both.items()})


def probe_interpolation_figure(arms: Mapping[str, Probes]) -> Figure:
    """Figure 4: norms along lines between known classes.

    Args:
      arms: probes by name, each with a run.

    Returns:
      The figure of :func:`osrjax.report.interpolation_figure`.
    """
    profiles = {arm: series(probes, "profiles").mean(axis=3) for arm, probes in arms.items()}
    fractions = next(run["fractions"] for row in next(iter(arms.values())) for run in row if run is not None)
    return interpolation_figure(
        fractions, {stage: {arm: p[:, :, end] for arm, p in profiles.items()} for stage, end in _STAGES.items()}
    )


def probe_dynamics_figure(probes: Probes, *, title: str) -> Figure:
    """Figure 5: Davies-Bouldin index, path length, JND, AUROC, class distances and norms over training.

    Args:
      probes: of an arm, with a run.
      title: its name.

    Returns:
      The figure of :func:`osrjax.report.dynamics_figure`.
    """
    values = {name: series(probes, name) for name in PROBE_METRICS}
    panels = {metric_title(name): {title: values[name]} for name in ("davies_bouldin", "path_length", "jnd", "auroc")}
    panels["class distances"] = {"within": values["intra_distance"], "between": values["inter_distance"]}
    panels["mean norm"] = {"known": values["norm_known"], "unknown": values["norm_unknown"]}
    return dynamics_figure(probe_steps(probes), panels, title=title, bounds=_bounds())


def probe_correlation_figure(probes: Probes) -> Figure:
    """Figure 6: AUROC and Davies-Bouldin index against JND over training.

    Args:
      probes: of an arm, with a run.

    Returns:
      The figure of :func:`osrjax.report.correlation_figure`.
    """
    others = {metric_title(name): series(probes, name) for name in ("auroc", "davies_bouldin")}
    return correlation_figure(probe_steps(probes), series(probes, "jnd"), others)


def probe_arms_figure(arms: Mapping[str, Probes], *, names: Sequence[str] = PROBE_METRICS) -> Figure:
    """Figure 8: metrics over training, a curve per arm.

    Args:
      arms: probes by name, each with a run; one that was probed at other steps than the first is left out.
      names: of the metrics.

    Returns:
      The figure of :func:`osrjax.report.dynamics_figure`.
    """
    steps = probe_steps(next(iter(arms.values())))
    alike = {arm: probes for arm, probes in arms.items() if np.array_equal(probe_steps(probes), steps)}
    panels = {metric_title(name): {arm: series(probes, name) for arm, probes in alike.items()} for name in names}
    return dynamics_figure(steps, panels, bounds=_bounds())


def probe_embedding_figure(probes: Probes, *, class_names: list[str]) -> Figure:
    """Figure 12: the embedding of the first run in the plane, by class and by norm.

    Args:
      probes: of an arm, with a run.
      class_names: of that run's known classes, by position.

    Returns:
      The figure of :func:`osrjax.report.embedding_heat_map`.
    """
    run = next(run for row in probes for run in row if run is not None)
    return embedding_heat_map(
        run["embedding_known"],
        run["embedding_unknown"],
        run["labels_known"],
        run["norms_known"][-1],
        run["norms_unknown"][-1],
        class_names=class_names,
    )


def _bounds() -> dict[str, Range]:
    """The range of every metric that is drawn, by its title."""
    return {metric_title(name): range_of(name) for name in PROBE_METRICS}
