"""Figures of why norms differ: distance, lines between classes, the role of a class, and norms as a detector.

Arms are probes by name, of the runs of splits and seeds. Means and 95 % t intervals are those over splits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from osrjax.analysis.claims import Probe, Probes, class_adjusted_norms, per_run, series
from osrjax.analysis.mechanism import nearest_distances
from osrjax.metrics.effects import rank_correlation
from osrjax.report.curves import CURVE_COLOURS, panel_axes
from osrjax.report.effect_figures import Point, effects_figure
from osrjax.report.jacobian import KINDS, MARKERS, NORM, draw_band, label_decades, runs_text

__all__ = ["detectors_figure", "distance_figure", "lines_figure", "roles_figure"]

_POINTS = {"known": "o", "unknown": "x"}
_BINS = 8  # of equal numbers of images


def distance_figure(arms: Mapping[str, Probes]) -> Figure:
    """Norms after training against the distance to the nearest class mean, the images of all runs together.

    Args:
      arms: probes by name, each with a run.

    Returns:
      A panel per arm: medians and quartiles of equal numbers of images, known and unknown apart; the title has the
      mean over splits of the Spearman coefficients of unknown images.
    """
    figure, panels = panel_axes(len(arms), columns=2, width=4.6, height=3.9)
    for axes, (arm, probes) in zip(panels, arms.items(), strict=True):
        runs = _runs(probes)
        for kind, (colour, style) in KINDS.items():
            distances = np.concatenate([getattr(nearest_distances(run), f"{kind}_mean") for run in runs])
            norms = np.concatenate([run[f"norms_{kind}"][-1] for run in runs])
            parts = [rows for rows in np.array_split(np.argsort(distances), _BINS) if rows.size]
            middles = [np.median(distances[rows]) for rows in parts]
            low, median, high = np.array([np.quantile(norms[rows], (0.25, 0.5, 0.75)) for rows in parts]).T
            axes.fill_between(middles, low, high, color=colour, alpha=0.18, linewidth=0)
            label = f"{kind}: median and quartiles of equal numbers of images"
            axes.plot(middles, median, color=colour, linestyle=style, linewidth=2, marker=".", label=label)
        rho = per_run(
            probes, lambda run: rank_correlation(nearest_distances(run).unknown_mean, run["norms_unknown"][-1])
        )
        axes.set_title(f"{arm}\nSpearman, unknown images: {runs_text(rho)}", fontsize="medium")
        axes.set_xlabel("distance to the nearest class mean")
        axes.set_xlim(left=0)
        _log_norms(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", frameon=False)
    return figure


def lines_figure(arms: Mapping[str, Probes]) -> Figure:
    """Norms along lines between two known classes after training, beside the mean norms at known and unknown images.

    Args:
      arms: probes by name, each with a run.

    Returns:
      A panel per arm, with bands over splits.
    """
    figure, panels = panel_axes(len(arms), columns=2, width=4.4, height=3.6)
    for axes, (arm, probes) in zip(panels, arms.items(), strict=True):
        fractions = _runs(probes)[0]["fractions"]
        draw_band(axes, fractions, series(probes, "profiles")[:, :, -1].mean(axis=2), "along lines", ("black", "-."))
        for kind, look in KINDS.items():
            norms = series(probes, f"norms_{kind}")[:, :, -1].mean(axis=-1)
            draw_band(axes, np.array([0.0, 1.0]), np.repeat(norms[..., None], 2, axis=-1), f"{kind} images", look)
        axes.set_title(arm)
        axes.set_xlabel("fraction t of the way between two known images")
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel(f"mean of {NORM}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", frameon=False, ncols=3)
    return figure


def roles_figure(arms: Mapping[str, Probes], *, class_names: Mapping[int, str]) -> Figure:
    """Mean norm of each class where it is known and where it is unknown, a point per split.

    Args:
      arms: probes by name, each with a run and with ``known_classes``.
      class_names: by class id; one without a name is shown by its id.

    Returns:
      A panel per arm; its title has what being unknown adds to the log norm, classes and splits held fixed.
    """
    figure, panels = panel_axes(len(arms), columns=2, width=4.6, height=4.0)
    for axes, (arm, probes) in zip(panels, arms.items(), strict=True):
        found = [(*point, kind) for run in _runs(probes) for kind in KINDS for point in _class_means(run, kind)]
        classes = sorted({k for k, _, _ in found})
        for kind, (colour, _) in KINDS.items():
            shift = -0.14 if kind == "known" else 0.14
            points = np.array([(classes.index(k) + shift, mean) for k, mean, role in found if role == kind])
            axes.scatter(*points.T, s=26, marker=_POINTS[kind], color=colour, alpha=0.8, label=f"where {kind}")
        axes.set_xticks(range(len(classes)), [class_names.get(k, str(k)) for k in classes])
        if max(len(class_names.get(k, "")) for k in classes) > 2:
            axes.tick_params(axis="x", rotation=60)
        role = class_adjusted_norms(probes)["after"]
        low, high = role["interval"]
        text = "not defined" if role["mean"] is None else f"{role['mean']:.2f} [{low:.2f}, {high:.2f}]"
        axes.set_title(f"{arm}\nlog unknown / known, classes held fixed: {text}", fontsize="medium")
        axes.set_xlabel("class")
        _log_norms(axes, f"mean of {NORM} of a class")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", frameon=False, ncols=2)
    return figure


def detectors_figure(effects: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """AUROC of the norm, of the distance, of their product and of the loss's own score, a row per arm.

    Args:
      effects: of :func:`osrjax.analysis.detector_effects`, of one arm or more.
      title: above the axes.

    Returns:
      A figure with one pair of axes, intervals over splits as lines.
    """
    names = [
        r["effect"] for r in effects if r["effect"].startswith("AUROC of the ") and not r["effect"].endswith("0.5")
    ]
    looks = dict(zip(dict.fromkeys(names), zip(CURVE_COLOURS, MARKERS, strict=False), strict=False))
    rows: dict[str, list[Point]] = {}
    for record in effects:
        if record["effect"] in looks:
            rows.setdefault(record["arm"], []).append(Point(record, record["effect"]))
    return effects_figure(
        rows,
        {name: (name.removeprefix("AUROC of the "), *look) for name, look in looks.items()},
        origin=0.5,
        label="AUROC, mean and 95 % interval over splits (vertical line: chance)",
        title=title,
        largest=1.005,
    )


def _runs(probes: Probes) -> list[Probe]:
    return [run for row in probes for run in row if run is not None]


def _class_means(run: Probe, kind: str) -> list[tuple[int, float]]:
    """Class ids and mean norms after training."""
    labels = run["labels_unknown"] if kind == "unknown" else run["known_classes"][run["labels_known"]]
    norms = run[f"norms_{kind}"][-1]
    return [(int(k), float(norms[labels == k].mean(dtype=np.float64))) for k in np.unique(labels)]


def _log_norms(axes: Axes, label: str = NORM) -> None:
    axes.set_ylabel(label)
    low, high = axes.dataLim.intervaly
    if low > 0:
        axes.set_yscale("log")
        if high < 1e3 * low:
            label_decades(axes.yaxis)
