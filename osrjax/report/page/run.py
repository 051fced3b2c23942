"""The page of a training: numbers, curves, scores, images, and all that is needed to repeat it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from osrjax.data import OpenSetData
from osrjax.evaluation import ScoredImages, rejected_shares
from osrjax.files import FileError, read_json, reading
from osrjax.methods import score_images
from osrjax.report.page.elements import (
    REMEDY,
    Cell,
    Page,
    Section,
    details,
    gallery,
    has_drawings,
    paragraph,
    picture,
    plain_table,
    table,
)
from osrjax.report.page.run_figures import log_figures, probe_figure, score_figures
from osrjax.report.tables import interval_text
from osrjax.report.titles import metric_title
from osrjax.run import FinishedRun

__all__ = ["RunImages", "images_of_run", "run_page", "verdict_table"]

NAMED = 12  # classes at the top
SHOWN = 14  # images of a kind


class RunImages(NamedTuple):
    """What a run's page shows beside its small files.

    Attributes:
      scored: scores and predicted classes by name; empty where they are not at hand.
      data: of the run; None where it is not at hand.
      notes: what is not at hand, and why.
    """

    scored: Mapping[str, ScoredImages] = {}
    data: OpenSetData | None = None
    notes: tuple[str, ...] = ()


def images_of_run(run: FinishedRun) -> RunImages:
    """Scores and images of a finished run, as far as its files and its data are still there.

    Args:
      run: opened again.

    Returns:
      Them, and a note for what is missing.
    """
    scored, data, notes = {}, None, []
    try:
        outputs, labels = run.stored_outputs(*run.method.parts)
        scored = score_images(run.method, outputs, labels.get("train"))
    except ValueError as error:
        notes.append(f"No histogram, ROC or OSCR: {error}")
    try:
        data = run.data
    except ValueError as error:
        notes.append(f"No images: {error}")
    return RunImages(scored, data, tuple(notes))


def run_page(directory: Path, images: RunImages) -> Page:
    """The page of a finished run.

    Args:
      directory: with config.json, provenance.json and results.json, and no links in it.
      images: what is at hand of its scores and images.

    Returns:
      The page.

    Raises:
      FileError: a file is damaged.
    """
    config, provenance, results = (
        read_json(directory / f"{name}.json", REMEDY) for name in ("config", "provenance", "results")
    )
    with reading(directory / "results.json", REMEDY):
        own = results["score"]
        numbers = results["trained"]["scores"][own]
        facts = {metric_title(name): interval_text(numbers[name]) for name in ("closed_set_accuracy", "auroc", "oscr")}
        sections = [Section("Results", list(_results(results, images)))]
    for kind in ("known", "unknown"):
        names = provenance.get(f"{kind}_names") or ()
        facts[f"{kind} classes"] = ", ".join(map(str, names)) if len(names) <= NAMED else str(len(names))
    if images.scored:
        known = None if images.data is None else images.data.test_known.labels
        sections.append(Section("Scores", score_figures(images.scored, known, own=own, threshold=numbers["threshold"])))
    if curves := list(log_figures(directory)):
        sections.append(Section("Training", curves))
    if (directory / "probe.npz").is_file():
        sections.append(Section("Input-Jacobian norms during training", [probe_figure(directory / "probe.npz")]))
    if images.scored and images.data is not None:
        sections.append(Section("Images", list(_mistakes(images.data, images.scored[own]))))
    if pictures := list(_pictures(directory, plain=not images.scored)):
        sections.append(Section("Attribution and other pictures", pictures))
    if verdicts := _verdicts(directory):
        sections.append(Section("Claims about Jacobian norms", verdicts))
    sections.append(Section("How it was made", list(_origin(config, provenance))))
    return Page(directory.resolve().name, f"A run of {config.get('method')}", facts, sections, images.notes)


def _results(results: dict[str, Any], images: RunImages) -> Iterator[str]:
    """All scores x metrics, the own score first; then where each draws the line."""
    own, trained = results["score"], results["trained"]["scores"]
    names = [own, *(name for name in trained if name != own)]
    by_name = {f"{name} *" if name == own else name: trained[name] for name in names}
    if untrained := results.get("untrained"):
        by_name[f"{own}, untrained"] = untrained["scores"][own]
    rows = [
        {"score": name}
        | {
            metric_title(metric): Cell(interval_text(value), value["value"])
            for metric, value in values.items()
            if isinstance(value, dict) and "value" in value
        }
        for name, values in by_name.items()
    ]
    yield table(
        rows, "Every score and metric of the test images; [95 % bootstrap interval over images]; * its own score"
    )
    lines = []
    for name in names:
        row: dict[str, object] = {
            "score": name,
            "threshold": Cell(f"{trained[name]['threshold']:.4g}", trained[name]["threshold"]),
        }
        shares = trained[name].get("rejected", {})
        if name in images.scored:  # of an earlier version, whose results do not say it
            shares = shares or rejected_shares(images.scored[name], threshold=trained[name]["threshold"])
        row |= {metric_title(f"rejected_{part}"): share for part, share in shares.items()}
        row[metric_title("auroc")] = trained[name]["auroc"]["value"]
        lines.append(row)
    yield table(
        lines, "Operating points: images above the threshold, set on known validation images, are called unknown"
    )
    rest = {
        metric_title(name): value
        for name, value in results["trained"].items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    yield details("Other numbers", plain_table(rest | {"steps": results.get("steps")}, "Of the trained network"))


def _mistakes(data: OpenSetData, scored: ScoredImages) -> Iterator[str]:
    """Known images that look most unknown, and unknown ones that look most known."""
    numbers = dict(zip(data.unknown_classes, data.unknown_names, strict=False))
    kinds = {
        "Known images that are called unknown first": (data.test_known, scored.known, scored.known_predictions, -1),
        "Unknown images that are trusted most": (data.test_unknown, scored.unknown, scored.unknown_predictions, 1),
    }
    for title, (part, scores, predictions, sign) in kinds.items():
        if not len(part.labels) == len(scores) == len(predictions):
            raise FileError(f"the run scored {len(scores)} images where its data has {len(part.labels)}: {REMEDY}")
        order = np.argsort(sign * scores, kind="stable")[:SHOWN]
        tiles = []
        for pixels, row in zip(part.images[order], order, strict=True):
            label = int(part.labels[row])
            name = data.known_names[label] if sign == -1 else numbers.get(label, str(label))
            near = data.known_names[int(predictions[row])]
            tiles.append((pixels, str(name), f"nearest: {near}; score {scores[row]:.3f}"))
        yield f"<h3>{title}</h3>{gallery(tiles)}"


def _pictures(directory: Path, *, plain: bool) -> Iterator[str]:
    """Contact sheets of attribution.py, the picture of picture.py, and what stands in for figures to look into."""
    places = sorted(directory.glob("attribution*/*.png")) + sorted(directory.glob("picture*.png"))
    if plain or not has_drawings():
        places += sorted(directory.glob("figures/*.svg"))
    left = 1_000_000  # characters, of three megabytes in all
    for path in places:
        name = path.relative_to(directory).as_posix()
        with reading(path, "delete it"):
            shown = picture(path, name)
        if len(shown) > left:
            yield paragraph(f"{name} is left out: this page would grow too large.")
            continue
        left -= len(shown)
        yield shown


def _verdicts(directory: Path) -> list[str]:
    """Of the grid of jacobian.py that the run is one of."""
    grid = directory.resolve().parent
    path = grid / "claims.json"
    if path.is_symlink() or not path.is_file():
        return []
    found = read_json(path, "delete it")
    runs = found.get("runs")
    if not isinstance(runs, list) or directory.resolve().name not in {Path(run["directory"]).name for run in runs}:
        return []
    return [verdict_table(found)]


def verdict_table(found: dict[str, Any]) -> str:
    """The verdicts of jacobian.py, as markup.

    Args:
      found: the content of claims.json.
    """
    rows = [
        {"claim": letter, "text": claim["text"], "verdict": claim["verdict"]}
        for letter, claim in found["claims"].items()
    ]
    return table(rows, f"Verdicts of all runs of jacobian.py {found.get('table', '')}")


def _origin(config: dict[str, Any], provenance: dict[str, Any]) -> Iterator[str]:
    """Configuration, data and versions, folded away."""
    yield details("Configuration", plain_table(config, "config.json"))
    data = {
        name: provenance[name] for name in ("split", "known_names", "unknown_names", "images") if name in provenance
    }
    for source in provenance.get("sources", ()):
        data[str(source.get("name"))] = str(source.get("provenance")) + (
            "" if source.get("complete") else "; NOT the complete set"
        )
    data |= {f"sha256 of {name}": value for name, value in provenance.get("sha256", {}).items()}
    yield details("Data", plain_table(data, "Images, where they come from, and checksums of their pixels"))
    starts = [plain_table(start, f"Start {number}") for number, start in enumerate(provenance.get("starts", ()), 1)]
    yield details("Versions and machine", *(starts or [paragraph("Not recorded.")]))
