"""The claims that need studies: verdicts on synthetic entries against numbers worked out by hand."""

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


def entry(study, label, split, *, auroc=0.9, accuracy=0.95, known="abcdef", unknown="yz", probe=None):
    names = {"known_names": list(known), "unknown_names": list(unknown), "score": "own", "label": label}
    task = {"study": study, "dataset": "mnist", "family": "neal", "unknown": "mnist", "split": split, "seed": 0}
    values = {"auroc": auroc, "closed_set_accuracy": accuracy}
    rest = {"seconds": {}, "probe": probe, "files": {}}
    return Entry(Path(f"{label}-{split}"), {**names, **task, **rest}, {"own": values})


def recipe(differences, accuracies=None):
    """m-OvR at AUROC 0.9 on three splits, every other arm so much below it."""
    known = ("abcdef", "abcdeg", "abcdeh")
    found = [entry("recipe", "m-OvR", split, known=known[split]) for split in range(3)]
    for label, values in differences.items():
        accuracy = (accuracies or {}).get(label, 0.95)
        for split, value in enumerate(values):
            found.append(entry("recipe", label, split, auroc=0.9 - value, accuracy=accuracy, known=known[split]))
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
    return [
        entry("classes", f"K {count}", order, known="abcdefgh"[:count], probe=probe)
        for order, values in enumerate(jnd_of_orders)
        for count, jnd in zip((2, 4, 6, 8), values, strict=True)
        for probe in [{"jnd": np.array([0.0, jnd]), "accuracy": np.array([0.1, 0.95 if count < 8 else accuracy])}]
    ]


def test_jnd_against_the_number_of_known_classes():
    orders = ((1, 2, 3, 4), (1, 2, 4, 3), (2, 4, 6, 8))  # Spearman 1, 0.8, 1
    (table,) = report.study_tables(classes(orders))
    rank, slope = table.effects
    assert (table.name, table.verdicts) == ("mnist-orders", {"f": "holds"})
    assert rank["per_split"] == pytest.approx([1, 0.8, 1])
    assert rank["interval"] == pytest.approx([2.8 / 3 - 4.303 * 0.11547 / np.sqrt(3), 1], abs=1e-3)
    assert slope["per_split"] == pytest.approx([0.5, 0.4, 1])  # per class
    assert report.study_tables(classes(orders, accuracy=0.89))[0].verdicts == {"f": "no verdict: accuracy"}
    missing = [found for found in classes(orders) if (found.manifest["split"], found.manifest["label"]) != (1, "K 4")]
    assert report.study_tables(missing)[0].effects[0]["n"] == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [({}, "seed 0, K 4 is in K 4-0 and in K 4-0: leave one out"), ({"known": "aqrs"}, "are of two class orders")],
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
    assert found.csv.count("\n") == 3
    assert found.numbers["studies"][0]["verdicts"] == {"f": "holds"}
