"""Scores by name and their metrics, against float64 formulas and scikit-learn."""

import json

import numpy as np
import pytest
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import accuracy_score, davies_bouldin_score, roc_auc_score

from osrjax.evaluation.assessment import (
    FEATURE_SCORES,
    SCORES,
    assess_scored,
    fit_feature_scores,
    open_set_feature_scores,
    open_set_scores,
    scored_images,
)
from osrjax.methods import CLASS_LOSSES, Task, assess, make_method

TASK = Task(3, (8, 8, 1), 1)
COSINE = make_method({"method": "cosine_softmax", "scale": 8.0, "margin": 0.3}, TASK)
LINEAR = make_method({"method": "softmax"}, TASK)
CONTRAST = make_method({"method": "contrast", "neighbours": 2}, TASK)


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
        "max_softmax": np.log(-log_p.max(1)),
        "energy": -np.log(np.exp(scaled).sum(1)),
        "entropy": np.log(-np.sum(np.exp(log_p) * log_p, axis=1)),
    }[name]


@pytest.fixture
def outputs(rng):
    """What a classifier of three classes gives, and the labels of the images, by part."""

    def part(n, signal):
        labels = rng.integers(0, 3, n).astype(np.int32)
        logits = 0.2 * rng.uniform(-1, 1, (n, 3)) + signal * (np.eye(3)[labels] - 0.3)
        embedding = np.concatenate([logits, rng.normal(size=(n, 2)) / 5], axis=1)
        return {"logits": logits.astype(np.float32), "embedding": embedding.astype(np.float32)}, labels

    parts = {"validation": part(50, 0.6), "known": part(40, 0.6), "unknown": part(30, 0.2)}
    return {name: found for name, (found, _) in parts.items()}, {name: labels for name, (_, labels) in parts.items()}


def test_every_loss_names_a_score_of_its_head():
    for loss in CLASS_LOSSES.values():
        assert loss.scores is not None or loss.score in SCORES[loss.head]


@pytest.mark.parametrize("head", list(SCORES))
def test_scores_equal_their_formulas(outputs, head):
    logits = outputs[0]["known"]["logits"]
    found = open_set_scores(logits, head=head, scale=8.0, margin=0.3)
    assert tuple(found) == SCORES[head]
    for name, values in found.items():
        wanted = reference(name, logits, scale=8.0 if head == "cosine" else 1.0)
        np.testing.assert_allclose(values, wanted, rtol=2e-4, atol=2e-5, err_msg=name)


def test_assessment_equals_scikit_learn_and_is_json(outputs):
    outputs, labels = outputs
    scored, results = assess(COSINE, outputs, labels, resamples=200)
    found = json.loads(json.dumps(results))
    logits = {part: values["logits"] for part, values in outputs.items()}
    assert found["scores"].keys() == scored.keys() == set(SCORES["cosine"])
    truth = np.repeat([0, 1], [40, 30])
    for name, metrics in found["scores"].items():
        values = np.concatenate([reference(name, logits[part]) for part in ("known", "unknown")])
        assert metrics["auroc"]["value"] == pytest.approx(roc_auc_score(truth, values), abs=2e-3)
        assert metrics["auroc"]["low"] <= metrics["auroc"]["value"] <= metrics["auroc"]["high"]
        below = reference(name, logits["validation"]) <= metrics["threshold"] + 1e-6
        assert below.mean() == pytest.approx(0.9)
        for part, share in metrics["rejected"].items():
            above = sum(score > metrics["threshold"] for score in getattr(scored[name], part))  # counted one by one
            assert share == pytest.approx(above / len(getattr(scored[name], part)))
        for part, rows in logits.items():
            np.testing.assert_allclose(getattr(scored[name], part), reference(name, rows), rtol=2e-4, atol=2e-5)
            np.testing.assert_array_equal(getattr(scored[name], f"{part}_predictions"), rows.argmax(1))
    accuracy = accuracy_score(labels["known"], logits["known"].argmax(1))
    assert found["scores"]["cosine"]["closed_set_accuracy"]["value"] == pytest.approx(accuracy)
    assert found["validation_accuracy"] == accuracy_score(labels["validation"], logits["validation"].argmax(1))
    wanted = davies_bouldin_score(outputs["known"]["embedding"], labels["known"])
    assert found["davies_bouldin"] == pytest.approx(wanted, rel=1e-4)
    assert (found["validation_images"], found["known_images"], found["unknown_images"]) == (50, 40, 30)


def test_without_resamples_there_are_no_intervals_and_one_class_has_no_davies_bouldin(outputs):
    single = {part: {**values, "logits": values["logits"][:, :1]} for part, values in outputs[0].items()}
    labels = {part: np.zeros_like(of_part) for part, of_part in outputs[1].items()}
    found = assess(LINEAR, single, labels, resamples=0).results
    assert found["davies_bouldin"] is None
    assert found["scores"]["max_logit"]["auroc"]["low"] is None


def test_one_test_image_a_class_has_every_metric_but_davies_bouldin(outputs):
    outputs, labels = outputs
    first = [int(np.argmax(labels["known"] == k)) for k in range(3)]
    one = outputs | {"known": {name: rows[first] for name, rows in outputs["known"].items()}}
    found = assess(COSINE, one, labels | {"known": np.arange(3)}, resamples=20).results
    assert found["davies_bouldin"] is None
    json.dumps(found, allow_nan=False)
    collapsed = outputs | {"known": outputs["known"] | {"embedding": np.full((40, 5), 0.1, np.float32)}}
    found = assess(COSINE, collapsed, labels, resamples=0).results
    assert found["davies_bouldin"] is None  # infinite
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("head", list(SCORES))
def test_scores_of_a_single_class_and_of_huge_margins_are_finite(head):
    for logits in (np.zeros((4, 1), np.float32), 1e3 * np.eye(4, dtype=np.float32)):
        for name, values in open_set_scores(logits, head=head, scale=1.0).items():
            assert np.isfinite(values).all(), name
    steps = np.stack([np.linspace(100, 200, 5), np.zeros(5)], axis=1).astype(np.float32)
    found = open_set_scores(steps, head="linear")
    for name in ("max_softmax", "entropy"):
        assert (np.diff(found[name]) < 0).all()  # as numbers of 0 to 1 all were 0


def test_an_unknown_head_is_refused(outputs):
    with pytest.raises(Exception, match="head"):
        open_set_scores(outputs[0]["known"]["logits"], head="angular")  # ty: ignore[invalid-argument-type]


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
    return projection, embedding, labels


def both_spaces(projection, embedding):
    """The outputs of a contrastive network, by part."""
    return {part: {"projection": rows, "embedding": embedding[part]} for part, rows in projection.items()}


def feature_reference(name, space, labels, part):
    """Score and predicted class, from all cosines and distances in float64."""
    train, rows = (np.asarray(x, np.float64) for x in (space["train"], space[part]))
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
    bank = fit_feature_scores(projection["train"], labels["train"], classes=3)
    of_parts = {part: {"z": rows} for part, rows in projection.items()}
    found = scored_images(lambda rows: open_set_feature_scores(bank, rows["z"], neighbours=2), of_parts)
    assert tuple(found) == FEATURE_SCORES
    for name, images in found.items():
        for part in ("validation", "known", "unknown"):
            score, predictions = feature_reference(name, projection, labels["train"], part)
            np.testing.assert_allclose(getattr(images, part), score, rtol=2e-3, atol=1e-5, err_msg=name)
            np.testing.assert_array_equal(getattr(images, f"{part}_predictions"), predictions)


def test_assessment_of_features_equals_scikit_learn_and_is_json(encoded):
    projection, embedding, labels = encoded
    outputs = both_spaces(projection, embedding)
    found = json.loads(json.dumps(assess(CONTRAST, outputs, labels, resamples=50).results))
    assert set(found["scores"]) == {*FEATURE_SCORES, *(f"{name}_embedding" for name in FEATURE_SCORES)}
    truth = np.repeat([0, 1], [30, 25])
    for full_name, values in found["scores"].items():
        name, space = full_name.removesuffix("_embedding"), embedding if "embedding" in full_name else projection
        known, predictions = feature_reference(name, space, labels["train"], "known")
        unknown, _ = feature_reference(name, space, labels["train"], "unknown")
        wanted = roc_auc_score(truth, np.concatenate([known, unknown]))
        assert values["auroc"]["value"] == pytest.approx(wanted, abs=2e-3), full_name
        assert values["auroc"]["low"] <= values["auroc"]["value"] <= values["auroc"]["high"]
        assert values["closed_set_accuracy"]["value"] == accuracy_score(labels["known"], predictions)
        validation, _ = feature_reference(name, space, labels["train"], "validation")
        assert np.mean(validation <= values["threshold"] + 1e-4) == pytest.approx(0.9)
    _, predictions = feature_reference("knn_sum", projection, labels["train"], "validation")
    assert found["validation_accuracy"] == accuracy_score(labels["validation"], predictions)
    for name, space in (("davies_bouldin", projection), ("davies_bouldin_embedding", embedding)):
        assert found[name] == pytest.approx(davies_bouldin_score(space["known"], labels["known"]), rel=1e-4)
    assert (found["validation_images"], found["known_images"], found["unknown_images"]) == (20, 30, 25)


def test_both_assessments_have_one_form(outputs, encoded):
    """What reads the results of a classifier reads those of an encoder."""
    projection, _, labels = encoded
    of_head = assess(LINEAR, *outputs, resamples=0).results
    bank = fit_feature_scores(projection["train"], labels["train"], classes=3)
    of_parts = {part: {"z": rows} for part, rows in projection.items()}
    scored = scored_images(lambda rows: open_set_feature_scores(bank, rows["z"], neighbours=2), of_parts)
    spaces = {"davies_bouldin": projection["known"]}
    of_features = assess_scored(scored, labels, score="knn_sum", spaces=spaces, resamples=0).results
    assert of_features.keys() == of_head.keys()
    assert set(of_features["scores"]) == set(FEATURE_SCORES)
    assert of_features["scores"]["knn_sum"].keys() == of_head["scores"]["energy"].keys()
    assert of_features["scores"]["knn_sum"]["auroc"]["low"] is None


def test_scores_that_are_not_one_an_image_are_refused():
    rows = {part: {"z": np.zeros((4, 2))} for part in ("validation", "known", "unknown")}
    for score, classes in (((12, 1), 12), (11, 12), (12, (12, 2))):
        with pytest.raises(ValueError, match=r"score 'own' gives shapes .* for 12 images"):
            scored_images(lambda _, s=score, c=classes: {"own": (np.zeros(s), np.zeros(c, int))}, rows)


def test_features_of_other_images_or_too_few_of_a_class_are_refused(encoded):
    projection, embedding, labels = encoded
    shorter = both_spaces(projection, {**embedding, "known": embedding["known"][1:]})
    with pytest.raises(ValueError, match=r"outputs of known are of \{'projection': 30, 'embedding': 29\} images"):
        assess(CONTRAST, shorter, labels, resamples=0)
    bank = fit_feature_scores(projection["train"], labels["train"], classes=3)
    with pytest.raises(ValueError, match="neighbours=14"):
        open_set_feature_scores(bank, projection["known"], neighbours=14)
