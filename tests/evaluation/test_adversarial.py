"""Outputs that break evaluators: ties, collapsed networks, one image, the ends of the range, a wrong sign."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from osrjax.evaluation import OUTPUT_SCORES, assess_scored, read_outputs, score_outputs

PARTS = ("validation", "known", "unknown")
DRAWS = np.random.default_rng(11)

# Scores of known and unknown images, as a score of one's own gives them: float64 of any size.
SCORES = {
    "all tied": (np.full(9, 2.5), np.full(7, 2.5)),
    "one image": (np.array([0.25]), np.array([0.75])),
    "one image, tied": (np.array([0.25]), np.array([0.25])),
    "huge and tiny": (np.array([-1e300, 1e-300, 2e-300, 1e300]), np.array([1e-300, 3e-300, 1e300])),
    "float16": (DRAWS.normal(size=60).astype(np.float16), DRAWS.normal(1, 1, 50).astype(np.float16)),
    "huge ties": (np.repeat([0.0, 1.0, 2.0], [80, 15, 5]), np.repeat([0.0, 1.0, 2.0], [5, 30, 40])),
    "inverted": (np.linspace(5, 6, 30), np.linspace(1, 2, 20)),
}


def write(path, count, dtype=np.float32, **changes):
    """A file of outputs of so many known and unknown images, of 200 in all: one shape, one compilation."""
    arrays = {}
    for part, images in zip(PARTS, (200 - sum(count), *count), strict=True):
        labels = np.arange(images) % 3
        arrays[f"{part}_logits"] = (4 * np.eye(3)[labels] + DRAWS.normal(size=(images, 3))).astype(dtype)
        arrays[f"{part}_labels"] = labels
    np.savez(path, **(arrays | changes))
    return path


@pytest.mark.parametrize("case", list(SCORES))
def test_a_score_of_ones_own_is_assessed_as_scikit_learn_and_loops_do(case, tmp_path):
    known, unknown = SCORES[case]
    stored = read_outputs(write(tmp_path / "outputs.npz", (len(known), len(unknown))))
    of_all = np.concatenate([np.zeros(200 - len(known) - len(unknown), known.dtype), known, unknown])
    scored, _ = score_outputs(stored, own={"own": lambda *_: of_all})
    found = assess_scored(scored, stored.labels, score="own", spaces={}, resamples=0).results["scores"]["own"]
    known, unknown = known.astype(np.float64), unknown.astype(np.float64)
    is_unknown = np.repeat([False, True], [len(known), len(unknown)])
    values = np.concatenate([known, unknown])
    right = stored.outputs["known"]["logits"].argmax(1) == stored.labels["known"]
    outscored = np.array([[(k < u) + 0.5 * (k == u) for u in unknown] for k in known])
    thresholds = [np.inf, *values]
    wanted = {
        "closed_set_accuracy": right.mean(),
        "auroc": sklearn_metrics.roc_auc_score(is_unknown, values),
        "oscr": (outscored * right[:, None]).mean(),
        "aupr_unknown_positive": sklearn_metrics.average_precision_score(is_unknown, values),
        "aupr_known_positive": sklearn_metrics.average_precision_score(~is_unknown, -values),
        "fpr_at_95_tpr_unknown_positive": min(np.mean(known >= t) for t in values if np.mean(unknown >= t) >= 0.95),
        "fpr_at_95_tpr_known_positive": min(np.mean(unknown <= t) for t in values if np.mean(known <= t) >= 0.95),
        "detection_accuracy": max((np.mean(unknown >= t) + np.mean(known < t)) / 2 for t in thresholds),
    }
    assert found["auroc"]["value"] == pytest.approx(outscored.mean(), rel=1e-14)
    for name, value in wanted.items():
        assert found[name]["value"] == pytest.approx(value, rel=1e-14), name
    assert found["threshold"] == 0.0  # of validation images that are all tied


def test_a_collapsed_network_knows_nothing_by_any_score(tmp_path):
    """One point for all images: every score that can be fitted is 1/2, and the others say why they cannot."""
    constant = {"train_logits": np.full((30, 3), 0.1), "train_labels": np.arange(30) % 3}
    for part, images in (("train", 30), ("validation", 165), ("known", 20), ("unknown", 15)):
        constant |= {f"{part}_logits": np.full((images, 3), 0.1), f"{part}_embedding": np.full((images, 5), 0.2)}
    stored = read_outputs(write(tmp_path / "outputs.npz", (20, 15), **constant))
    scored, missing = score_outputs(stored)
    assert set(scored) | set(missing) == set(OUTPUT_SCORES)
    assert {"max_softmax", "energy", "knn_sum", "kth_neighbour", "mahalanobis"} <= set(scored)
    found = assess_scored(scored, stored.labels, score="energy", spaces={}, resamples=10)
    for name, metrics in found.results["scores"].items():
        assert metrics["auroc"] == {"value": 0.5, "low": 0.5, "high": 0.5}, name
        assert metrics["fpr_at_95_tpr_known_positive"]["value"] == 1.0, name


def test_half_precision_is_scored_as_the_numbers_that_it_holds(tmp_path):
    stored = read_outputs(write(tmp_path / "outputs.npz", (40, 30), dtype=np.float16))
    with np.load(tmp_path / "outputs.npz") as file:
        logits = {part: file[f"{part}_logits"].astype(np.float64) for part in PARTS}
    scored, _ = score_outputs(stored)
    np.testing.assert_array_equal(scored["max_logit"].unknown, -logits["unknown"].max(1))
    np.testing.assert_allclose(scored["energy"].known, -np.log(np.exp(logits["known"]).sum(1)), rtol=1e-5)


def test_a_score_that_leaves_float32_costs_that_score_alone(tmp_path):
    """Squares of 1e30 are infinite: the score says so, and the others are there."""
    rows = {"train": 12, "validation": 165, "known": 20, "unknown": 15}
    large = {f"{part}_embedding": DRAWS.normal(size=(n, 2)) * (part == "train" or 1e30) for part, n in rows.items()}
    large |= {"train_logits": np.eye(3)[np.arange(12) % 3], "train_labels": np.arange(12) % 3}
    with np.errstate(over="ignore"):
        scored, missing = score_outputs(read_outputs(write(tmp_path / "outputs.npz", (20, 15), **large)))
    assert missing["mahalanobis"] == "not finite in float32 for 200 of 200 images"
    assert {"knn_sum", "max_logit"} <= set(scored)
