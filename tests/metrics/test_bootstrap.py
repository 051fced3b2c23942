"""Bootstrap intervals against naive resampling, and their benchmark in miniature."""

import json
import tracemalloc

import numpy as np
import pytest
from conftest import load_script

from osrjax import metrics
from osrjax.metrics import bootstrap


def example(seed, *, known=40, unknown=30, rounded_to=None):
    """Arguments of open_set_metrics, with three classes and a macro-F1."""
    generator = np.random.default_rng(seed)
    scores = [generator.normal(0, 1, known), generator.normal(1, 1, unknown)]
    if rounded_to is not None:
        scores = [np.round(s / rounded_to) * rounded_to for s in scores]
    labels = generator.integers(0, 3, known)
    predictions = np.where(generator.random(known) < 0.8, labels, (labels + 1) % 3)
    validation, guesses = generator.normal(0, 1, 50), generator.integers(0, 3, unknown)
    return (*scores, predictions, labels, validation, guesses)


@pytest.mark.parametrize("rounded_to", [None, 0.5, 8.0], ids=["continuous", "rounded", "all tied"])
def test_every_resample_equals_the_metrics_of_the_resampled_arrays(rounded_to):
    known, unknown, predictions, labels, validation, guesses = example(0, rounded_to=rounded_to)
    generator = np.random.default_rng(1)
    rows, columns = generator.integers(40, size=(25, 40)), generator.integers(30, size=(25, 30))
    rows[0], columns[0] = 3, 5  # one example of each kind, drawn again and again
    threshold = metrics.rejection_threshold(validation)
    examples = bootstrap._ranked(known, unknown, predictions, labels, predictions_unknown=guesses, threshold=threshold)
    times = (np.stack([np.bincount(row, minlength=n) for row in drawn]) for drawn, n in ((rows, 40), (columns, 30)))
    found = bootstrap._resampled_metrics(examples, *(part.astype(np.int32) for part in times))
    for index, (i, j) in enumerate(zip(rows, columns, strict=True)):
        expected = metrics.open_set_metrics(known[i], unknown[j], predictions[i], labels[i], validation, guesses[j])
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name][index] == pytest.approx(value, abs=1e-12), name


def test_intervals_equal_those_of_a_naive_bootstrap():
    """Another generator and a plain loop: the ends agree up to the noise of 2000 resamples."""
    known, unknown, predictions, labels, validation, guesses = example(2, known=80, unknown=60)
    found = bootstrap.bootstrap_intervals(
        known, unknown, predictions, labels, validation, guesses, resamples=2000, level=0.9
    )
    generator = np.random.RandomState(3)
    naive = []
    for _ in range(200):
        i, j = generator.randint(80, size=80), generator.randint(60, size=60)
        naive.append(metrics.open_set_metrics(known[i], unknown[j], predictions[i], labels[i], validation, guesses[j]))
    assert found.keys() == naive[0].keys()
    for name, (low, high) in found.items():
        values = np.array([n[name] for n in naive])
        expected = np.quantile(values, [0.05, 0.95])
        np.testing.assert_allclose([low, high], expected, atol=0.5 * values.std(), err_msg=name)


def test_intervals_are_those_of_the_seeds_own_draws():
    """The draws that were always made: a generator for each kind, whole numbers below the number of examples."""
    known, unknown, predictions, labels, validation, guesses = example(3)
    found = bootstrap.bootstrap_intervals(
        known, unknown, predictions, labels, validation, guesses, resamples=30, seed=4
    )
    both = np.random.default_rng(4).spawn(2)
    rows, columns = (draws.integers(n, size=(30, n)) for draws, n in zip(both, (40, 30), strict=True))
    values = [
        metrics.open_set_metrics(known[i], unknown[j], predictions[i], labels[i], validation, guesses[j])
        for i, j in zip(rows, columns, strict=True)
    ]
    for name, ends in found.items():
        assert ends == pytest.approx(np.quantile([value[name] for value in values], [0.025, 0.975]), abs=1e-12), name


def test_a_thousand_classes_take_no_matrix_of_pairs_of_them():
    """100 resamples of a confusion matrix would take 800 MB, and a label of 10^9 everything."""
    generator = np.random.default_rng(5)
    labels, guesses = generator.integers(0, 1000, (2, 300))
    labels[0] = 10**9
    predictions = np.where(generator.random(300) < 0.8, labels, guesses)
    scores = generator.normal(size=(2, 300))
    tracemalloc.start()
    found = bootstrap.bootstrap_intervals(*scores, predictions, labels, scores[0], guesses, resamples=100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60e6
    assert 0 < found["macro_f1"][0] < found["macro_f1"][1] < 1


def test_resamples_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    arguments = example(4)
    whole = bootstrap.bootstrap_intervals(*arguments, resamples=50, seed=5)
    monkeypatch.setattr(bootstrap, "ENTRIES_AT_ONCE", 7 * 70)
    assert bootstrap.bootstrap_intervals(*arguments, resamples=50, seed=5) == whole
    assert bootstrap.bootstrap_intervals(*arguments, resamples=50, seed=6) != whole


def test_intervals_without_a_validation_set_have_no_macro_f1():
    arguments = example(6)
    found = bootstrap.bootstrap_intervals(*arguments[:4], resamples=50)
    with_f1 = bootstrap.bootstrap_intervals(*arguments, resamples=50)
    assert set(with_f1) - set(found) == {"macro_f1"}
    for name, (low, high) in found.items():
        assert with_f1[name] == (low, high)
        assert low <= metrics.open_set_metrics(*arguments[:4])[name] <= high


def test_a_wider_level_gives_a_wider_interval():
    arguments = example(7)
    wide = bootstrap.bootstrap_intervals(*arguments, resamples=200, level=0.99)
    for name, (low, high) in bootstrap.bootstrap_intervals(*arguments, resamples=200, level=0.5).items():
        assert wide[name][0] < low < high < wide[name][1]


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    sample = np.random.default_rng(8).normal(5, 2, 400)
    low, high = bootstrap.bootstrap_interval(np.mean, sample, resamples=2000)
    half = 1.96 * sample.std() / 20
    np.testing.assert_allclose([low, high], [sample.mean() - half, sample.mean() + half], atol=0.1 * half)


def test_bootstrap_interval_resamples_each_sample_apart():
    embeddings = [np.random.default_rng(k).normal(4 * k, 1, (20, 2)) for k in range(3)]

    def index(*classes):
        assert [len(rows) for rows in classes] == [20, 20, 20]
        return metrics.davies_bouldin(np.concatenate(classes), np.repeat(np.arange(3), 20))

    low, high = bootstrap.bootstrap_interval(index, *embeddings, resamples=50, seed=1)
    assert 0 < low < index(*embeddings) < high
    assert (low, high) == bootstrap.bootstrap_interval(index, *embeddings, resamples=50, seed=1)


ARGUMENTS = example(12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bootstrap.bootstrap_intervals(*ARGUMENTS, level=1.0), "level=1.0"),
        (lambda: bootstrap.bootstrap_intervals(*ARGUMENTS, share=1.5), "share=1.5"),
        (lambda: bootstrap.bootstrap_intervals(*ARGUMENTS, resamples=0), "resamples=0 is below 1"),
        (lambda: bootstrap.bootstrap_interval(np.mean, np.ones(3), resamples=0), "resamples=0 is below 1"),
        (
            lambda: bootstrap.bootstrap_intervals(ARGUMENTS[0] + np.inf, *ARGUMENTS[1:]),
            r"scores_known\[0\]=inf",
        ),
        (lambda: bootstrap.bootstrap_intervals(*ARGUMENTS[:5]), "predictions_unknown is None"),
        (lambda: bootstrap.bootstrap_interval(np.mean, np.ones(3), level=0.0), "level=0.0"),
    ],
)
def test_malformed_arguments_are_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_times_and_memory_of_the_bootstrap_are_told(capsys):
    benchmark = load_script("benchmarks/bootstrap")
    assert benchmark.main(["--examples", "50", "--classes", "3", "--resamples", "4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["examples"], found["classes"], found["resamples"]) == (50, 3, 4)
    assert found["seconds_of_the_first"] > 0
    assert found["seconds_of_the_metrics"] >= 0
    assert found["mebibytes"] >= 0
    assert found["difference_from_pairs"] < 1e-12
    assert benchmark.main(["--examples", "1"]) == 2
    assert (
        capsys.readouterr().err
        == "bootstrap.py: examples=1 is below 2: give one known and one unknown image at least\n"
    )
