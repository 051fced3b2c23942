"""The claims that need studies: verdicts on synthetic entries against numbers worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import load_script

from osrjax import report
from osrjax.report import studies
from osrjax.run.entries import Entry

DECIDING = {**studies.PARTS, **studies.HARMFUL}
NEAR = (0.0399, 0.04, 0.0401)  # t = 693, p = 2e-6


@pytest.fixture(autouse=True)
def probes(monkeypatch):
    """Probes stand in the manifests."""
    for module in ("studies", "claims"):
        monkeypatch.setattr(f"osrjax.report.{module}.entry_probe", lambda entry: entry.manifest["probe"])


RECIPE = {"rotations": "none", "rotation_weight": 0.1, "scale": 16.0, "margin": 0.5, "weight_decay": 0.001}


def entry(study, label, split, *, auroc=0.9, accuracy=0.95, known="abcdef", unknown="yz", probe=None, changed=RECIPE):
    names = {"known_names": list(known), "unknown_names": list(unknown), "score": "own", "label": label}
    task = {"study": study, "dataset": "mnist", "family": "neal", "unknown": "mnist", "split": split, "seed": 0}
    values = {"auroc": auroc, "closed_set_accuracy": accuracy}
    rest = {"seconds": {}, "probe": probe, "files": {}, "config": {**RECIPE, **changed}}
    return Entry(Path(f"{label}-{split}"), {**names, **task, **rest}, {"own": values})


def recipe(differences, accuracies=None, changed=None):
    """m-OvR at AUROC 0.9 on three splits, every other arm so much below it."""
    known = ("abcdef", "abcdeg", "abcdeh")
    found = [entry("recipe", "m-OvR", split, known=known[split]) for split in range(3)]
    for label, values in differences.items():
        accuracy = (accuracies or {}).get(label, 0.95)
        for split, value in enumerate(values):
            options = {"accuracy": accuracy, "known": known[split], "changed": (changed or {}).get(label, {})}
            found.append(entry("recipe", label, split, auroc=0.9 - value, **options))
    (table,) = report.study_tables(found)
    return table, {(record["arm"].removeprefix("m-OvR - "), record["effect"]): record for record in table.effects}


AUROC = "AUROC of all test images, corrected by Holm"


def test_the_recipe_is_corrected_for_all_its_arms():
    wide = (0.03, 0.04, 0.05)  # t = 0.04 / (0.01 / sqrt 3) = 6.93 with 2 degrees of freedom: p = 0.0202
    table, records = recipe({"without A": wide})
    assert records["without A", AUROC]["p_holm"] == pytest.approx(0.0202, abs=1e-4)
    assert records["without A", AUROC]["verdict"] == "holds"
    assert (table.name, table.verdicts) == ("mnist-neal", {"h": "no run"})  # of the other parts
    table, records = recipe(dict.fromkeys(("without A", "without W", "softmax"), wide))
    assert records["without A", AUROC]["p_holm"] == pytest.approx(3 * 0.0202, abs=3e-4)
    assert records["without A", AUROC]["interval"][0] > 0
    assert records["without A", AUROC]["verdict"] == "undecided"
    assert records["softmax", AUROC]["verdict"] == "reported"


def test_the_recipe_holds_where_parts_help_large_values_hurt_and_the_scale_is_flat():
    all_hold = {label: [sign * value for value in NEAR] for label, sign in DECIDING.items()}
    all_hold |= {"T 32": (0.0019, 0.002, 0.0021), "T 64": (-0.0019, -0.002, -0.0021)}
    collapsed = {"weight decay 0.1": 0.2}  # that it classifies worse is what the claim says
    table, records = recipe(all_hold, collapsed)
    assert table.verdicts == {"h": "holds"}
    assert records["T 64", "0.01 + difference of AUROC"]["mean"] == pytest.approx(0.008)
    assert records["T 64", "0.01 - difference of AUROC"]["mean"] == pytest.approx(0.012)
    assert recipe(all_hold | {"T 64": NEAR})[0].verdicts == {"h": "fails"}
    assert recipe(all_hold | {"with S": NEAR})[0].verdicts == {"h": "fails"}
    assert recipe(all_hold, {"without N": 0.2})[0].verdicts == {"h": "no verdict: accuracy"}
    assert recipe({label: values for label, values in all_hold.items() if label != "T 64"})[0].verdicts["h"] == "no run"


def halves(growths, accuracy=0.95):
    """Log growth of known and unknown norms by arm, wobbling over three splits."""
    known, found = ("abcdef", "abcdeg", "abcdeh"), []
    for label, (of_known, of_unknown) in growths.items():
        for split, wobble in enumerate((-0.1, 0.0, 0.1)):
            probe = {
                "steps": np.array([0, 500]),
                "norm_known": np.array([1.0, np.exp(of_known + wobble)]),
                "norm_unknown": np.array([1.0, np.exp(of_unknown + wobble)]),
                "accuracy": np.array([0.1, 0.2 if "half" in label else accuracy]),
            }
            found.append(entry("halves", label, split, known=known[split], probe=probe))
    return report.study_tables(found)[0]


def test_each_half_of_the_loss_by_the_accuracy_of_both():
    own = {"m-OvR": (0.0, 0.0), "intra half": (-1.0, -1.0), "inter half": (1.0, 1.0)}
    none = {"m-OvR margin 0": (0.0, 0.0), "intra half margin 0": (-1.0, -1.0), "inter half margin 0": (-1.0, -1.0)}
    table = halves(own | none)
    assert table.verdicts == {"i": "holds", "i0": "fails"}
    (lower,) = [r for r in table.effects if (r["claim"], r["arm"], r["expected"]) == ("i", "intra half", -1)]
    half = 4.303 * 0.1 / np.sqrt(3)  # t interval, 2 degrees of freedom
    assert lower["interval"] == pytest.approx([-1 - half, -1 + half], abs=1e-3)
    assert halves(own, accuracy=0.89).verdicts == {"i": "no verdict: accuracy", "i0": "no run"}


def classes(jnd_of_orders, accuracy=0.95):
    def probe(count, jnd):
        last = {"jnd": jnd, "accuracy": 0.95 if count < 8 else accuracy, "norm_known": count}
        return {name: np.array([0.0, value]) for name, value in {**last, "norm_unknown": count + jnd}.items()}

    return [
        entry("classes", f"K {count}", order, known="abcdefgh"[:count], probe=probe(count, jnd))
        for order, values in enumerate(jnd_of_orders)
        for count, jnd in zip((2, 4, 6, 8), values, strict=True)
    ]


def test_jnd_against_the_number_of_known_classes():
    orders = ((1, 2, 3, 4), (1, 2, 4, 3), (2, 4, 6, 8))  # Spearman 1, 0.8, 1
    (table,) = report.study_tables(classes(orders))
    rank, slope, known, unknown, relative = table.effects
    assert (table.name, table.verdicts) == ("mnist-orders", {"f": "holds"})
    assert rank["per_split"] == pytest.approx([1, 0.8, 1])
    assert rank["interval"] == pytest.approx([2.8 / 3 - 4.303 * 0.11547 / np.sqrt(3), 1], abs=1e-3)
    assert slope["per_split"] == pytest.approx([0.5, 0.4, 1])  # per class
    assert known["per_split"] == pytest.approx([1, 1, 1])
    assert unknown["per_split"] == pytest.approx([1.5, 1.4, 2])
    # In the second order unknown / known norm is 3/2, 3/2, 5/3, 11/8.
    assert relative["per_split"] == pytest.approx([0, (3 * np.log(11 / 12) + np.log(10 / 9)) / 20, 0])
    assert {record["verdict"] for record in (slope, known, unknown, relative)} == {"reported"}
    assert report.study_tables(classes(orders, accuracy=0.89))[0].verdicts == {"f": "no verdict: accuracy"}
    missing = [found for found in classes(orders) if (found.manifest["split"], found.manifest["label"]) != (1, "K 4")]
    assert report.study_tables(missing)[0].effects[0]["n"] == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "seed 0, K 4 is in K 4-0 and in K 4-0: leave one out"),
        ({"known": "aqrs"}, "are of two class orders"),
        ({"changed": {"steps": 5000}}, r"K 2-0 and K 4-0 were trained differently \(steps\): leave one out"),
    ],
)
def test_entries_of_classes_that_contradict_each_other_are_refused(changed, message):
    found = classes(((1, 2, 3, 4),))
    with pytest.raises(ValueError, match=message) as error:
        report.study_tables([*found, entry("classes", "K 4", 0, **{"known": "abcd", **changed})])
    assert "\n" not in str(error.value)


def test_every_arm_that_decides_is_trained():
    benchmark = load_script("benchmark")
    assert {*DECIDING, *studies.FLAT, *studies.REPORTED, "m-OvR"} == set(benchmark.STUDIES["recipe"])
    assert set(benchmark.PROBED["halves"]) == {
        f"{arm}{end}" for arm in ("m-OvR", "intra half", "inter half") for end in ("", " margin 0")
    }


def test_studies_stand_on_the_page():
    tables = report.study_tables(classes(((1, 2, 3, 4), (1, 2, 4, 3), (2, 4, 6, 8))))
    found = report.claims_texts([], tables)
    assert found.markdown.startswith("## Studies")
    assert "| f | JND grows with the number of known classes | mnist-orders | holds |" in found.markdown
    assert "0.933 [0.646, 1.000]" in found.text
    assert found.csv.count("\n") == 6
    assert found.numbers["studies"][0]["verdicts"] == {"f": "holds"}
    assert "\n\nFigures: figure-7 (f).\n\n" in found.markdown
    json.dumps(found.numbers)


def rows(figure):
    """Of every row, by its label: means, intervals and what is shaded, from above."""
    (axes,) = figure.axes
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    found = {label: ([], [], []) for label in labels}
    for line in axes.get_lines():
        x, y = (np.asarray(data, float) for data in line.get_data())
        if line.get_label().startswith("_child") and y[0] == y[-1]:
            found[labels[round(y[0])]][len(x) - 1].append(x.tolist())
    for patch in axes.patches:
        found[labels[round(patch.get_y() + patch.get_height() / 2)]][2].append(
            [patch.get_x(), patch.get_x() + patch.get_width()]
        )
    return found


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


HALF = 4.303 * 0.0001 / np.sqrt(3)  # t interval of NEAR


def test_the_recipe_is_drawn_with_its_verdicts_and_where_the_claim_wants_it():
    differences = {"without A": NEAR, "with S": NEAR, "T 32": np.array(NEAR) / 20, "softmax": NEAR}
    found = report.study_figures(recipe(differences, {"without A": 0.5})[0])
    assert list(found) == ["recipe"]  # one value of T beside the recipe's
    drawn = rows(found["recipe"])
    assert list(drawn) == ["without A", "with S", "T 32", "softmax"]
    left, right = found["recipe"].axes[0].get_xlim()
    wanted = {"without A": [[0, right]], "with S": [[left, 0]], "T 32": [[-0.01, 0.01]], "softmax": []}
    for arm, (means, intervals, shaded) in drawn.items():
        share = 1 / 20 if arm == "T 32" else 1
        np.testing.assert_allclose(means, [[0.04 * share]])
        np.testing.assert_allclose(intervals, [[(0.04 - HALF) * share, (0.04 + HALF) * share]], rtol=1e-4)
        np.testing.assert_allclose(np.array(shaded).ravel(), np.array(wanted[arm]).ravel())
    verdicts = ["holds", "fails", "no verdict: accuracy", "reported alone"]
    assert legend(found["recipe"]) == [*verdicts, "where the claim wants the interval"]
    assert "over 3 splits" in found["recipe"].axes[0].get_xlabel()


def test_a_collapsed_arm_makes_the_axis_logarithmic():
    figure = report.study_figures(recipe({"weight decay 0.1": (0.3, 0.4, 0.5), "T 8": NEAR})[0])["recipe"]
    assert figure.axes[0].get_xscale() == "symlog"
    assert "logarithmic beyond 0.01" in figure.axes[0].get_xlabel()
    assert rows(figure)["weight decay 0.1"][0] == [[pytest.approx(0.4)]]


def test_auroc_along_the_values_of_the_recipe():
    arms = {
        "T 2": {"scale": 2.0},
        "T 64": {"scale": 64.0},
        "with S": {"rotations": "one"},
        "lambda_self 1": {"rotations": "one", "rotation_weight": 1.0},
        "margin 0": {"margin": 0.0},
    }
    table, _ = recipe({arm: np.array([0.1, 0.2, 0.3]) * index for index, arm in enumerate(arms)}, changed=arms)
    scale, rotations = report.study_figures(table)["figure-14"].axes
    assert [panel.get_xlabel() for panel in (scale, rotations)] == ["T", "lambda_self"]  # two margins are too few
    for panel, values, means in ((scale, "2 16 64", (0.9, 0.9, 0.7)), (rotations, "0 0.1 1", (0.9, 0.5, 0.3))):
        assert [tick.get_text() for tick in panel.get_xticklabels()] == values.split()
        np.testing.assert_allclose(panel.containers[0].lines[0].get_ydata(), means)


def test_the_largest_logit_tells_what_an_arm_does_to_its_own_score_and_decides_nothing():
    known, found = ("abcdef", "abcdeg", "abcdeh"), []
    for label, own, logit in (("m-OvR", 0.9, 0.95), ("T 2", 0.86, 0.94), ("without A", 0.86, None)):
        for split, wobble in enumerate((0.0001, 0.0, -0.0001) if label != "m-OvR" else (0, 0, 0)):
            made = entry("recipe", label, split, auroc=own + wobble, known=known[split])
            of_logit = {"max_logit": {"auroc": logit + wobble, "closed_set_accuracy": 0.95}} if logit else {}
            found.append(made._replace(results=made.results | of_logit))
    (table,) = report.study_tables(found)
    (record,) = (r for r in table.effects if r["effect"] == studies.LARGEST_LOGIT)
    assert (record["arm"], record["verdict"]) == ("m-OvR - T 2", "reported")
    np.testing.assert_allclose([record["mean"], *record["interval"]], [0.01, 0.01 - HALF, 0.01 + HALF], rtol=1e-3)
    figure = report.study_figures(table)["recipe"]
    np.testing.assert_allclose(rows(figure)["T 2"][0], [[0.04], [0.01]])
    np.testing.assert_allclose(rows(figure)["without A"][0], [[0.04]])
    assert legend(figure)[1] == "by the largest logit, reported alone"


def test_auroc_against_jnd_over_the_arms_of_the_recipe():
    aurocs = {
        "m-OvR": (0.9, 0.8, 0.7),
        "without A": (0.7, 0.9, 0.6),
        "T 2": (0.6, 0.7, 0.65),
        "softmax": (0.5, 0.6, 0.8),
    }
    norms = {
        "m-OvR": (0.4, 0.1, 0.3),
        "without A": (0.3, 0.2, 0.2),
        "T 2": (0.2, 0.3, 0.1),
        "softmax": (0.1, 0.4, None),
    }
    known = ("abcdef", "abcdeg", "abcdeh")
    found = [
        entry(
            "recipe",
            label,
            split,
            auroc=auroc,
            known=known[split],
            probe=jnd and {"steps": np.arange(2), "jnd": np.array([0.0, jnd])},
        )
        for label in aurocs
        for split, (auroc, jnd) in enumerate(zip(aurocs[label], norms[label], strict=True))
    ]
    (table,) = report.study_tables(found)
    (over_arms,) = (record for record in table.effects if record["arm"] == "all arms")
    # Ranks of AUROC along ascending JND: 1 2 3 4; 3 4 2 1 (d = 2 2 1 3: 1 - 6 x 18 / 60); a split that lacks an arm.
    assert over_arms["per_split"] == [pytest.approx(1), pytest.approx(-0.8), None]
    assert (over_arms["n"], over_arms["undefined"], over_arms["verdict"]) == (2, 1, "reported")
    (axes,) = report.study_figures(table)["figure-13"].axes
    means = {points.get_label(): points.get_offsets()[0] for points in axes.collections if points.get_label() in aurocs}
    for label, mean in means.items():
        runs = [pair for pair in zip(norms[label], aurocs[label], strict=True) if None not in pair]
        np.testing.assert_allclose(mean, np.mean(runs, axis=0))
    assert list(means) == list(aurocs)


def test_growth_of_norms_by_each_half_of_the_loss():
    found = report.study_figures(halves({"intra half": (-1.0, -0.5), "inter half margin 0": (0.2, 1.0)}))
    assert list(found) == ["halves", "halves-steps"]
    drawn, half = rows(found["halves"]), 4.303 * 0.1 / np.sqrt(3)
    assert list(drawn) == ["intra half", "inter half, margin 0"]
    left, right = found["halves"].axes[0].get_xlim()
    for arm, values, wanted in (
        ("intra half", (-1.0, -0.5), [left, 0]),
        ("inter half, margin 0", (0.2, 1.0), [0, right]),
    ):
        means, intervals, shaded = drawn[arm]
        np.testing.assert_allclose(means, np.array(values)[:, None])
        np.testing.assert_allclose(intervals, [[value - half, value + half] for value in values], atol=1e-4)
        np.testing.assert_allclose(shaded, [wanted])
    known, unknown, _ = found["halves-steps"].axes
    growth = np.mean(np.exp([-0.1, 0, 0.1]))
    for panel, value in ((known, -1.0), (unknown, -0.5)):
        (line,) = (line for line in panel.get_lines() if line.get_label() == "intra half")
        np.testing.assert_allclose(line.get_data(), [[0, 500], [1, growth * np.exp(value)]])
    assert set(legend(found["halves-steps"])) == {"intra half", "inter half margin 0"}


def test_jnd_is_drawn_for_every_order():
    orders = np.array([(1, 2, 3, 4), (1, 2, 4, 3), (2, 4, 6, 8)])
    missing = [found for found in classes(orders) if (found.manifest["split"], found.manifest["label"]) != (1, "K 4")]
    (axes,) = report.study_figures(report.study_tables(missing)[0])["figure-7"].axes
    assert axes.get_xticks().tolist() == [2, 4, 6, 8]
    lines = [line.get_ydata() for line in axes.get_lines() if len(line.get_ydata()) == 4]
    np.testing.assert_allclose(lines[:3], np.where(np.arange(12).reshape(3, 4) == 5, np.nan, orders))
    assert any(np.allclose(line, [4 / 3, 3, 13 / 3, 5]) for line in lines[3:])


def test_of_a_single_split_the_means_are_drawn_and_without_probes_nothing():
    known = {"m-OvR": 0.9, "without A": 0.88, "T 8": 0.9, "T 2": 0.7}
    changed = {"T 8": {"scale": 8.0}, "T 2": {"scale": 2.0}}
    found = [entry("recipe", arm, 0, auroc=auroc, changed=changed.get(arm, {})) for arm, auroc in known.items()]
    figures = report.study_figures(report.study_tables(found)[0])
    drawn = rows(figures["recipe"])
    assert {arm: means for arm, (means, _, _) in drawn.items()} == {
        "without A": [[pytest.approx(0.02)]],
        "T 2": [[pytest.approx(0.2)]],
        "T 8": [[pytest.approx(0)]],
    }
    assert not any(intervals for _, intervals, _ in drawn.values())
    assert figures["recipe"].axes[0].get_xlabel().endswith("one seed (logarithmic beyond 0.01)")
    assert figures["figure-14"].get_suptitle() == "AUROC: mean of one seed"
    bare = [entry(study, "m-OvR", 0) for study in ("recipe", "halves", "classes")]
    assert [report.study_figures(table) for table in report.study_tables(bare)] == [{}, {}, {}]
