"""Metrics against brute force over pairs and thresholds, scikit-learn, and the known evaluator faults."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import plain_module
from sklearn import metrics as sklearn_metrics

from osrjax import metrics
from osrjax.metrics import detection

plain = plain_module(detection)

RANKING_METRICS = {
    "auroc": metrics.auroc,
    "aupr_unknown_positive": metrics.aupr_unknown_positive,
    "aupr_known_positive": metrics.aupr_known_positive,
    "fpr_at_95_tpr_unknown_positive": metrics.fpr_at_95_tpr_unknown_positive,
    "fpr_at_95_tpr_known_positive": metrics.fpr_at_95_tpr_known_positive,
    "detection_accuracy": metrics.detection_accuracy,
}


def brute_force(known, unknown):
    """Every ranking metric by loops over pairs and thresholds."""
    thresholds = np.unique(np.concatenate([known, unknown]))
    rejected = [(np.mean(unknown >= t), np.mean(known >= t)) for t in thresholds]
    accepted = [(np.mean(known <= t), np.mean(unknown <= t)) for t in thresholds]

    def average_precision(positive, negative):
        total, recall = 0.0, 0.0
        for t in np.unique(np.concatenate([positive, negative]))[::-1]:
            new_recall = np.mean(positive >= t)
            found = np.sum(positive >= t) + np.sum(negative >= t)
            total += (new_recall - recall) * np.sum(positive >= t) / found
            recall = new_recall
        return total

    return {
        "auroc": np.mean([[(k < u) + 0.5 * (k == u) for u in unknown] for k in known]),
        "aupr_unknown_positive": average_precision(unknown, known),
        "aupr_known_positive": average_precision(-known, -unknown),
        "fpr_at_95_tpr_unknown_positive": min(fpr for tpr, fpr in rejected if tpr >= 0.95),
        "fpr_at_95_tpr_known_positive": min(fpr for tpr, fpr in accepted if tpr >= 0.95),
        "detection_accuracy": max([0.5] + [0.5 * (tpr + 1 - fpr) for tpr, fpr in rejected]),
    }


def pair_oscr(known, unknown, correct):
    return np.mean([[c * ((k < u) + 0.5 * (k == u)) for u in unknown] for k, c in zip(known, correct, strict=True)])


def random_scores(seed, *, known=60, unknown=40, rounded_to=None):
    generator = np.random.default_rng(seed)
    scores = generator.normal(0, 1, known), generator.normal(1.2, 1, unknown)
    if rounded_to is not None:
        scores = tuple(np.round(s / rounded_to) * rounded_to for s in scores)
    return *scores, generator.random(known) < 0.8


# Continuous scores, scores rounded to 0.5 (the evaluator that most codes share returns 0.811 for 0.852
# there), and scores of which nearly all are tied.
CASES = [random_scores(0), random_scores(1, rounded_to=0.5), random_scores(2, rounded_to=4.0)]


@pytest.mark.parametrize("case", CASES, ids=["continuous", "rounded", "nearly tied"])
@pytest.mark.parametrize("name", RANKING_METRICS)
def test_ranking_metrics_equal_brute_force(name, case):
    known, unknown, _ = case
    value = RANKING_METRICS[name](known, unknown)
    assert type(value) is float
    assert value == pytest.approx(brute_force(known, unknown)[name], abs=1e-12)


@pytest.mark.parametrize("case", CASES, ids=["continuous", "rounded", "nearly tied"])
def test_oscr_equals_the_mean_over_pairs(case):
    known, unknown, correct = case
    expected = pair_oscr(known, unknown, correct)
    assert metrics.oscr(known, unknown, correct) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("case", CASES, ids=["continuous", "rounded", "nearly tied"])
def test_areas_under_the_curves_are_the_metrics(case):
    known, unknown, correct = case
    fpr, ccr = metrics.oscr_curve(known, unknown, correct)
    assert np.trapezoid(ccr, fpr) == pytest.approx(metrics.oscr(known, unknown, correct), abs=1e-12)
    assert (fpr[0], ccr[0], fpr[-1]) == (0.0, 0.0, 1.0)
    assert ccr[-1] == pytest.approx(correct.mean())
    fpr, tpr = metrics.roc_curve(known, unknown)
    assert np.trapezoid(tpr, fpr) == pytest.approx(metrics.auroc(known, unknown), abs=1e-12)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0.0, 0.0, 1.0, 1.0)


def test_hand_numbers():
    known, unknown = np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 5.0])
    # Pairs with 3: 1, 1, 1/2, 0; with 5: 1, 1, 1, 1. In all 6.5 of 8.
    assert metrics.auroc(known, unknown) == 6.5 / 8
    # Without known examples 1 and 3: 1 + 0 with 3, 1 + 1 with 5. In all 3 of 8.
    assert metrics.oscr(known, unknown, np.array([False, True, False, True])) == 3 / 8
    # All unknown at the threshold 3, which rejects 3 and 4 too: 1/2. All known at 4: accepts the 3.
    assert metrics.fpr_at_95_tpr_unknown_positive(known, unknown) == 0.5
    assert metrics.fpr_at_95_tpr_known_positive(known, unknown) == 0.5
    # Threshold 5: (1/2 + 1) / 2 = 0.75; threshold 3: (1 + 1/2) / 2 = 0.75; threshold 4: (1/2 + 3/4) / 2.
    assert metrics.detection_accuracy(known, unknown) == 0.75
    # Precision 1 at recall 1/2 (5), then 2/4 at recall 1 (3, with 3 and 4 known).
    assert metrics.aupr_unknown_positive(known, unknown) == pytest.approx(0.5 + 0.5 * 0.5)


SPREAD = np.random.default_rng(3)
ADVERSARIAL = {
    "all tied": (np.zeros(7), np.zeros(5)),
    "one of each": (np.array([1.0]), np.array([0.5])),
    "one of each, tied": (np.array([-0.0]), np.array([0.0])),
    "huge and tiny": (np.array([1e300, -1e300, 1e-300, 0.0, 5e-324]), np.array([1e300, -1e-300, 1e-300])),
    "neighbours in float64": (np.array([1.0, np.nextafter(1.0, 2.0)]), np.array([np.nextafter(1.0, 0.0), 1.0])),
    "inverted": (np.arange(9.0) + 100, np.arange(6.0)),
    "two huge ties": (np.repeat([0.0, 1.0], [400, 100]), np.repeat([0.0, 1.0], [30, 170])),
    "float16": (SPREAD.normal(size=200).astype(np.float16), SPREAD.normal(1, 1, 100).astype(np.float16)),
    "integers": (SPREAD.integers(0, 4, 50), SPREAD.integers(1, 5, 40)),
}


@pytest.mark.parametrize("case", list(ADVERSARIAL))
def test_adversarial_scores_equal_scikit_learn_and_whole_numbers(case):
    """AUROC and OSCR are quotients of whole numbers, rounded once; thresholds and rates are scikit-learn's own."""
    known, unknown = (np.asarray(part, np.float64) for part in ADVERSARIAL[case])
    labels = np.arange(known.size) % 3
    predictions, guesses = np.where(labels == 1, 0, labels), np.arange(unknown.size) % 4
    found = plain.open_set_metrics(*ADVERSARIAL[case], predictions, labels, known, guesses, share=0.2)
    counted = [[2 * int(k < u) + int(k == u) for u in unknown] for k in known]
    right = predictions == labels
    pairs = 2 * known.size * unknown.size
    assert found["auroc"] == sum(map(sum, counted)) / pairs
    assert found["oscr"] == sum(sum(row) for row, own in zip(counted, right, strict=True) if own) / pairs
    is_unknown = np.arange(known.size + unknown.size) >= known.size
    scores = np.concatenate([known, unknown])
    fpr, tpr, _ = sklearn_metrics.roc_curve(is_unknown, scores, drop_intermediate=False)
    accepted, known_tpr, _ = sklearn_metrics.roc_curve(~is_unknown, -scores, drop_intermediate=False)
    assert found["fpr_at_95_tpr_unknown_positive"] == fpr[tpr >= 0.95][0]
    assert found["fpr_at_95_tpr_known_positive"] == accepted[known_tpr >= 0.95][0]
    assert found["detection_accuracy"] == np.max(0.5 * (tpr + 1 - fpr))
    for curve, wanted in zip(plain.roc_curve(known, unknown), (fpr, tpr), strict=True):
        np.testing.assert_array_equal(curve, wanted)
    average = sklearn_metrics.average_precision_score
    assert found["aupr_unknown_positive"] == pytest.approx(average(is_unknown, scores), rel=1e-14)
    assert found["aupr_known_positive"] == pytest.approx(average(~is_unknown, -scores), rel=1e-14)
    decided = np.where(scores > plain.rejection_threshold(known, share=0.2), 9, np.concatenate([predictions, guesses]))
    actual = np.where(is_unknown, 9, np.concatenate([labels, guesses]))
    wanted = sklearn_metrics.f1_score(actual, decided, average="macro", zero_division=0.0)
    assert found["macro_f1"] == pytest.approx(wanted, rel=1e-14)


def test_all_scores_tied():
    """A constant score knows nothing: AUROC 0.5 and OSCR half the accuracy, where others report 0."""
    known, unknown = np.full(90, 3.25), np.full(60, 3.25)
    correct = np.arange(90) < 80
    assert metrics.auroc(known, unknown) == 0.5
    assert metrics.oscr(known, unknown, correct) == pytest.approx(80 / 90 / 2, abs=1e-15)
    assert metrics.detection_accuracy(known, unknown) == 0.5
    assert metrics.fpr_at_95_tpr_unknown_positive(known, unknown) == 1.0
    assert metrics.fpr_at_95_tpr_known_positive(known, unknown) == 1.0
    assert metrics.aupr_unknown_positive(known, unknown) == pytest.approx(0.4)
    assert metrics.aupr_known_positive(known, unknown) == pytest.approx(0.6)


def test_orientation():
    """Larger = more unknown: a perfect separator gets 1, its negative 0."""
    known, unknown = np.linspace(0, 1, 30), np.linspace(2, 3, 20)
    correct = np.ones(30, bool)
    for name in ("auroc", "aupr_unknown_positive", "aupr_known_positive"):
        assert RANKING_METRICS[name](known, unknown) == pytest.approx(1.0, abs=1e-12)
        assert RANKING_METRICS[name](-known, -unknown) < 0.5
    assert metrics.auroc(-known, -unknown) == 0.0
    assert metrics.oscr(known, unknown, correct) == 1.0
    assert metrics.oscr(-known, -unknown, correct) == 0.0
    assert metrics.detection_accuracy(known, unknown) == 1.0
    assert metrics.fpr_at_95_tpr_unknown_positive(known, unknown) == 0.0
    assert metrics.fpr_at_95_tpr_known_positive(known, unknown) == 0.0


def test_the_two_conventions_differ_and_swap():
    """Positive class unknown against known: other numbers, exchanged by exchanging the two sides."""
    known, unknown, _ = random_scores(3, known=300, unknown=200)
    fpr_unknown = metrics.fpr_at_95_tpr_unknown_positive(known, unknown)
    fpr_known = metrics.fpr_at_95_tpr_known_positive(known, unknown)
    assert abs(fpr_unknown - fpr_known) > 0.01
    assert metrics.fpr_at_95_tpr_known_positive(-unknown, -known) == fpr_unknown
    assert metrics.aupr_known_positive(-unknown, -known) == pytest.approx(
        metrics.aupr_unknown_positive(known, unknown), abs=1e-12
    )


def test_fpr_takes_exactly_95_percent():
    """19 of 20 is enough: no rounding of 0.95 asks for the twentieth."""
    known, unknown = np.arange(20.0), np.append(np.arange(30.0, 49.0), -1.0)
    assert metrics.fpr_at_95_tpr_unknown_positive(known, unknown) == 0.0
    known, unknown = np.append(np.arange(19.0), 100.0), np.arange(50.0, 70.0)
    assert metrics.fpr_at_95_tpr_known_positive(known, unknown) == 0.0


@pytest.mark.parametrize("name", RANKING_METRICS)
def test_only_the_ranking_counts(name):
    """Logits need no squeezing into [0, 1]: any rising map of the scores gives the same value."""
    known, unknown, _ = random_scores(4)
    value = RANKING_METRICS[name](known, unknown)
    for rising in (lambda s: 1e3 * s - 500, np.exp, lambda s: s**3, lambda s: 1e-14 * (s + 5)):
        assert RANKING_METRICS[name](rising(known), rising(unknown)) == pytest.approx(value, abs=1e-12)


def test_float32_losses_around_1e_12_keep_their_ranking():
    known, unknown, correct = random_scores(5)
    tiny = [(1e-12 * np.exp(s)).astype(np.float32) for s in (known, unknown)]
    wide = [s.astype(np.float64) for s in tiny]
    assert metrics.auroc(*tiny) == metrics.auroc(known, unknown)
    assert metrics.oscr(*tiny, correct) == pair_oscr(*wide, correct)


def test_a_dropped_last_batch_would_show():
    known, unknown, _ = random_scores(6, known=70, unknown=50)
    whole = metrics.open_set_metrics(known, unknown, np.zeros(70, int), np.zeros(70, int))
    dropped = metrics.open_set_metrics(known[:64], unknown[:32], np.zeros(64, int), np.zeros(64, int))
    assert all(dropped[name] != whole[name] for name in ("auroc", "oscr", "aupr_unknown_positive"))


def test_rejection_threshold_rejects_the_share():
    scores = np.random.default_rng(7).permutation(np.arange(1.0, 101.0))
    for share, kept in ((0.1, 90), (0.0, 100), (0.29, 71), (0.105, 90), (0.995, 1)):
        threshold = metrics.rejection_threshold(scores, share=share)
        assert threshold == kept
        assert np.sum(scores > threshold) == 100 - kept
    # Ties are rejected together or not at all, and never more than the share.
    assert metrics.rejection_threshold(np.array([0.0, 1.0, 1.0, 1.0]), share=0.5) == 1.0
    exact = np.array([0.1, 0.2, 0.3], np.float32)
    assert np.sum(exact > metrics.rejection_threshold(exact, share=0.4)) == 1


def test_macro_f1_by_hand():
    known, unknown = np.array([0.1, 0.2, 0.9, 0.3]), np.array([0.8, 0.4, 0.7])
    predictions, labels = np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1])
    # Above 0.5 is unknown. Decided: 0 1 U 1 | U 0 U of actual 0 0 1 1 | U U U.
    # F1 of 0: 2 / (2 + 1 + 1), of 1: 2 / (2 + 1 + 1), of unknown: 4 / (4 + 1 + 1).
    value = metrics.macro_f1(known, unknown, predictions, labels, np.array([1, 0, 0]), threshold=0.5)
    assert value == pytest.approx((0.5 + 0.5 + 4 / 6) / 3)


def test_macro_f1_counts_accepted_unknown_examples_against_the_class_that_they_get():
    known, unknown, correct = random_scores(8, known=200, unknown=100)
    generator = np.random.default_rng(8)
    labels = generator.integers(0, 4, 200)
    predictions = np.where(correct, labels, (labels + 1) % 4)
    predictions_unknown = generator.integers(0, 4, 100)
    decided = np.where(np.append(known, unknown) > 1, 4, np.append(predictions, predictions_unknown))
    actual = np.append(labels, np.full(100, 4))
    value = metrics.macro_f1(known, unknown, predictions, labels, predictions_unknown, threshold=1.0)
    expected = sklearn_metrics.f1_score(actual, decided, labels=range(5), average="macro")
    assert value == pytest.approx(expected, abs=1e-12)


def test_open_set_metrics_gathers_every_function():
    known, unknown, correct = random_scores(9)
    labels = np.random.default_rng(9).integers(0, 3, 60)
    predictions, guesses = np.where(correct, labels, 3), np.arange(40) % 4
    validation = np.linspace(-2, 2, 50)
    found = metrics.open_set_metrics(known, unknown, predictions, labels, validation, guesses, share=0.2)
    assert found.pop("macro_f1") == metrics.macro_f1(
        known,
        unknown,
        predictions,
        labels,
        guesses,
        threshold=metrics.rejection_threshold(validation, share=0.2),
    )
    assert found == metrics.open_set_metrics(known, unknown, predictions, labels)
    assert found.pop("closed_set_accuracy") == metrics.closed_set_accuracy(predictions, labels)
    assert found.pop("oscr") == metrics.oscr(known, unknown, correct)
    assert found == {name: metric(known, unknown) for name, metric in RANKING_METRICS.items()}


def davies_bouldin_reference(rows, labels):
    groups = [rows[labels == k] for k in np.unique(labels)]
    means = [g.mean(0) for g in groups]
    widths = [np.mean(np.linalg.norm(g - m, axis=1)) for g, m in zip(groups, means, strict=True)]
    return np.mean(
        [
            max((widths[k] + widths[j]) / np.linalg.norm(means[k] - means[j]) for j in range(len(groups)) if j != k)
            for k in range(len(groups))
        ]
    )


@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e6, 1e-200, 1e200])
def test_davies_bouldin_has_no_unit(unit):
    rows = np.random.default_rng(10).normal(size=(30, 4)) + 5.0
    labels = np.arange(30) % 3
    expected = davies_bouldin_reference(rows, labels)
    assert metrics.davies_bouldin(unit * rows, labels) == pytest.approx(expected, rel=1e-9)
    assert sklearn_metrics.davies_bouldin_score(rows, labels) == pytest.approx(expected)


def test_davies_bouldin_of_a_collapsed_network_is_the_worst():
    """scikit-learn gives 0, its best value, when class means coincide."""
    labels = np.arange(11) % 2
    constant = np.full((11, 3), 0.1)
    assert sklearn_metrics.davies_bouldin_score(constant, labels) == 0.0
    assert metrics.davies_bouldin(constant, labels) == np.inf
    two_of_three = np.array([[0.0], [2.0], [0.0], [2.0], [9.0], [9.0]])
    assert metrics.davies_bouldin(two_of_three, np.array([0, 0, 1, 1, 2, 2])) == np.inf
    nearly = constant + 1e-7 * np.random.default_rng(11).normal(size=(11, 3))
    assert metrics.davies_bouldin(nearly, labels) == pytest.approx(davies_bouldin_reference(nearly, labels), rel=1e-5)


def test_davies_bouldin_is_undefined_for_one_class_and_for_one_image_a_class():
    assert np.isnan(metrics.davies_bouldin(np.eye(3), np.zeros(3, int)))
    assert np.isnan(metrics.davies_bouldin(np.eye(3), np.arange(3)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_labels_of_few_bits_are_the_same_classes(dtype):
    """The class above all others, unknown, is one more than a byte holds."""
    generator = np.random.default_rng(12)
    known, unknown = generator.normal(size=50), generator.normal(1, 1, 40)
    labels = generator.integers(0, np.iinfo(dtype).max + 1, 50)
    labels[0] = np.iinfo(dtype).max
    predictions, guesses = np.where(known < 1, labels, 0), generator.integers(0, 100, 40)
    narrow = [values.astype(dtype) for values in (predictions, labels, guesses)]
    found = metrics.macro_f1(known, unknown, *narrow, threshold=0.5)
    reject = labels.max() + 1
    decided = np.where(np.append(known, unknown) > 0.5, reject, np.append(predictions, guesses))
    actual = np.append(labels, np.full(40, reject))
    assert found == pytest.approx(sklearn_metrics.f1_score(actual, decided, average="macro"), abs=1e-12)
    assert metrics.closed_set_accuracy(narrow[0], labels) == np.mean(predictions == labels)
    arguments = known, unknown, *narrow[:2], known, narrow[2]
    whole = known, unknown, predictions, labels, known, guesses
    assert metrics.bootstrap_intervals(*arguments, resamples=5) == metrics.bootstrap_intervals(*whole, resamples=5)


def test_jacobian_norm_difference():
    known, unknown = np.array([1, 2, 6], np.float32), np.array([4, 5], np.float32)
    assert metrics.jacobian_norm_difference(known, unknown) == 1.5
    assert metrics.jacobian_norm_difference(unknown, known) == -1.5


def test_importing_the_module_does_not_import_jax():
    program = "import sys, osrjax.metrics.detection, osrjax.metrics.intervals; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


K, U = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.6])
POSITIONS, GUESSES = np.array([0, 1, 1]), np.array([0, 1])
EMPTY, BAD = np.array([]), np.array([0.5, np.nan])


@pytest.mark.parametrize("name", RANKING_METRICS)
@pytest.mark.parametrize(
    ("known", "unknown", "words"),
    [
        (EMPTY, U, r"scores_known has shape \(0,\)"),
        (K, EMPTY, r"scores_unknown has shape \(0,\)"),
        (K, BAD, r"scores_unknown\[1\]=nan is not finite \(1 of 2"),
        (np.array([np.inf, 1.0]), U, r"scores_known\[0\]=inf is not finite"),
        (K, np.array([-np.inf]), r"scores_unknown\[0\]=-inf is not finite"),
        (K[:, None], U, r"scores_known has shape \(3, 1\)"),
    ],
)
def test_malformed_scores_are_refused_by_name(name, known, unknown, words):
    with pytest.raises(ValueError, match=words):
        getattr(plain, name)(known, unknown)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plain.roc_curve(EMPTY, U), r"scores_known has shape \(0,\)"),
        (lambda: plain.oscr(K, BAD, K > 0), r"scores_unknown\[1\]=nan"),
        (lambda: plain.oscr(K, U, np.array([True])), r"correct has shape \(1,\)"),
        (lambda: plain.oscr(K, U, POSITIONS), "correct has .* dtype int64, not .* bool"),
        (lambda: plain.oscr_curve(K, U, K[:2] > 0), r"correct has shape \(2,\)"),
        (lambda: plain.closed_set_accuracy(POSITIONS, GUESSES), r"labels has shape \(2,\), not \(3,\)"),
        (lambda: plain.closed_set_accuracy(np.array([], int), POSITIONS), "predictions has shape"),
        (lambda: plain.closed_set_accuracy(K, POSITIONS), "predictions has dtype float64"),
        (lambda: plain.closed_set_accuracy(POSITIONS, POSITIONS > 0), "labels has dtype bool"),
        (lambda: plain.closed_set_accuracy(POSITIONS, POSITIONS[:, None]), r"labels has shape \(3, 1\)"),
        (lambda: plain.rejected(BAD, threshold=0.0), r"scores\[1\]=nan is not finite"),
        (lambda: plain.rejected(K, threshold=float("inf")), "threshold=inf is not finite"),
        (lambda: plain.davies_bouldin(K, POSITIONS), r"embedding has shape \(3,\)"),
        (lambda: plain.davies_bouldin(np.eye(3), POSITIONS > 0), "labels has dtype bool"),
        (lambda: plain.closed_set_accuracy(POSITIONS, POSITIONS - 1), "labels holds -1"),
        (lambda: plain.closed_set_accuracy(np.eye(3, dtype=int), POSITIONS), r"shape \(3, 3\)"),
        (lambda: plain.rejection_threshold(EMPTY), r"validation_scores has shape \(0,\)"),
        (lambda: plain.rejection_threshold(BAD), r"validation_scores\[1\]=nan"),
        (lambda: plain.rejection_threshold(K, share=1.0), "share=1.0"),
        (lambda: plain.rejection_threshold(K, share=-0.1), "share=-0.1"),
        (
            lambda: plain.macro_f1(K, U, POSITIONS, POSITIONS, POSITIONS, threshold=0.0),
            r"predictions_unknown has shape \(3,\), not \(2,\)",
        ),
        (
            lambda: plain.macro_f1(K, U, POSITIONS, POSITIONS, GUESSES, threshold=float("nan")),
            "threshold=nan",
        ),
        (
            lambda: plain.open_set_metrics(K, U, GUESSES, POSITIONS),
            r"predictions has shape \(2,\), not \(3,\)",
        ),
        (
            lambda: plain.open_set_metrics(K, U, POSITIONS, GUESSES),
            r"labels has shape \(2,\), not \(3,\)",
        ),
        (
            lambda: plain.open_set_metrics(K, U, POSITIONS, POSITIONS, K),
            "predictions_unknown is None",
        ),
        (
            lambda: plain.open_set_metrics(K, U, POSITIONS, POSITIONS, None, GUESSES),
            "validation_scores is None",
        ),
        (lambda: plain.davies_bouldin(np.eye(3) / 0.0, POSITIONS), "embedding holds numbers"),
        (lambda: plain.davies_bouldin(np.eye(3), GUESSES), r"labels has shape \(2,\)"),
        (lambda: plain.jacobian_norm_difference(EMPTY, U), r"norms_known has shape \(0,\)"),
        (lambda: plain.jacobian_norm_difference(K, BAD), r"norms_unknown\[1\]=nan"),
        (lambda: plain.jacobian_norm_difference(K, -U), "norms_unknown holds -0.6"),
    ],
)
def test_malformed_arguments_are_refused_by_name(call, words):
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=words):
        call()
