"""What a network does to known and unknown images while it trains: one look every so many steps.

A probe looks at FIXED images, drawn once from the test images: exact input-Jacobian norms of the unit embedding at
some known and as many unknown images, along lines between known images of different classes, and distances and
metrics of all test images. Everything is on one axis, the training step, so that one quantity can be
plotted against another. No probe has any say in training: test images are measured, never learned from.

*Cost*. A probe of n + m images and D features makes (n + m) D cotangent passes, each about as long as a forward pass;
a training step on B images takes about three forward passes an image. So a probe costs about (n + m) D / (3 B)
steps for the norms, F P D / (3 B) more where F points on each of P lines are taken too (first and last probe only),
and a forward pass over all test images. With 64 + 64 images, 128 features and batches of 128 the norms cost as
much as 43 steps; small_cnn on 28x28 images takes 2.8 s on one core of a server, 5.6 s with the lines.
"""

import itertools
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from osrjax import augment, metrics
from osrjax.analysis.norms import make_norm_plan
from osrjax.data import Examples, OpenSetData
from osrjax.devices.cpu import compiler_options
from osrjax.files import read_arrays, write_arrays, writing
from osrjax.jacobian.paths import interpolation_profile, path_length
from osrjax.methods.method import Method, score_images
from osrjax.train.apply import apply_in_batches

__all__ = [
    "PROBE_METRICS",
    "ProbeSets",
    "class_distances",
    "class_means",
    "join_probes",
    "make_probe",
    "probe_sets",
    "probed_examples",
    "write_probe",
]

PyTree = Any


Probe = Callable[[PyTree, int], tuple[dict[str, np.ndarray], dict[str, float]]]


PROBE_METRICS = (
    "jnd",
    "norm_known",
    "norm_unknown",
    "davies_bouldin",
    "intra_distance",
    "inter_distance",
    "path_length",
    "auroc",
    "accuracy",
)


_FRACTIONS = np.linspace(0.0, 1.0, 9, dtype=np.float32)


_FIXED = ("labels_known", "labels_unknown", "pair_labels", "fractions")


class ProbeSets(NamedTuple):
    """Which test images a run is probed on, as rows of the test parts of its data.

    Attributes:
      known: rows of ``test_known`` whose norms are taken, ascending.
      unknown: rows of ``test_unknown``, ascending.
      pairs: rows of ``test_known``; the two of a pair are of different classes.
    """

    known: Int[np.ndarray, " known"]
    unknown: Int[np.ndarray, " unknown"]
    pairs: Int[np.ndarray, "pairs 2"]


def probe_sets(data: OpenSetData, *, probe_images: int = 64, probe_pairs: int = 12, seed: int = 0) -> ProbeSets:
    """Images to probe a run on, drawn from the seed and as many of each class as of any other.

    Where a class runs out of images, or there are more unknown classes than images to draw, the others make up for
    it. With the same seed a larger number of images contains those of a smaller one.

    Args:
      data: the experiment; both test parts are drawn from, nothing else.
      probe_images: known images, and as many unknown ones; at least one of each known class.
      probe_pairs: pairs of known images of different classes, at least 1; all combinations of classes take turns.
      seed: of the draw, at least 0; the same for runs that are to be compared.

    Returns:
      The rows.

    Raises:
      ValueError: fewer images than known classes, or more than there are; no pair; a single known class; as many
        known classes as known test images, for which no Davies-Bouldin index exists.

    Example:
      >>> from osrjax.data import open_set_data, open_source
      >>> from osrjax.data.splits import class_split
      >>> data = open_set_data(open_source("digits"), class_split("neal", "digits", 0), seed=0)
      >>> sets = probe_sets(data, probe_images=12, probe_pairs=3)
      >>> np.bincount(data.test_known.labels[sets.known]), np.unique(data.test_unknown.labels[sets.unknown]).tolist()
      (array([2, 2, 2, 2, 2, 2]), [3, 6, 7, 8])
    """
    classes = len(data.known_classes)
    available = min(len(data.test_known.labels), len(data.test_unknown.labels))
    if classes < 2:
        raise ValueError(f"known_classes={data.known_classes} is a single class: a probe compares two or more")
    if probe_images < classes:
        raise ValueError(f"{probe_images=} is below the {classes} known classes: give at least {classes}")
    if probe_images > available:
        raise ValueError(f"{probe_images=} exceeds the {available} test images of known or unknown classes: lower it")
    if probe_pairs < 1:
        raise ValueError(f"{probe_pairs=} is below 1: give the number of pairs of known images, such as 12")
    if len(np.unique(data.test_known.labels)) < classes:
        raise ValueError(f"a known class of the {classes} has no test image: a probe looks at all of them")
    if len(data.test_known.labels) <= classes:
        raise ValueError(
            f"{classes} known classes have {len(data.test_known.labels)} test images: some class needs two"
        )
    generators = [np.random.default_rng([seed, part]) for part in range(3)]
    return ProbeSets(
        _stratified_rows(generators[0], data.test_known.labels, probe_images),
        _stratified_rows(generators[1], data.test_unknown.labels, probe_images),
        _pair_rows(generators[2], data.test_known.labels, classes, probe_pairs),
    )


def probed_examples(data: OpenSetData, *, probe_images: int, seed: int) -> dict[str, Examples]:
    """The images whose norms a probe with as many images takes.

    Args:
      data: of the run.
      probe_images: as for :func:`probe_sets`.
      seed: as there; probes of runs have the index of their split.

    Returns:
      ``known`` and ``unknown``, with the labels that they have in ``data``.

    Raises:
      ValueError: as :func:`probe_sets`.
    """
    sets = probe_sets(data, probe_images=probe_images, probe_pairs=1, seed=seed)
    chosen = {"known": (data.test_known, sets.known), "unknown": (data.test_unknown, sets.unknown)}
    return {kind: Examples(part.images[rows], part.labels[rows]) for kind, (part, rows) in chosen.items()}


def _stratified_rows(generator: np.random.Generator, labels: np.ndarray, count: int) -> np.ndarray:
    """The first images of every class, then the second ones, and so on until there are enough."""
    shuffled = generator.permutation(len(labels))
    turns = {int(k): itertools.count() for k in generator.permutation(np.unique(labels))}
    place = {k: i for i, k in enumerate(turns)}
    keys = [(next(turns[int(k)]), place[int(k)]) for k in labels[shuffled]]
    order = sorted(range(len(labels)), key=keys.__getitem__)
    return np.sort(shuffled[order[:count]])


def _pair_rows(generator: np.random.Generator, labels: np.ndarray, classes: int, count: int) -> np.ndarray:
    rows = [itertools.cycle(generator.permutation(np.flatnonzero(labels == k))) for k in range(classes)]
    combinations = generator.permutation(list(itertools.combinations(range(classes), 2)))
    turns = itertools.islice(itertools.cycle(combinations), count)
    return np.array([(next(rows[first]), next(rows[second])) for first, second in turns])


def make_probe(
    method: Method,
    data: OpenSetData,
    sets: ProbeSets,
    *,
    profile_steps: Collection[int] = (),
    eval_batch_size: int = 500,
    batch_size: int | None = None,
    memory_budget: int = 2**30,
) -> Probe:
    """Returns ``probe(variables, step) -> (arrays, logged)``, whose parts are compiled once.

    ``arrays`` has the entries of ``PROBE_METRICS``, float64, and ``step``; ``norms_known``, ``norms_unknown`` with
    ``labels_known`` (positions), ``labels_unknown`` (class ids), ``embedding_known`` and ``embedding_unknown``;
    ``path_lengths``, ``pair_labels``, ``fractions``, and at ``profile_steps`` ``profiles``, norms of ``[pairs,
    fractions]``. ``logged`` has the scalars under ``probe/``, mean norms of each class under ``probe/norm/`` and
    ``probe/seconds``. The probe raises FloatingPointError, naming the arrays, where something is not finite; an
    embedding that has collapsed to a point is finite, and its Davies-Bouldin index infinite.

    Norms are those of the Jacobian of ``method.space``, the unit vector that the loss compares: the embedding of a
    classifier, the projection of contrastive training. It all runs on one device of the process that calls it.

    *Cost*: see the module's docstring; the path lengths are 16 tangent passes a pair, next to nothing.

    Args:
      method: of the run.
      data: its test parts are looked at, and its training images where the method's scores are fitted to them.
      sets: rows of ``data``, from :func:`probe_sets`.
      profile_steps: steps at which norms along the lines between the pairs are taken.
      eval_batch_size: images of a forward pass.
      batch_size: images of a call for norms, as in :func:`osrjax.analysis.norms.make_norm_plan`.
      memory_budget: bytes for such a call.

    Returns:
      The probe. Its ``variables`` are what ``network.apply`` takes.

    References:
      Park et al., arXiv 2209.11436, sec. 4 and figures 4 to 8.
    """
    options = compiler_options()
    forward = jax.jit(method.outputs, compiler_options=options)
    embedding = method.functions[method.space]
    image_shape = data.test_known.images.shape[1:]
    first = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    init = partial(method.make_network(jnp.float32).init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), first)
    plan = make_norm_plan(embedding, shapes, image_shape, batch_size=batch_size, memory_budget=memory_budget)
    compiled_length = jax.jit(
        lambda variables, start, end: path_length(lambda row: embedding(variables, row[None])[0], start, end),
        compiler_options=options,
    )
    compiled_profile = jax.jit(
        lambda variables, start, end: interpolation_profile(
            lambda row: embedding(variables, row[None])[0],
            start,
            end,
            jnp.asarray(_FRACTIONS),
            mode=plan.mode,
            chunk_size=plan.chunk_size,
            batch_size=plan.batch_size,
        ),
        compiler_options=options,
    )
    starts, ends = (augment.to_float_host(data.test_known.images[rows]) for rows in sets.pairs.T)
    known_images = augment.to_float_host(data.test_known.images[sets.known])
    unknown_images = augment.to_float_host(data.test_unknown.images[sets.unknown])
    fixed = {
        "labels_known": data.test_known.labels[sets.known],
        "labels_unknown": data.test_unknown.labels[sets.unknown],
        "pair_labels": data.test_known.labels[sets.pairs],
        "fractions": _FRACTIONS,
    }

    def norms(variables: PyTree, images: np.ndarray) -> np.ndarray:
        padded = np.concatenate([images, np.repeat(images[:1], -len(images) % plan.batch_size, axis=0)])
        batches = padded.reshape(-1, plan.batch_size, *image_shape)
        found = jax.device_get([plan.norms(variables, jnp.asarray(batch)) for batch in batches])
        return np.concatenate(found)[: len(images)]

    def probe(variables: PyTree, step: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        began = time.perf_counter()
        if jax.process_count() > 1:  # arrays of all processes are not moved to one device but through the host
            variables = jax.device_get(variables)
        variables = jax.device_put(variables, jax.local_devices()[0])
        parts = {"known": data.test_known, "unknown": data.test_unknown}
        parts |= {"train": data.train} if method.fit else {}
        outputs = {
            name: apply_in_batches(partial(forward, variables), part.images, batch_size=eval_batch_size)
            for name, part in parts.items()
        }
        norms_known, norms_unknown = np.split(
            norms(variables, np.concatenate([known_images, unknown_images])), [len(known_images)]
        )
        lengths = [compiled_length(variables, start, end) for start, end in zip(starts, ends, strict=True)]
        arrays = {
            "norms_known": norms_known,
            "norms_unknown": norms_unknown,
            "embedding_known": outputs["known"][method.space][sets.known],
            "embedding_unknown": outputs["unknown"][method.space][sets.unknown],
            "path_lengths": np.stack(jax.device_get(lengths)),
        }
        if step in profile_steps:
            profiles = [compiled_profile(variables, start, end) for start, end in zip(starts, ends, strict=True)]
            arrays["profiles"] = np.stack(jax.device_get(profiles))
        looked_at = {f"outputs on {name} images": np.hstack(list(part.values())) for name, part in outputs.items()}
        broken = [name for name, values in {**arrays, **looked_at}.items() if not np.isfinite(values).all()]
        if broken:
            raise FloatingPointError(f"non-finite {', '.join(broken)} at step {step}")
        scored = score_images(method, outputs | {"validation": outputs["known"]}, data.train.labels)[method.score]
        space, labels = outputs["known"][method.space], data.test_known.labels
        intra, inter = class_distances(space, labels)
        values = {
            "jnd": metrics.jacobian_norm_difference(norms_known, norms_unknown),
            "norm_known": float(norms_known.mean(dtype=np.float64)),
            "norm_unknown": float(norms_unknown.mean(dtype=np.float64)),
            "davies_bouldin": metrics.davies_bouldin(space, labels),
            "intra_distance": intra,
            "inter_distance": inter,
            "path_length": float(arrays["path_lengths"].mean(dtype=np.float64)),
            "auroc": metrics.auroc(scored.known, scored.unknown),
            "accuracy": metrics.closed_set_accuracy(scored.known_predictions, labels),
        }
        arrays |= fixed | {name: np.asarray(value, np.float64) for name, value in values.items()}
        arrays["step"] = np.asarray(step, np.int64)
        logged = values | _class_norms(arrays, data) | {"seconds": time.perf_counter() - began}
        return arrays, {f"probe/{name}": value for name, value in logged.items()}

    return probe


def _class_norms(arrays: Mapping[str, np.ndarray], data: OpenSetData) -> dict[str, float]:
    """Mean norm of each probed class; an unknown class of the name of a known one says that it is unknown."""
    means = {}
    for part, ids, names in (
        ("known", range(len(data.known_classes)), data.known_names),
        ("unknown", data.unknown_classes, data.unknown_names),
    ):
        for class_id, name in zip(ids, names, strict=True):
            rows = arrays[f"labels_{part}"] == class_id
            if rows.any():
                name = f"norm/{name}" + (" (unknown)" if f"norm/{name}" in means else "")
                means[name] = float(arrays[f"norms_{part}"][rows].mean(dtype=np.float64))
    return means


def class_distances(
    embedding: Float[np.ndarray, "batch features"], labels: Int[np.ndarray, " batch"]
) -> tuple[float, float]:
    r"""Distances within classes and between them.

    .. math:: \frac1n \sum_i \lVert f_i - c_{y_i} \rVert \quad\text{and}\quad
              \frac{2}{K (K - 1)} \sum_{k < l} \lVert c_k - c_l \rVert

    with c_k the mean of class k.

    Args:
      embedding: one row per example.
      labels: class positions, at least two classes.

    Returns:
      The mean distance of an example to its class's mean, and the mean distance of two class means.

    Raises:
      ValueError: a single class, or labels that are not one per row.

    Example:
      >>> rows = np.array([[0.0], [2.0], [9.0], [13.0]])
      >>> class_distances(rows, np.array([0, 0, 1, 1]))  # (1 + 1 + 2 + 2) / 4 and 11 - 1
      (1.5, 10.0)

    References:
      Park et al., arXiv 2209.11436, figure 5 (the definitions are ours: the paper gives none).
    """
    if labels.shape != embedding.shape[:1]:
        raise ValueError(f"labels have shape {labels.shape} for {len(embedding)} rows: give one per row")
    classes, positions = np.unique(labels, return_inverse=True)
    if classes.size < 2:
        raise ValueError(f"labels hold the classes {classes}: distances between classes need two or more")
    rows = np.asarray(embedding, np.float64)
    means = np.stack([rows[positions == k].mean(axis=0) for k in range(classes.size)])
    first, second = np.triu_indices(classes.size, k=1)
    intra = np.linalg.norm(rows - means[positions], axis=1).mean()
    inter = np.linalg.norm(means[first] - means[second], axis=1).mean()
    return float(intra), float(inter)


def class_means(
    embedding: Float[np.ndarray, "batch features"], labels: Int[np.ndarray, " batch"], *, classes: int
) -> Float[np.ndarray, "classes features"]:
    """Mean of the unit vectors of each class, in float64; not of unit length.

    Args:
      embedding: one row per example, of any length.
      labels: class positions.
      classes: how many there are; each has an example.

    Returns:
      One row per class.

    Example:
      >>> class_means(np.array([[2.0, 0.0], [0.0, 3.0], [0.0, 1.0]]), np.array([0, 0, 1]), classes=2).tolist()
      [[0.5, 0.5], [0.0, 1.0]]
    """
    rows = np.asarray(embedding, np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return np.stack([rows[labels == k].mean(axis=0) for k in range(classes)])


def write_probe(directory: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes what a probe found to ``{step:08d}.npz``, whole or not at all; an older file of the step is replaced.

    Args:
      directory: made if it does not exist.
      arrays: the first thing that a probe gives.

    Raises:
      FileError: the operating system refuses.
    """
    path = Path(directory) / f"{int(arrays['step']):08d}.npz"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(path, arrays)


def join_probes(directory: str | Path) -> dict[str, np.ndarray]:
    """The probes of a run on one axis of steps.

    Args:
      directory: where :func:`write_probe` wrote them.

    Returns:
      ``steps``, and with steps as their first axis every metric of ``PROBE_METRICS``, ``norms_known``,
      ``norms_unknown`` and ``path_lengths``; ``profiles`` of the steps that took them; the two embeddings of the last
      step; labels, ``pair_labels`` and ``fractions``.

    Raises:
      ValueError: no probe there, one that is damaged, or probes of other images among them.
    """
    files = sorted(Path(directory).glob("*.npz"))
    if not files:
        raise ValueError(f"directory={str(directory)!r} holds no probe: give the probes/ of a run that was probed")
    probes = []
    for file in files:
        remedy = "delete it to do without that probe, or start in a new run directory"
        probes.append(read_arrays(file, remedy, finite=False))
        if any(not np.array_equal(probes[0][name], probes[-1][name]) for name in _FIXED):
            raise ValueError(f"{file} was taken on other images than {files[0].name}: join the probes of one run")
    stacked = ("norms_known", "norms_unknown", "path_lengths", *PROBE_METRICS)
    profiles = [probe["profiles"] for probe in probes if "profiles" in probe]
    return {
        "steps": np.stack([probe["step"] for probe in probes]),
        **{name: np.stack([probe[name] for probe in probes]) for name in stacked},
        **({"profiles": np.stack(profiles)} if profiles else {}),
        **{name: probes[-1][name] for name in (*_FIXED, "embedding_known", "embedding_unknown")},
    }
