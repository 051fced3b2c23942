"""Scores by name and their metrics, against float64 formulas and scikit-learn."""

import json

import numpy as np
import pytest
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import accuracy_score, davies_bouldin_score, roc_auc_score

from osrjax.evaluation.assessment import (
    FEATURE_SCORES,
    SCORES,
    OpenSetFeatures,
    OpenSetLabels,
    OpenSetOutputs,
    assess,
    assess_features,
    open_set_feature_scores,
    open_set_scores,
)
from osrjax.methods.classify import CLASS_LOSSES


def reference(name, logits, scale=8.0, margin=0.3):
    z = np.asarray(logits, np.float64)
    scaled = z if name == "max_logit" else scale * z
    log_p = scaled - np.log(np.exp(scaled).sum(1, keepdims=True))
    if name == "ovr":
        return np.log(np.sum(np.logaddexp(0, np.where(z == z.max(1, keepdims=True), -z, z)), axis=1))
    if name in {"m_ovr", "m_ovr_margin"}:
        s = scale * np.cos(np.arccos(z) + (margin if name == "m_ovr_margin" else 0.0))
        target = s == s.max(1, keepdims=True)
        return np.log(np.sum(np.logaddexp(0, np.where(target, -s, s)), axis=1))
    return {
        "cosine": -z.max(1),
        "max_logit": -z.max(1),
        "max_softmax": -log_p.max(1),
        "energy": -np.log(np.exp(scaled).sum(1)),
        "entropy": -np.sum(np.exp(log_p) * log_p, axis=1),
    }[name]


@pytest.fixture
def outputs(rng):
    def part(n, signal):
        labels = rng.integers(0, 3, n).astype(np.int32)
        logits = 0.2 * rng.uniform(-1, 1, (n, 3)) + signal * (np.eye(3)[labels] - 0.3)
        embedding = np.concatenate([logits, rng.normal(size=(n, 2)) / 5], axis=1)
        return logits.astype(np.float32), embedding.astype(np.float32), labels

    validation, known, unknown = part(50, 0.6), part(40, 0.6), part(30, 0.2)
    return OpenSetOutputs(validation[0], validation[2], *known, *unknown)


def test_every_loss_names_a_score_of_its_head():
    for loss in CLASS_LOSSES.values():
        assert loss.score in SCORES[loss.head]


@pytest.mark.parametrize("head", list(SCORES))
def test_scores_equal_their_formulas(outputs, head):
    found = open_set_scores(outputs.known_logits, head=head, scale=8.0, margin=0.3)
    assert tuple(found) == SCORES[head]
    for name, values in found.items():
        wanted = reference(name, outputs.known_logits, scale=8.0 if head == "cosine" else 1.0)
        np.testing.assert_allclose(values, wanted, rtol=2e-4, atol=2e-5, err_msg=name)


def test_assessment_equals_scikit_learn_and_is_json(outputs):
    found = json.loads(json.dumps(assess(outputs, head="cosine", scale=8.0, margin=0.3, resamples=200)))
    truth = np.repeat([0, 1], [40, 30])
    for name, metrics in found["scores"].items():
        values = np.concatenate([reference(name, part) for part in (outputs.known_logits, outputs.unknown_logits)])
        assert metrics["auroc"]["value"] == pytest.approx(roc_auc_score(truth, values), abs=2e-3)
        assert metrics["auroc"]["low"] <= metrics["auroc"]["value"] <= metrics["auroc"]["high"]
        below = reference(name, outputs.validation_logits) <= metrics["threshold"] + 1e-6
        assert below.mean() == pytest.approx(0.9)
    accuracy = accuracy_score(outputs.known_labels, outputs.known_logits.argmax(1))
    assert found["scores"]["cosine"]["closed_set_accuracy"]["value"] == pytest.approx(accuracy)
    wanted = davies_bouldin_score(outputs.known_embedding, outputs.known_labels)
    assert found["davies_bouldin"] == pytest.approx(wanted, rel=1e-4)
    assert (found["validation_images"], found["known_images"], found["unknown_images"]) == (50, 40, 30)


def test_without_resamples_there_are_no_intervals_and_one_class_has_no_davies_bouldin(outputs):
    single = outputs._replace(
        validation_logits=outputs.validation_logits[:, :1],
        validation_labels=np.zeros(50, np.int32),
        known_logits=outputs.known_logits[:, :1],
        known_labels=np.zeros(40, np.int32),
        unknown_logits=outputs.unknown_logits[:, :1],
    )
    found = assess(single, head="linear", resamples=0)
    assert found["davies_bouldin"] is None
    assert found["scores"]["max_logit"]["auroc"]["low"] is None


def test_an_unknown_head_is_refused(outputs):
    with pytest.raises(Exception, match="head"):
        open_set_scores(outputs.known_logits, head="angular")  # ty: ignore[invalid-argument-type]


SIZES = {"train": 40, "validation": 20, "known": 30, "unknown": 25}


@pytest.fixture
def encoded(rng):
    """Unit projections and longer embeddings of three known classes, and of images between them."""
    labels = {part: rng.permutation(np.arange(n) % 3).astype(np.int32) for part, n in SIZES.items()}
    means = rng.normal(size=(3, 6))
    embedding = {part: means[labels[part]] + 0.6 * rng.normal(size=(n, 6)) for part, n in SIZES.items()}
    embedding["unknown"] = means.mean(0) + 0.8 * rng.normal(size=(25, 6))
    embedding = {part: rows.astype(np.float32) for part, rows in embedding.items()}
    projection = {part: rows[:, :4] / np.linalg.norm(rows[:, :4], axis=1)[:, None] for part, rows in embedding.items()}
    labels.pop("unknown")
    return OpenSetFeatures(**projection), OpenSetFeatures(**embedding), OpenSetLabels(**labels)


def feature_reference(name, space, labels, part):
    """Score and predicted class, from all cosines and distances in float64."""
    train, rows = (np.asarray(x, np.float64) for x in (space.train, getattr(space, part)))
    if name == "mahalanobis":
        means = np.stack([train[labels == c].mean(0) for c in range(3)])
        estimator = EmpiricalCovariance(assume_centered=True).fit(train - means[labels])
        distances = np.stack([estimator.mahalanobis(rows - mean) for mean in means], axis=1)
        return distances.min(1), distances.argmin(1)
    units, others = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, train))
    sums = np.stack([np.sort(units @ others[labels == c].T, axis=1)[:, -2:].sum(1) for c in range(3)], axis=1)
    return -sums.max(1) / (sums.sum(1) if name == "knn_ratio" else 1), sums.argmax(1)


def test_feature_scores_equal_their_formulas(encoded):
    projection, _, labels = encoded
    found = open_set_feature_scores(projection, labels.train, classes=3, neighbours=2)
    assert tuple(found) == FEATURE_SCORES
    for name, images in found.items():
        for part in ("validation", "known", "unknown"):
            score, predictions = feature_reference(name, projection, labels.train, part)
            np.testing.assert_allclose(getattr(images, part), score, rtol=2e-3, atol=1e-5, err_msg=name)
            np.testing.assert_array_equal(getattr(images, f"{part}_predictions"), predictions)


def test_assessment_of_features_equals_scikit_learn_and_is_json(encoded):
    projection, embedding, labels = encoded
    options = {"classes": 3, "embedding": embedding, "neighbours": 2, "resamples": 50}
    found = json.loads(json.dumps(assess_features(projection, labels, **options)))
    assert set(found["scores"]) == {*FEATURE_SCORES, *(f"{name}_embedding" for name in FEATURE_SCORES)}
    truth = np.repeat([0, 1], [30, 25])
    for full_name, values in found["scores"].items():
        name, space = full_name.removesuffix("_embedding"), embedding if "embedding" in full_name else projection
        known, predictions = feature_reference(name, space, labels.train, "known")
        unknown, _ = feature_reference(name, space, labels.train, "unknown")
        wanted = roc_auc_score(truth, np.concatenate([known, unknown]))
        assert values["auroc"]["value"] == pytest.approx(wanted, abs=2e-3), full_name
        assert values["auroc"]["low"] <= values["auroc"]["value"] <= values["auroc"]["high"]
        assert values["closed_set_accuracy"]["value"] == accuracy_score(labels.known, predictions)
        validation, _ = feature_reference(name, space, labels.train, "validation")
        assert np.mean(validation <= values["threshold"] + 1e-4) == pytest.approx(0.9)
    _, predictions = feature_reference("knn_sum", projection, labels.train, "validation")
    assert found["validation_accuracy"] == accuracy_score(labels.validation, predictions)
    for name, space in (("davies_bouldin", projection), ("davies_bouldin_embedding", embedding)):
        assert found[name] == pytest.approx(davies_bouldin_score(space.known, labels.known), rel=1e-4)
    assert (found["validation_images"], found["known_images"], found["unknown_images"]) == (20, 30, 25)


def test_both_assessments_have_one_form(outputs, encoded):
    """What reads the results of a classifier reads those of an encoder."""
    projection, _, labels = encoded
    of_head = assess(outputs, head="linear", resamples=0)
    of_features = assess_features(projection, labels, classes=3, neighbours=2, resamples=0)
    assert of_features.keys() == of_head.keys()
    assert set(of_features["scores"]) == set(FEATURE_SCORES)
    assert of_features["scores"]["knn_sum"].keys() == of_head["scores"]["energy"].keys()
    assert of_features["scores"]["knn_sum"]["auroc"]["low"] is None


def test_features_of_other_images_or_too_few_of_a_class_are_refused(encoded):
    projection, embedding, labels = encoded
    shorter = embedding._replace(known=embedding.known[1:])
    with pytest.raises(ValueError, match=r"embedding has \[40, 20, 29, 25\] images, projection \[40, 20, 30, 25\]"):
        assess_features(projection, labels, classes=3, embedding=shorter, neighbours=2, resamples=0)
    with pytest.raises(ValueError, match="neighbours=14"):
        assess_features(projection, labels, classes=3, neighbours=14, resamples=0)
