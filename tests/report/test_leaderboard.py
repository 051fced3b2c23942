"""Tables, comparisons and figures of a leaderboard: against hand numbers, scipy and scikit-learn."""

import csv
import io
import json
import re
import warnings

import numpy as np
import pytest
import scipy.stats
from conftest import load_script
from sklearn.metrics import roc_auc_score

from osrjax import report
from osrjax.evaluation import ScoredImages, order_images
from osrjax.files import write_json
from osrjax.report.leaderboard import METRICS, RunResult
from osrjax.report.markup import csv_text, latex_table, latex_text, markdown_table, markdown_text
from osrjax.run import write_entry

T_975_ONE_DEGREE = 12.7062
CLASSES = {split: tuple(f"class {split} {k}" for k in range(2)) for split in range(5)}


def result(label="m-OvR", split=0, seed=0, auroc=0.8, *, accuracy=0.95, score="own", own=True, **changes):
    values = dict.fromkeys(METRICS, 0.5) | {"auroc": auroc, "closed_set_accuracy": accuracy}
    found = RunResult(
        *(label, "cifar10", "neal", split, seed, "cifar10", score, own, CLASSES[split], values),
        seconds=100.0,
        source=f"{label}{seed}",
    )
    return found._replace(**changes)


def row_of(table, label, score="own"):
    (row,) = (row for row in report.score_rows(table) if (row.label, row.score) == (label, score))
    return row


# -------------------------------------------------------------------------------------------------- tables


def test_seeds_are_averaged_first_then_splits_count():
    found = [(0, 0, 0.8), (0, 1, 0.9), (1, 0, 0.7), (1, 1, 0.8)]
    (table,) = report.result_tables([result(split=k, seed=seed, auroc=value) for k, seed, value in found])
    mean, (low, high), n = row_of(table, "m-OvR").estimates["auroc"]
    assert (table.unit, n, table.runs) == ("split", 2, 4)
    assert mean == pytest.approx(0.8)
    assert (low, high) == pytest.approx((0.8 - T_975_ONE_DEGREE * 0.05, 0.8 + T_975_ONE_DEGREE * 0.05), abs=1e-4)


def test_a_split_with_the_known_classes_of_another_counts_once():
    values = {0: 0.9, 1: 0.7, 2: 0.6}
    known = CLASSES | {1: CLASSES[0][::-1]}  # the same classes in another order
    (table,) = report.result_tables([result(split=k, auroc=value, known=known[k]) for k, value in values.items()])
    estimate = row_of(table, "m-OvR").estimates["auroc"]
    assert (table.unit, estimate.n) == ("split", 2)
    assert estimate.mean == pytest.approx((0.8 + 0.6) / 2)
    assert "of 3 numbered splits, those with the same known classes count once" in score_page([table])


def test_of_one_set_of_known_classes_the_seeds_count():
    values = {(0, 0): 0.9, (1, 0): 0.7, (0, 1): 0.6, (1, 1): 0.6, (0, 2): 0.7}
    results = [result(split=k, seed=seed, auroc=v, known=CLASSES[0]) for (k, seed), v in values.items()]
    (table,) = report.result_tables(results)
    estimate = row_of(table, "m-OvR").estimates["auroc"]
    wanted = scipy.stats.ttest_1samp([0.8, 0.6, 0.7], 0).confidence_interval()
    assert (table.unit, estimate.n) == ("seed", 3)
    assert estimate.interval == pytest.approx(tuple(wanted))
    assert "n = 3 seeds" in score_page([table])


def score_page(tables, **options):
    return report.leaderboard_texts(tables, **({"reference": "m-OvR"} | options)).text


def test_families_data_sets_and_unknown_sets_never_share_a_table():
    results = [result(), result(family="split_2020"), result(dataset="mnist"), result(unknown="svhn")]
    tables = report.result_tables([*results, result(label="softmax")])
    assert [len(table.results) for table in tables] == [2, 1, 1, 1]
    assert len({table[:3] for table in tables}) == 4


def test_the_best_method_comes_first_and_what_is_missing_is_said():
    results = [result(split=k, seed=seed, auroc=0.8) for k in (0, 1) for seed in (0, 1)]
    results += [result("softmax", split=k, auroc=0.9) for k in (0, 1)]
    results += [result(split=k, seed=seed, auroc=0.95, score="energy", own=False) for k in (0, 1) for seed in (0, 1)]
    (table,) = report.result_tables(results)
    rows = report.score_rows(table)
    assert [(row.label, row.score, row.runs) for row in rows] == [
        ("softmax", "own", 2),
        ("m-OvR", "own", 4),
        ("m-OvR", "energy", 4),
    ]
    lines = score_page([table]).splitlines()
    assert any(re.match(r"softmax +own \* .* 100  2 of 4, incomplete$", line) for line in lines)
    assert any(re.match(r"m-OvR +own \* .* 100  4$", line) for line in lines)
    by_fpr = report.score_rows(table, metric="fpr_at_95_tpr_known_positive")
    assert [row.label for row in by_fpr] == ["m-OvR", "m-OvR", "softmax"]  # all the same: in the order of names


def test_published_numbers_stand_in_their_own_table_and_count_nowhere():
    results = [result(family=family, split=k, auroc=0.8) for family in ("neal", "split_2020") for k in (0, 1)]
    neal, split_2020 = report.result_tables(results)
    assert report.published_anchors(neal) == []
    assert report.published_anchors(report.result_tables([result(family="split_2020", dataset="mnist")])[0]) == []
    (anchor,) = report.published_anchors(split_2020)
    # The five AUROCs of the source.
    assert anchor.values["auroc"] == pytest.approx(np.mean([0.86998, 0.85597, 0.84346, 0.86772, 0.86724]), abs=5e-5)
    found = report.leaderboard_texts([neal, split_2020], reference="m-OvR")
    assert found.text.count("published: softmax, ARPL's recipe") == 1
    assert [len(table["scores"]) for table in found.numbers["tables"]] == [1, 1]
    kinds = [(line["family"], line["kind"]) for line in csv.DictReader(io.StringIO(found.csv))]
    assert kinds == [("neal", "run"), ("split_2020", "run"), ("split_2020", "published")]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([result(), result(auroc=0.7)], "seed 0 has other numbers in m-OvR0 than in m-OvR0: leave one of them out"),
        ([result(), result(seed=1, known=("x", "y"))], "split 0 has other known classes in m-OvR0 than in m-OvR1"),
        (
            [result(), result(seed=1, data="b")],
            "split 0 has other images or another reject_share in m-OvR0 than in m-OvR1",
        ),
        ([result(), result(seed=1, score="energy")], "the own score of m-OvR is own in m-OvR0 and energy in m-OvR1"),
    ],
)
def test_results_that_do_not_fit_together_are_refused(results, message):
    with pytest.raises(ValueError, match=f"cifar10, family neal, unknown: cifar10: .*{message}"):
        report.result_tables(results)


def test_recipes_that_are_mixed_are_named():
    tables = report.result_tables([result(recipe="--steps 9"), result(split=1, recipe="--steps 5"), result("softmax")])
    assert "m-OvR mixes recipes: --steps 5 / --steps 9" in score_page(tables)
    assert "softmax mixes" not in score_page(tables)


def test_a_result_that_is_there_twice_counts_once():
    (table,) = report.result_tables([result(), result(), result(split=1)])
    assert row_of(table, "m-OvR").runs == 2


MANIFEST = {
    **{
        "label": "m-OvR",
        "method": "m_ovr",
        "score": "energy",
        "dataset": "digits",
        "family": "mine",
        "unknown": "digits",
    },
    **{"split": 0, "seed": 0, "known_names": ["0", "1"], "unknown_names": ["2"], "seconds": {"training": 5}},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "two\nlines"}, r"here: name='two\\nlines' has characters that cannot be printed: rename it"),
        ({"label": " "}, "here: name=' ' is empty"),
        ({"reject_share": "abc"}, "here: reject_share='abc' is no"),
        ({"family": "neal"}, "here has 2 known classes, family neal lists 6 in split 0 of digits"),
        ({"known_names": ["0", "\x1b[2J"]}, "cannot be printed"),
        ({"seconds": {"training": "fast"}}, "here: seconds='fast' is no"),
    ],
)
def test_manifests_that_would_spoil_a_table_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        report.manifest_results(MANIFEST | changes, {"energy": {"auroc": 0.5}}, source="here")


# --------------------------------------------------------------------------------------------- comparisons


@pytest.fixture
def arms(rng):
    """AUROC of three methods, [splits, seeds]."""
    base = rng.normal(0.8, 0.03, (4, 1))
    shifts = {"m-OvR": 0.02, "softmax": 0.0, "ARPL": 0.018}
    return {label: base + shift + rng.normal(0, 0.004, (4, 2)) for label, shift in shifts.items()}


def results_of(arms, **changes):
    return [
        result(label, split=k, seed=seed, auroc=float(values[k, seed]), **changes)
        for label, values in arms.items()
        for k in range(values.shape[0])
        for seed in range(values.shape[1])
    ]


def test_comparisons_equal_scipy_with_holm_by_hand(arms):
    own = results_of(arms)
    shifted = {label: values - 0.05 for label, values in arms.items() if label != "softmax"}
    (table,) = report.result_tables([*own, *results_of(shifted, score="max_logit", own=False)])
    found = report.paired_verdicts(table, "m-OvR", common="max_logit")
    assert [(pair.other, pair.own) for pair in found] == [("softmax", True), ("ARPL", True), ("ARPL", False)]
    tests = [scipy.stats.ttest_rel(arms["m-OvR"].mean(1), arms[other].mean(1)) for other in ("softmax", "ARPL", "ARPL")]
    assert [pair.found.p_value for pair in found] == pytest.approx([test.pvalue for test in tests])
    for pair, test in zip(found, tests, strict=True):
        assert pair.found.difference.interval == pytest.approx(tuple(test.confidence_interval()))
    one, two, alone = (test.pvalue for test in tests)  # the last is a family of its own
    assert one < two
    assert [pair.corrected for pair in found] == pytest.approx([2 * one, max(2 * one, two), alone])


def test_power_and_splits_needed_are_those_of_the_strictest_level(arms):
    (table,) = report.result_tables(results_of(arms))
    pair = report.paired_verdicts(table, "m-OvR")[0]
    deviation = (arms["m-OvR"] - arms["softmax"]).mean(1).std(ddof=1)

    def power(n, level=0.05 / 2):  # of two comparisons
        edge, shift = scipy.stats.t.ppf(1 - level / 2, n - 1), 0.01 * np.sqrt(n) / deviation
        return scipy.stats.nct.sf(edge, n - 1, shift) + scipy.stats.nct.cdf(-edge, n - 1, shift)

    assert pair.power == pytest.approx(power(4), abs=1e-6)
    assert pair.needed == next(n for n in range(2, 100) if power(n) >= 0.8)
    assert pair.sees_one_point == (power(4) >= 0.8)


def test_pairs_are_those_runs_that_both_have_and_accuracies_are_theirs():
    results = [result(split=k, auroc=0.8 + 0.01 * k, accuracy=0.9 + 0.01 * k) for k in range(4)]
    results += [result("softmax", split=k, auroc=0.7, accuracy=0.95) for k in (2, 3)]
    results += [result("ARPL", split=4)]
    (table,) = report.result_tables(results)
    (pair,) = report.paired_verdicts(table, "m-OvR")  # none with ARPL
    assert pair.found.difference.n == 2
    assert pair.found.difference.mean == pytest.approx(0.125)
    assert pair.accuracies == pytest.approx((0.925, 0.95))


def test_a_single_split_gives_no_verdict_and_no_power():
    (table,) = report.result_tables([result(), result("softmax", auroc=0.7)])
    (pair,) = report.paired_verdicts(table, "m-OvR")
    assert np.isnan([pair.corrected, pair.power]).all()
    assert (pair.needed, pair.verdict, pair.sees_one_point) == (None, "undecided", False)
    assert "softmax (unknown)" in score_page([table])


@pytest.mark.parametrize(
    ("interval", "corrected", "accuracies", "expected"),
    [
        ((0.001, 0.03), 0.049, (0.9, 0.9), "above"),
        ((0.001, 0.03), 0.05, (0.9, 0.9), "undecided"),  # excludes 0, but not after correction
        ((-0.03, -0.001), 0.01, (0.95, 0.95), "below"),
        ((-0.03, 0.001), 0.06, (0.95, 0.95), "undecided"),
        ((-0.01, 0.01), 1.0, (0.95, 0.95), "no difference above one point"),
        ((-0.0101, 0.005), 1.0, (0.95, 0.95), "undecided"),
        ((0.001, 0.009), 0.01, (0.95, 0.95), "above"),  # small, and there
        ((0.001, 0.009), 0.2, (0.95, 0.95), "no difference above one point"),
        ((0.001, 0.03), 0.01, (0.899, 0.95), "no verdict: accuracy"),
        ((0.001, 0.03), 0.01, (0.95, 0.899), "no verdict: accuracy"),
        ((0.001, 0.03), 0.01, (0.95, float("nan")), "no verdict: accuracy"),
        ((-np.inf, np.inf), float("nan"), (0.95, 0.95), "undecided"),  # one split
    ],
)
def test_the_rule_of_a_verdict(interval, corrected, accuracies, expected):
    assert report.verdict(interval, corrected, accuracies, gate=0.9) == expected


def test_the_gate_is_that_of_the_data_set():
    results = [
        result(label, split=k, accuracy=0.98, dataset=d, unknown=d)
        for d in ("mnist", "cifar10")
        for k in (0, 1)
        for label in ("a", "b")
    ]
    verdicts = [report.paired_verdicts(table, "a")[0].verdict for table in report.result_tables(results)]
    assert verdicts == ["no difference above one point", "no verdict: accuracy"]


# ----------------------------------------------------------------------------------------------- formats


def test_names_stay_names_in_every_format():
    name = r"a|b & 50 % #1 $x$ {m_ovr} \~^ <b>"
    rows = [{"method": name, "auroc": 0.5, "interval": (0.4, 0.6)}]
    head, _, line = markdown_table(rows).splitlines()
    assert len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"\|", head)) == 4
    assert "&lt;b>" in line
    latex = latex_table(rows, caption=name)
    bare = re.sub(r"\\text[a-z]+\{\}|\\[&%$#_{}]", "", latex_text(name))
    assert not re.search(r"[&%$#_{}\\~^<>|]", bare)
    assert latex.splitlines()[7].count("&") == 1 + 2  # the escaped one, and those between three cells
    assert latex_table([{"method": "[0.1] x"}], caption="").splitlines()[7].startswith("{}[")
    assert markdown_text("[a](http://b)") == r"[a]\(http://b)"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\n=1"])
def test_a_spreadsheet_takes_no_name_for_a_formula(name):
    (line,) = csv.DictReader(io.StringIO(csv_text([{"method": name, "difference": -0.5, "quoted": 'a,"b"'}])))
    assert line == {"method": f"'{name}", "difference": "-0.5", "quoted": 'a,"b"'}


# ----------------------------------------------------------------------------------------------- figures


def test_figures_of_accuracy_and_ranks(arms):
    accuracies = np.linspace(0.9, 0.95, 8)
    values = np.concatenate([arms["m-OvR"].ravel(), arms["softmax"].ravel()])
    results = [
        one._replace(values={**one.values, "closed_set_accuracy": float(accuracies[i % 8])})
        for i, one in enumerate(results_of({"m-OvR": arms["m-OvR"], "softmax $T$": arms["softmax"]}))
    ]
    others = [
        one._replace(score=score, own=False, values={**one.values, "auroc": one.values["auroc"] + shift})
        for one in results
        for score, shift in (("energy", 0.01), ("entropy", 0.0))
    ]
    tables = report.result_tables([*results, *others])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        accuracy, ranks = report.accuracy_figure(tables), report.ranks_figure(tables)
        for figure in (accuracy, ranks):
            figure.savefig(io.BytesIO(), format="png")
    (panel,) = accuracy.axes
    r = scipy.stats.pearsonr(np.tile(accuracies, 2), values).statistic
    assert panel.get_title().splitlines()[-1] == f"r = {r:.2f}, n = 16 runs"
    np.testing.assert_allclose(np.concatenate([drawn.get_offsets() for drawn in panel.collections])[:, 1], values)
    assert len({drawn.get_paths()[0].vertices.shape for drawn in panel.collections}) == 2  # a marker for each method
    found = report.score_ranks(tables[0])
    assert {score: set(values) for score, values in found.items()} == {"energy": {1.0}, "own": {2.5}, "entropy": {2.5}}
    assert [label.get_text() for label in ranks.axes[0].get_yticklabels()] == list(found)


def test_figures_of_a_single_run_without_a_warning():
    tables = report.result_tables([result()])
    for figure in (report.accuracy_figure(tables), report.ranks_figure(tables)):
        figure.savefig(io.BytesIO(), format="png")
    assert report.score_ranks(tables[0]) == {}


def test_figures_call_a_metric_what_pages_call_it():
    tables = report.result_tables([result()])
    for metric, title in (("auroc", "AUROC"), ("fpr_at_95_tpr_unknown_positive", "FPR95, unknown +")):
        (panel,) = report.accuracy_figure(tables, metric=metric).axes
        assert (panel.get_xlabel(), panel.get_ylabel()) == ("closed-set accuracy", f"{title}, the method's own score")
        assert report.ranks_figure(tables, metric=metric).axes[0].get_xlabel() == f"rank by {title}, 1 = best"


def test_ranks_by_a_metric_of_which_less_is_better():
    fpr = "fpr_at_95_tpr_known_positive"
    results = [result(score=score, own=score == "own") for score in ("own", "other")]
    results = [one._replace(values={**one.values, fpr: value}) for one, value in zip(results, (0.2, 0.3), strict=True)]
    (table,) = report.result_tables(results)
    assert {score: list(ranks) for score, ranks in report.score_ranks(table, metric=fpr).items()} == {
        "own": [1.0],
        "other": [2.0],
    }


# ---------------------------------------------------------------------------------- corrupted images


def corrupted(mean, **changes):
    """A corruption.json: 0.1 above the mean under noise, 0.1 below it in fog."""
    found = {
        "images": 12,
        "severities": [1, 5],
        "corruptions": "generated, seed 0",
        "clean_accuracy": {"value": 0.9},
        "mean_accuracy": {"value": mean},
        "accuracy": {"shot_noise": {"1": mean + 0.15, "5": mean + 0.05}, "fog": {"1": mean, "5": mean - 0.2}},
    }
    return found | changes


def test_accuracy_on_corrupted_images_by_the_same_rule():
    means = {"GradMix +1": (0.8, 0.7, 0.6), "no mixing": (0.76, 0.67, 0.56), "random box": (0.79, 0.71, 0.6)}
    results = [
        result(label, split=k, corruption=corrupted(mean)) for label, of in means.items() for k, mean in enumerate(of)
    ]
    results += [result("Mixup"), result("GradMix +1", score="energy", own=False)]  # without corrupted images
    tables = report.result_tables(results)
    found = report.leaderboard_texts(tables, reference="GradMix +1")
    numbers = found.numbers["tables"][0]["corruption"]
    assert numbers["of"] == "12 test images, 2 corruptions at 1, 5"
    columns = numbers["methods"]["no mixing"]
    assert {name: of["mean"] for name, of in columns.items()} == pytest.approx(
        {"clean accuracy": 0.9, "mean accuracy": 1.99 / 3, "noise": 1.99 / 3 + 0.1, "weather": 1.99 / 3 - 0.1}
    )
    (first, second) = numbers["comparisons"]
    # Differences 0.04, 0.03, 0.04: mean 0.11 / 3, standard error 0.01 / 3, t = 11; 2 degrees of freedom.
    assert (first["other"], first["verdict"]) == ("no mixing", "above")
    half = 4.302653 * 0.01 / 3
    assert first["differences"]["mean accuracy"]["interval"] == pytest.approx([0.11 / 3 - half, 0.11 / 3 + half])
    assert (first["p"], first["p_holm"]) == pytest.approx((0.00816, 0.01633), abs=1e-5)
    assert (second["other"], second["verdict"]) == ("random box", "undecided")  # 0.01, -0.01, 0
    assert second["p"] == pytest.approx(1)
    rows = [line for line in found.text.splitlines() if re.match(r"GradMix \+1 +0\.900 \[0\.900, 0\.900\]", line)]
    assert [line.split()[-1] for line in rows] == ["3"]
    low = [result._replace(values={**result.values, "closed_set_accuracy": 0.89}) for result in results]
    found = report.leaderboard_texts(report.result_tables(low), reference="GradMix +1")
    verdicts = {pair["verdict"] for pair in found.numbers["tables"][0]["corruption"]["comparisons"]}
    assert verdicts == {"no verdict: accuracy"}


def test_tables_without_corrupted_images_say_nothing_of_them_and_other_questions_are_refused():
    tables = report.result_tables([result(), result("softmax")])
    found = report.leaderboard_texts(tables, reference="m-OvR")
    assert "corrupted" not in found.text
    assert found.numbers["tables"][0]["corruption"] == {}
    results = [result(corruption=corrupted(0.5)), result("softmax", corruption=corrupted(0.5, images=13))]
    with pytest.raises(ValueError, match=r"^cifar10, .*: the files corruption\.json are of different images") as error:
        report.leaderboard_texts(report.result_tables(results), reference="m-OvR")
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------ script


@pytest.fixture
def entries(tmp_path, rng):
    """Six entries on disk, and the AUROC of each by scikit-learn."""
    wanted = {}
    for label in ("m-OvR", "softmax"):
        for split in range(3):
            known, unknown = rng.normal(0, 1, 40), rng.normal(1, 1, 30)
            labels = np.arange(40) % 2
            classes = labels, rng.integers(0, 2, 20), rng.integers(0, 2, 30)  # of known, validation, unknown
            images = dict(
                zip(("known_predictions", "validation_predictions", "unknown_predictions"), classes, strict=True)
            )
            images = ScoredImages(known=known, unknown=unknown, validation=rng.normal(0, 1, 20), **images)
            directory = tmp_path / "kept" / label / str(split)
            directory.mkdir(parents=True)
            manifest = MANIFEST | {"label": label, "split": split, "known_names": list(CLASSES[split])}
            ordered = order_images(images, {"known": labels}, classes=2)
            write_entry(directory, manifest, {"energy": ordered, "max_logit": ordered})
            truth = np.repeat([0, 1], [40, 30])
            wanted[label, split] = roc_auc_score(truth, np.concatenate([known, unknown]))
    return tmp_path / "kept", wanted


def test_the_script_rebuilds_every_number_from_score_files(entries, tmp_path, capsys):
    place, wanted = entries
    out = tmp_path / "out"
    assert load_script("leaderboard").main([str(place), "--out", str(out), "--format", "csv"]) == 0
    printed = capsys.readouterr()
    assert printed.out == (out / "leaderboard.csv").read_text()
    assert "6 entries" in printed.err
    assert printed.err.endswith(f"next: osrjax report {place}\n")
    numbers = json.loads((out / "leaderboard.json").read_text())
    (table,) = numbers["tables"]
    means = {row["method"]: row["auroc"]["mean"] for row in table["scores"] if row["own"]}
    assert means == pytest.approx(
        {label: np.mean([wanted[label, split] for split in range(3)]) for label in ("m-OvR", "softmax")}
    )
    assert [(pair["other"], pair["own"]) for pair in table["comparisons"]] == [("softmax", True), ("softmax", False)]
    assert len(numbers["entries"]) == 6
    assert "## digits, family mine, unknown: digits: scores" in (out / "leaderboard.md").read_text()
    assert (out / "leaderboard.tex").read_text().count(r"\begin{tabular}") == 3
    assert sorted(path.name for path in (out / "figures").iterdir()) == [
        "accuracy.png",
        "accuracy.svg",
        "ranks.png",
        "ranks.svg",
    ]


def damage(place):
    path = place / "softmax" / "1" / "scores.npz"
    path.write_bytes(path.read_bytes()[:-1])


def contradict(place):
    other = place / "copy"
    other.mkdir()
    for name in ("manifest.json", "scores.npz"):
        (other / name).write_bytes((place / "softmax" / "1" / name).read_bytes())
    manifest = json.loads((other / "manifest.json").read_text())
    write_json(other / "manifest.json", manifest | {"split": 0, "known_names": list(CLASSES[0])})


@pytest.mark.parametrize(
    ("prepare", "words", "message"),
    [
        (damage, [], "scores.npz is not the file whose checksum stands in manifest.json"),
        (contradict, [], "softmax, split 0, seed 0 has other numbers in "),
        (None, ["--reference", "ARPL"], "reference='ARPL' is not there: choose from m-OvR, softmax"),
        (None, ["--metric", "aurco"], "metric='aurco' is not there: choose from closed_set_accuracy, auroc"),
        (None, ["--common", "vim"], "common='vim' is not there: choose from energy, max_logit"),
    ],
)
def test_what_the_script_refuses(entries, tmp_path, capsys, prepare, words, message):
    place, _ = entries
    if prepare:
        prepare(place)
    assert load_script("leaderboard").main([str(place), "--out", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [[], ["nowhere"], ["."]])
def test_places_without_entries_are_refused(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert load_script("leaderboard").main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
