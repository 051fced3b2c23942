"""An entry of a leaderboard: one network on one class split, as two small files that rebuild every number.

::

    ENTRY/manifest.json    method, configuration, split, seed, data, versions, machine, time; checksums of the others
    ENTRY/scores.npz       by score, the test images in order (osrjax.evaluation.ordered)
    ENTRY/probe.npz        where the run was probed (osrjax.analysis.probe)
    ENTRY/corruption.json  where corrupted images were classified too (experiments/corruption.py --entry)

Numbers are taken from scores.npz whenever an entry is read; the accuracies on corrupted images alone are kept as such.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from osrjax.analysis.probe import PROBE_METRICS
from osrjax.data import OpenSetData, content_of
from osrjax.data.splits import listed_split
from osrjax.data.table import CORRUPTIONS, GENERATED_CORRUPTIONS, SEVERITIES, set_name
from osrjax.evaluation import OrderedImages, metrics_of_order
from osrjax.fields import check_type
from osrjax.files import FileError, file_sha256, read_arrays, read_json, reading, write_arrays, write_json
from osrjax.methods.table import METHOD_SOURCE
from osrjax.run.finished import FinishedRun
from osrjax.run.history import training_seconds

__all__ = [
    "MANIFEST",
    "Entry",
    "check_entry_of",
    "entry_corruption",
    "entry_probe",
    "find_entries",
    "is_entry",
    "keep_corruption",
    "manifest_of_run",
    "read_entry",
    "write_entry",
]

MANIFEST = "manifest.json"
CORRUPTION = "corruption.json"
FORMAT = 1
FIELDS = {
    **dict.fromkeys(("label", "method", "score", "dataset", "family", "unknown"), str),
    **dict.fromkeys(("split", "seed"), int),
    **dict.fromkeys(("known_names", "unknown_names"), list),
    **dict.fromkeys(("files", "seconds"), dict),
}
_AGAIN = "restore it, or make the entry again with experiments/evaluate.py"
_LARGEST = 2**26  # bytes of scored images; metrics take some thirty times that


class Entry(NamedTuple):
    """An entry that was read and checked.

    Attributes:
      directory: where it lies.
      manifest: the content of manifest.json.
      results: by score and metric, rebuilt from scores.npz.
      images: test images of each known class in the order of their labels, then of all unknown ones.
    """

    directory: Path
    manifest: dict[str, Any]
    results: dict[str, dict[str, float]]
    images: tuple[int, ...] = ()


def write_entry(
    directory: Path,
    manifest: Mapping[str, Any],
    scored: Mapping[str, OrderedImages],
    *,
    probe: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes scores.npz and probe.npz, then manifest.json, by which the entry is there.

    Args:
      directory: exists; what else lies in it is no part of the entry.
      manifest: plain values by name, those that this module's docstring names.
      scored: by score.
      probe: of the run, by name, if it has one.

    Raises:
      FileError: the operating system refuses.
    """
    packed = {name: images.packed() for name, images in scored.items()}
    arrays = {"scores.npz": packed} | ({} if probe is None else {"probe.npz": dict(probe)})
    for name, content in arrays.items():
        write_arrays(directory / name, content)
    files = {name: file_sha256(directory / name) for name in arrays}
    write_json(directory / MANIFEST, {"format": FORMAT, **manifest, "files": files})


def check_entry_of(directory: Path, run: FinishedRun) -> None:
    """Refuses a directory that is no entry of a run and its own unknown images.

    Args:
      directory: that should be one.
      run: the run.

    Raises:
      ValueError: it is none, or one of another run.
    """
    if not is_entry(directory):
        raise ValueError(f"entry={str(directory)!r} holds no {MANIFEST}: make it with experiments/evaluate.py")
    manifest = read_json(directory / MANIFEST, _AGAIN)
    of_run = json.loads(json.dumps(manifest_of_run(run, None, label="", unknown="")))
    for name in ("method", "config", "split", "seed", "known_names", "sha256"):
        if manifest.get(name) != of_run[name]:
            raise ValueError(f"entry={str(directory)!r} has another {name} than {run.directory}: give that of the run")


def keep_corruption(directory: Path, found: Mapping[str, Any]) -> None:
    """Writes corruption.json, then its checksum into the manifest, by which it is part of the entry.

    Args:
      directory: of the entry.
      found: ``images``, ``severities``, ``corruptions`` (where they are from), ``clean_accuracy`` and
        ``mean_accuracy`` with their ``value``, ``accuracy`` by corruption and severity.

    Raises:
      FileError: the operating system refuses, or the manifest is damaged.
    """
    manifest = read_json(directory / MANIFEST, _AGAIN)
    write_json(directory / CORRUPTION, found)
    files = {**manifest["files"], CORRUPTION: file_sha256(directory / CORRUPTION)}
    write_json(directory / MANIFEST, {**manifest, "files": files})


def manifest_of_run(run: FinishedRun, data: OpenSetData | None, *, label: str, unknown: str) -> dict[str, Any]:
    """What a manifest says of a finished run.

    Args:
      run: the run.
      data: its known images and the unknown ones that were scored; None for the run's own.
      label: the method as tables call it.
      unknown: the set of the unknown images, as tables call it.

    Returns:
      Plain values by name, without ``score`` and ``files``.
    """
    stored, starts = run.provenance, run.provenance.get("starts") or [{}]
    content = {name: stored.get(name) for name in ("sources", "images", "sha256", "unknown_names")}
    if data is not None:
        content = {name: value for name, value in content_of(data, run.split).items() if name in content}
    content["sources"] = [
        {**source, "name": _without_folders(source["name"])} for source in json.loads(json.dumps(content["sources"]))
    ]
    named = ("steps", "epochs", "batch_size", *dataclasses.asdict(run.method.options))
    machine = {name: value for name, value in starts[-1].items() if name not in ("versions", "revision", "modified")}
    return {
        "label": label,
        "method": run.method.options.method,
        # Those of the run: Fashion-MNIST, say, is listed as mnist, and lists of one's own name no data set.
        "dataset": run.config.get("dataset") or set_name(run.config["data"]),
        "family": run.split.family,
        "split": run.number("split"),
        "seed": run.number("seed"),
        "known_names": stored["known_names"],
        "unknown": unknown,
        **content,
        "config": {name: run.config.get(name) for name in named},
        **({"method_source": source} if (source := _method_source(stored)) else {}),
        "versions": starts[-1].get("versions"),
        "revision": starts[-1].get("revision"),
        "modified": starts[-1].get("modified"),
        "machine": machine,
        "seconds": {"training": training_seconds(run.directory, batch_size=run.number("batch_size"))},
    }


def _method_source(provenance: Mapping[str, Any]) -> dict[str, str]:
    return {name: checksum for name, checksum in provenance.items() if name.startswith(METHOD_SOURCE)}


def is_entry(directory: Path) -> bool:
    """Whether a directory holds an entry that is finished.

    Args:
      directory: it need not exist.
    """
    return (directory / MANIFEST).exists()


def find_entries(places: Iterable[Path]) -> list[Path]:
    """The directories of all entries at or below some places, sorted, each once; links below them are not followed.

    Args:
      places: directories, which may be links themselves.

    Raises:
      ValueError: a place that does not exist, or has no entry.
    """
    found: set[Path] = set()
    for place in places:
        here = {Path(folder) for folder, _, names in os.walk(place) if MANIFEST in names}
        if not here:
            raise ValueError(f"{str(place)!r} holds no entry: give directories with a {MANIFEST}, at any depth")
        found |= here
    return sorted(found)


def read_entry(directory: Path) -> Entry:
    """Reads an entry, and takes every number from its scores.

    Args:
      directory: of the entry.

    Returns:
      The entry.

    Raises:
      ValueError: a file is missing, damaged, or not the one that the manifest names by its checksum.
    """
    where = directory / MANIFEST
    manifest = read_json(where, _AGAIN)
    if manifest.get("format") != FORMAT:
        raise FileError(f"{where} has format={manifest.get('format')!r}, this version reads {FORMAT}: {_AGAIN}")
    for name, kind in FIELDS.items():
        if name not in manifest:
            raise FileError(f"{where} has no {name}: {_AGAIN}")
        try:
            check_type(name, manifest[name], kind)
        except ValueError as error:
            raise FileError(f"{where} has {str(error).partition(':')[0]}: {_AGAIN}") from error
    if not isinstance(manifest.get("study"), str | None):
        raise FileError(f"{where} has study={manifest['study']!r}, which is no name: {_AGAIN}")
    for name in ("known_names", "unknown_names"):
        if not all(isinstance(word, str) for word in manifest[name]):
            raise FileError(f"{where} has {name} that are no text: {_AGAIN}")
    if "scores.npz" not in manifest["files"]:
        raise FileError(f"{where} names no scores.npz among its files: {_AGAIN}")
    for name, checksum in manifest["files"].items():
        if name not in ("scores.npz", "probe.npz", CORRUPTION):
            raise FileError(f"{where} names a file {name!r}, which no entry has: {_AGAIN}")
        path = directory / name
        if not path.is_file() or file_sha256(path) != checksum:
            raise FileError(f"{path} is not the file whose checksum stands in {MANIFEST}: {_AGAIN}")
    classes, results, counts = len(manifest["known_names"]), {}, {}
    for name, rows in read_arrays(directory / "scores.npz", _AGAIN, limit=_LARGEST).items():
        try:
            ordered = OrderedImages.unpacked(rows, classes=classes)
            results[name] = metrics_of_order(ordered, classes=classes)
        except ValueError as error:
            raise FileError(f"{directory / 'scores.npz'}: {name} {error}: {_AGAIN}") from error
        counts[name] = tuple(np.bincount(np.minimum(ordered.labels, classes), minlength=classes + 1).tolist())
    if len(set(counts.values())) > 1:
        raise FileError(f"{directory / 'scores.npz'}: its scores are of different images: {_AGAIN}")
    images = next(iter(counts.values()), ())
    told = manifest.get("images")
    told = told if isinstance(told, dict) else {}
    for part, count in {"known": sum(images[:-1]), "unknown": sum(images[-1:])}.items():
        if told.get(f"test_{part}", count) != count:
            raise FileError(
                f"{where} has {told[f'test_{part}']} test images of {part} classes, scores.npz {count}: {_AGAIN}"
            )
    if manifest["score"] not in results:
        raise FileError(f"{where} has score={manifest['score']!r}, scores.npz only {', '.join(results)}: {_AGAIN}")
    return Entry(directory, manifest, results, images)


def entry_probe(entry: Entry) -> dict[str, np.ndarray] | None:
    """The probe of an entry, for the functions of :mod:`osrjax.analysis` on the probes of many runs.

    Args:
      entry: that was read.

    Returns:
      The arrays of probe.npz (:func:`osrjax.analysis.join_probes`, embeddings in half precision) and
      ``known_classes``, the class id of each known position: below 0 where those of ``labels_unknown`` are of another
      set, or of a class split that no family lists. None for an entry without probe.

    Raises:
      ValueError: it is damaged, or not such a probe.
    """
    if "probe.npz" not in entry.manifest["files"]:
        return None
    path = entry.directory / "probe.npz"
    probe = read_arrays(path, _AGAIN, finite=False, limit=_LARGEST)
    axes = ("steps", "labels_known", "labels_unknown", "pair_labels", "fractions")
    steps, known, unknown, pairs, points = ((*np.shape(probe.get(name, ())), 0)[0] for name in axes)
    wanted: dict[str, tuple[int, ...]] = dict.fromkeys((*PROBE_METRICS, "steps"), (steps,))
    for kind, images in (("known", known), ("unknown", unknown)):
        wanted |= {f"labels_{kind}": (images,), f"norms_{kind}": (steps, images), f"embedding_{kind}": (images, -1)}
    wanted |= {"profiles": (2, pairs, points), "fractions": (points,)}
    for name, shape in wanted.items():
        array = np.asarray(probe.get(name, ()))
        if array.ndim != len(shape) or any(n not in (there, -1) for there, n in zip(array.shape, shape, strict=True)):
            raise FileError(f"{path} has {name} of shape {list(array.shape)}, not {list(shape)}: {_AGAIN}")
        # The Davies-Bouldin index of a collapsed network is infinite.
        if array.dtype.kind not in "iuf" or not (name == "davies_bouldin" or np.isfinite(array).all()):
            raise FileError(f"{path} has {name} that is not finite or no number: {_AGAIN}")
    classes = len(entry.manifest["known_names"])
    if min(steps, known, points) < 2 or min(unknown, pairs) < 1 or not _are_positions(probe["labels_known"], classes):
        raise FileError(f"{path} holds no probe of steps, images and lines of {classes} known classes: {_AGAIN}")
    means = {f"norm_{kind}": probe[f"norms_{kind}"].mean(axis=1, dtype=np.float64) for kind in ("known", "unknown")}
    for name, values in (means | {"jnd": means["norm_unknown"] - means["norm_known"]}).items():
        if (np.abs(probe[name] - values) > 1e-3 * sum(means.values())).any():
            raise FileError(f"{path} has {name} that is not that of its norms of images: {_AGAIN}")
    return probe | {"known_classes": _known_ids(entry.manifest, classes)}


def entry_corruption(entry: Entry) -> dict[str, Any] | None:
    """Accuracies on corrupted images.

    Args:
      entry: that was read.

    Returns:
      What :func:`keep_corruption` was given; None for an entry without.

    Raises:
      ValueError: it is damaged, or no such file.
    """
    if CORRUPTION not in entry.manifest["files"]:
        return None
    path = entry.directory / CORRUPTION
    found = read_json(path, _AGAIN)
    with reading(path, _AGAIN):
        names, severities, source = set(found["accuracy"]), found["severities"], found["corruptions"]
        if not (names <= {*CORRUPTIONS, *GENERATED_CORRUPTIONS} and set(severities) <= set(SEVERITIES)):
            raise ValueError("it has corruptions or severities that do not exist")
        cells = [row[str(severity)] for row in found["accuracy"].values() for severity in severities]
        shares = [found[name]["value"] for name in ("clean_accuracy", "mean_accuracy")]
        if not (cells and all(0 <= float(share) <= 1 for share in cells + shares)):
            raise ValueError("it has no accuracies, or such that are no shares")
        if not (isinstance(found["images"], int) and isinstance(source, str) and source.isprintable()):
            raise ValueError("it does not say which images, or where the corruptions are from")
    return found


def _are_positions(labels: np.ndarray, classes: int) -> bool:
    return labels.dtype.kind in "iu" and bool(labels.min() >= 0 and labels.max() < classes)


def _known_ids(manifest: Mapping[str, Any], classes: int) -> np.ndarray:
    nowhere = -1 - np.arange(classes)
    split = listed_split(manifest["family"], manifest["dataset"], manifest["split"])
    return nowhere if split is None or split.two_sets or len(split.known) != classes else np.array(split.known)


def _without_folders(name: str) -> str:
    """npz:FILE without its place, which is nobody's business."""
    kind, colon, place = name.partition(":")
    return kind + colon + Path(place).name if colon else name
