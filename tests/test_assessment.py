"""Scores by name and their metrics, against float64 formulas and scikit-learn."""

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, davies_bouldin_score, roc_auc_score

from osrjax.assessment import SCORES, OpenSetOutputs, assess, open_set_scores
from osrjax.objectives import CLASS_LOSSES


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
