"""Why norms differ, on made-up probes whose numbers can be done by hand or again by scikit-learn and SciPy."""

import numpy as np
import pytest
import scipy.stats
from conftest import plain_module
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestCentroid, NearestNeighbors

from osrjax.analysis import mechanism
from osrjax.metrics import role_effect

# Which three of five classes are known.
KNOWN = ([0, 1, 2], [0, 3, 4], [1, 2, 3], [1, 2, 4])


def probe(seed=0, known_classes=(0, 1, 2), role=0.3, accuracy=0.95):
    """Norms of class k are e^k, e^role times that where it is unknown, times noise."""
    draws = np.random.default_rng(seed)
    known_ids, unknown_ids = np.array(known_classes), np.setdiff1d(np.arange(5), known_classes)
    labels_known, labels_unknown = np.arange(12) % 3, unknown_ids[np.arange(12) % 2]
    exponents = {"known": known_ids[labels_known] * 1.0, "unknown": labels_unknown + role}
    norms = {kind: np.exp(e + draws.normal(0, 0.05, (2, 12))) for kind, e in exponents.items()}
    embedding = draws.normal(size=(24, 4)) + np.concatenate([np.eye(4)[labels_known] * 3, np.zeros((12, 4))])
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    return {
        "known_classes": known_ids,
        "labels_known": labels_known,
        "labels_unknown": labels_unknown,
        "norms_known": norms["known"].astype(np.float32),
        "norms_unknown": norms["unknown"].astype(np.float32),
        "embedding_known": embedding[:12],
        "embedding_unknown": embedding[12:],
        "fractions": np.array([0.0, 0.25, 0.5, 1.0], np.float32),
        "profiles": np.array([[[1, 1, 1, 1]], [[2, 6, 10, 4]]], np.float32),
        "jnd": norms["unknown"].mean(axis=1) - norms["known"].mean(axis=1),
        "auroc": np.array([0.5, 0.9]),
        "accuracy": np.array([0.2, accuracy]),
    }


def grid(**changes):
    return [[probe(i, known, **changes), None] for i, known in enumerate(KNOWN)]


def by_name(records):
    return {record["effect"]: record for record in records}


def test_distances_are_those_of_scikit_learn_without_the_image_itself():
    run = probe()
    found = mechanism.nearest_distances(run)
    rows, labels = run["embedding_known"], run["labels_known"]

    def to_means(rows, labels, images):
        centroids = NearestCentroid().fit(rows, labels).centroids_
        return np.linalg.norm(images[:, None] - centroids, axis=2).min(axis=1)

    np.testing.assert_allclose(found.unknown_mean, to_means(rows, labels, run["embedding_unknown"]))
    for i in range(12):
        others = np.arange(12) != i
        np.testing.assert_allclose(found.known_mean[i], to_means(rows[others], labels[others], rows[[i]])[0])
    neighbours = NearestNeighbors(n_neighbors=2).fit(rows)
    np.testing.assert_allclose(found.known_image, neighbours.kneighbors(rows)[0][:, 1])
    np.testing.assert_allclose(found.unknown_image, neighbours.kneighbors(run["embedding_unknown"])[0][:, 0])


def test_the_only_image_of_a_class_lies_at_the_mean_of_no_class():
    rows = np.array([[0.0], [1.0], [5.0]])
    found = mechanism.nearest_distances(
        {"embedding_known": rows, "embedding_unknown": rows[2:], "labels_known": np.array([0, 0, 1])}
    )
    assert found.known_mean.tolist() == [1.0, 1.0, 4.5]
    assert found.unknown_mean.tolist() == [0.0]


def test_a_single_class_is_refused():
    rows = np.zeros((2, 3))
    with pytest.raises(ValueError, match="need two or more"):
        plain_module(mechanism).nearest_distances(
            {"embedding_known": rows, "embedding_unknown": rows, "labels_known": np.zeros(2, int)}
        )


def test_the_part_of_jnd_that_distance_explains_is_that_of_a_regression(rng):
    distances, norms = rng.random(30), rng.random(30)
    role = np.arange(30) >= 12
    slope = LinearRegression().fit(np.stack([distances, role], axis=1), norms).coef_[0]
    wanted = slope * (distances[role].mean() - distances[~role].mean())
    found = mechanism.explained_difference(norms[~role], norms[role], distances[~role], distances[role])
    assert found == pytest.approx(wanted)
    assert np.isnan(mechanism.explained_difference(norms[:2], norms[2:4], np.ones(2), np.zeros(2)))


def test_what_being_unknown_adds_is_the_jackknife_of_least_squares_over_splits():
    runs = grid()
    record = by_name(mechanism.mechanism_effects(runs, arm="m-OvR"))[
        "log of unknown over known norm, classes held fixed, after"
    ]

    def role(rows):
        cells = []
        for split, run in enumerate(rows):
            for unknown, ids, name in (
                (False, run["known_classes"][run["labels_known"]], "norms_known"),
                (True, run["labels_unknown"], "norms_unknown"),
            ):
                cells += [(np.log(run[name][-1][ids == k].mean()), split, k, unknown) for k in np.unique(ids)]
        values, split, classes, unknown = map(np.array, zip(*cells, strict=True))
        return role_effect(values, split, classes, unknown)[0]

    single = [row[0] for row in runs]
    without = [role(single[:i] + single[i + 1 :]) for i in range(4)]
    pseudo = [4 * role(single) - 3 * value for value in without]
    assert record["per_split"] == pytest.approx(pseudo, rel=1e-5)
    assert record["mean"] == pytest.approx(0.3, abs=0.1)  # the truth
    wanted = scipy.stats.ttest_1samp(pseudo, 0).confidence_interval()
    assert record["interval"] == pytest.approx(list(wanted), rel=1e-4)
    assert (record["n"], record["claim"], record["expected"]) == (4, "i1", 1)


def test_classes_that_never_change_their_role_leave_it_undefined():
    records = mechanism.mechanism_effects([[probe(0)], [probe(1)]], arm="m-OvR")
    (record,) = [r for r in records if r["claim"] == "i1" and r["expected"]]
    assert (record["verdict"], record["mean"], record["undefined"]) == ("undefined", None, 2)


def test_effects_of_distance_and_lines_by_hand():
    runs = grid()
    found = by_name(mechanism.mechanism_effects(runs, arm="m-OvR"))
    distances = [mechanism.nearest_distances(row[0]) for row in runs]
    for to, name in (("mean", "class mean"), ("image", "known image")):
        wanted = [
            scipy.stats.spearmanr(getattr(d, f"unknown_{to}"), row[0]["norms_unknown"][-1]).statistic
            for d, row in zip(distances, runs, strict=True)
        ]
        assert found[f"Spearman of unknown norm and distance to the nearest {name}"]["per_split"] == pytest.approx(
            wanted
        )
    explained = found["JND that distance to the nearest class mean explains"]["mean"]
    jnd = np.mean([row[0]["jnd"][-1] for row in runs])
    assert explained + found["JND that is left at equal distance"]["mean"] == pytest.approx(jnd)
    assert found["share of the mean JND that distance explains"]["mean"] == pytest.approx(explained / jnd)
    wanted = np.log(8) - np.log([row[0]["norms_known"][-1].mean() for row in runs])  # (6 + 10) / 2 between
    assert found["log of norms between classes over those at known images, after"]["per_split"] == pytest.approx(wanted)


def test_detectors_are_those_of_scikit_learn_and_need_the_accuracy():
    runs = grid()
    found = by_name(mechanism.detector_effects(runs, arm="m-OvR", gate=0.9))
    role = np.repeat([0, 1], 12)
    for name, take in {
        "norm": lambda d, n: n,
        "distance": lambda d, n: d,
        "norm x distance": lambda d, n: d * n,
    }.items():
        wanted = []
        for (run, _), d in zip(runs, (mechanism.nearest_distances(row[0]) for row in runs), strict=True):
            norms = np.concatenate([run["norms_known"][-1], run["norms_unknown"][-1]])
            wanted.append(roc_auc_score(role, take(np.concatenate([d.known_mean, d.unknown_mean]), norms)))
        assert found[f"AUROC of the {name}"]["per_split"] == pytest.approx(wanted)
    product, distance = (found[f"AUROC of the {name}"]["mean"] for name in ("norm x distance", "distance"))
    assert found["AUROC, norm x distance - distance"]["mean"] == pytest.approx(product - distance)
    assert found["AUROC, norm - own score"]["mean"] == pytest.approx(found["AUROC of the norm"]["mean"] - 0.9)
    decided = {r["verdict"] for r in mechanism.detector_effects(runs, arm="m-OvR", gate=0.96) if r["expected"]}
    assert decided == {"no verdict: accuracy"}
