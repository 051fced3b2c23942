"""What the page of a run draws: its scores, its log, its probes."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from osrjax import metrics
from osrjax.evaluation import ScoredImages
from osrjax.files import reading
from osrjax.report.page.elements import REMEDY, Drawing, has_drawings
from osrjax.report.tables import JND
from osrjax.report.titles import metric_title

if has_drawings():  # they import Bokeh
    from osrjax.report.page import drawings

__all__ = ["LARGEST", "log_figures", "probe_figure", "score_figures"]

LARGEST = 2**26  # bytes of a log or a table

# Title of the axes -> what the names of the logged metrics end in.
CURVES = {
    "Loss": ("loss",),
    "Accuracy": ("accuracy",),
    "Learning rate": ("learning_rate",),
    "Norms": ("grad_norm", "update_norm", "param_norm"),
    "Images a second": ("images_per_second",),
    "Other metrics": ("",),
}


def score_figures(
    scored: Mapping[str, ScoredImages], labels: np.ndarray | None, *, own: str, threshold: float
) -> list[Drawing]:
    """Histogram of the own score, ROC and OSCR of every one that lies in the same space.

    Args:
      scored: by name.
      labels: of the known test images; None for no OSCR.
      own: name of the run's own score.
      threshold: of that.
    """
    pairs = {name: (s.known, s.unknown) for name, s in scored.items() if not name.endswith("_embedding")}
    pairs = {own: pairs[own]} | pairs
    auroc = {name: f"{name}, AUROC {metrics.auroc(*pair):.3f}" for name, pair in pairs.items()}
    parts = [
        Drawing(
            f"Scores of known and unknown test images by {own}; what lies above the threshold is called unknown.",
            lambda: drawings.histogram(*pairs[own], threshold=threshold, score=own),
        ),
        Drawing(
            "ROC: unknown images rejected against known images rejected, along the threshold.",
            lambda: drawings.curves(
                {name: metrics.roc_curve(*pair) for name, pair in pairs.items()},
                x="known images rejected",
                y="unknown images rejected",
                unit=True,
                legends=auroc,
            ),
            half=True,
        ),
    ]
    if labels is not None:
        correct = scored[own].known_predictions == labels
        oscr = {name: f"{name}, OSCR {metrics.oscr(*pair, correct):.3f}" for name, pair in pairs.items()}
        parts.append(
            Drawing(
                "OSCR: known images accepted with their class against unknown images accepted.",
                lambda: drawings.curves(
                    {name: metrics.oscr_curve(*pair, correct) for name, pair in pairs.items()},
                    x="unknown images accepted",
                    y="known images accepted as their class",
                    unit=True,
                    legends=oscr,
                ),
                half=True,
            )
        )
    return parts


def log_figures(directory: Path) -> Iterator[Drawing]:
    """A figure for every kind of metric that was logged.

    Args:
      directory: of a run.

    Raises:
      FileError: metrics.jsonl cannot be read.
    """
    logged: dict[str, dict[int, float]] = {}
    for step, values in _log(directory / "metrics.jsonl"):
        for name, value in values.items():
            if not name.startswith("probe/") and isinstance(value, int | float):
                logged.setdefault(name, {})[step] = float(value)
    left = dict(logged)
    for title, endings in CURVES.items():
        chosen = {name: left.pop(name) for name in list(left) if name.endswith(endings)}
        found = {name: (np.array(list(v)), np.array(list(v.values()))) for name, v in chosen.items()}
        found = dict({tuple(pair[1]): (name, pair) for name, pair in found.items()}.values())  # no curve twice
        if found:
            values = np.concatenate([y for _, y in found.values()])
            kind = "log" if 0 < 100 * values.min() < values.max() else "linear"
            yield Drawing(
                f"{title} over the steps of training.",
                lambda found=found, title=title, kind=kind: drawings.curves(found, x="step", y=title, y_type=kind),
                half=True,
            )


def _log(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Lines of metrics.jsonl; one that a killed run has cut is left out."""
    if not path.is_file():
        return
    with reading(path, REMEDY):
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST >> 20} MiB")
        for line in path.read_text(errors="replace").splitlines():
            try:
                found = json.loads(line)
                yield int(found.pop("step")), found
            except (ValueError, KeyError, TypeError, AttributeError):
                continue


def probe_figure(path: Path) -> Drawing:
    """Norms of known and unknown, JND, Davies-Bouldin index and AUROC over the same steps.

    Args:
      path: of probe.npz.

    Raises:
      FileError: it cannot be read.
    """
    probe = _probe(path)
    steps = probe["steps"]
    panels = {
        "mean norm": {"known": (steps, probe["norm_known"]), "unknown": (steps, probe["norm_unknown"])},
    }
    for name in ("jnd", "davies_bouldin", "auroc"):
        panels[metric_title(name)] = {metric_title(name): (steps, probe[name])}
    caption = f"{len(steps)} looks at the same test images. {JND}. Davies-Bouldin index: of the known classes."
    return Drawing(caption, lambda: drawings.dynamics(panels))


def _probe(path: Path) -> dict[str, np.ndarray]:
    """A probe of one length; a Davies-Bouldin index may be infinite, which read_arrays refuses."""
    with reading(path, REMEDY), path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        names = ("steps", "norm_known", "norm_unknown", "jnd", "davies_bouldin", "auroc")
        probe = {name: np.asarray(stored[name], np.float64) for name in names}
        if len({values.shape for values in probe.values()}) != 1 or probe["steps"].ndim != 1:
            raise ValueError("its arrays differ in length")
        return probe
