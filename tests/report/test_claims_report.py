"""Claims from entries on disk: effects, verdicts, gates and figures against numbers worked out here."""

import csv
import json
import re
import shutil
import warnings

import numpy as np
import pytest
import scipy.stats
from conftest import load_script

from osrjax import report
from osrjax.evaluation import ScoredImages, order_images
from osrjax.files import file_sha256
from osrjax.metrics.effects import effect
from osrjax.report.claims import CLAIM_FIGURES, CLAIM_TEXTS
from osrjax.run import entry_probe, read_entry, write_entry

KNOWN = ((0, 1, 2, 4, 5, 9), (0, 3, 5, 7, 8, 9), (0, 1, 5, 6, 7, 8))  # the first splits of neal, mnist
STEPS = np.arange(0, 60, 10)
IMAGES = 24


def probe(draws, known_ids, accuracy, jnd):
    """Norms of known images stay at 1, those of unknown ones grow by JND; the profile peaks in the middle."""
    unknown_ids = np.setdiff1d(np.arange(10), known_ids)
    rise = np.linspace(0, 1, STEPS.size)
    labels_known, labels_unknown = np.arange(IMAGES) % 6, unknown_ids[np.arange(IMAGES) % 4]
    noise = draws.normal(1, 0.05, (2, STEPS.size, IMAGES))
    norms = {"known": noise[0] * (0.5 + 0.5 * rise[:, None]), "unknown": noise[1] * (0.5 + (0.5 + jnd) * rise[:, None])}
    embedding = np.eye(6)[labels_known] + draws.normal(0, 0.1, (IMAGES, 6)), draws.normal(size=(IMAGES, 6))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in embedding]
    means = {kind: values.mean(axis=1) for kind, values in norms.items()}
    return {
        "steps": STEPS,
        "norms_known": norms["known"].astype(np.float32),
        "norms_unknown": norms["unknown"].astype(np.float32),
        "labels_known": labels_known,
        "labels_unknown": labels_unknown,
        "embedding_known": unit[0].astype(np.float16),
        "embedding_unknown": unit[1].astype(np.float16),
        "path_lengths": draws.random((STEPS.size, 3)).astype(np.float32),
        "pair_labels": np.array([[0, 1], [1, 2], [2, 0]]),
        "fractions": np.linspace(0, 1, 5).astype(np.float32),
        "profiles": (1 + draws.random((2, 3, 1)) * np.array([0, 1, 2, 1, 0])).astype(np.float32),
        "jnd": means["unknown"] - means["known"],
        "norm_known": means["known"],
        "norm_unknown": means["unknown"],
        "davies_bouldin": 3 - 2 * np.sqrt(rise) + 0.1 * draws.random(STEPS.size),
        "intra_distance": 1 - 0.5 * rise,
        "inter_distance": 1 + rise,
        "path_length": 1 + rise,
        "auroc": 0.5 + 0.3 * np.sqrt(rise),
        "accuracy": accuracy * rise,
    }


def write(directory, draws, label, split, *, accuracy=0.995, jnd=1.0, probed=True):
    """An entry of 40 known and 30 unknown images with or without probe."""
    directory.mkdir(parents=True)
    known, unknown, labels = draws.normal(0, 1, 40), draws.normal(2, 1, 30), np.arange(40) % 6
    predictions = {f"{part}_predictions": np.zeros(size, int) for part, size in (("validation", 20), ("unknown", 30))}
    wrong = np.arange(40) >= round(40 * accuracy)
    images = ScoredImages(
        known=known,
        unknown=unknown,
        validation=draws.normal(size=20),
        known_predictions=np.where(wrong, (labels + 1) % 6, labels),
        **predictions,
    )
    probes = probe(draws, KNOWN[split], accuracy, jnd) if probed else None
    manifest = {
        **{"label": label, "method": "softmax", "score": "max_logit", "dataset": "mnist", "family": "neal"},
        **{"unknown": "mnist", "split": split, "seed": 0, "seconds": {"training": 1.0}},
        "known_names": [str(k) for k in KNOWN[split]],
        "unknown_names": [str(k) for k in range(10) if k not in KNOWN[split]],
    }
    write_entry(directory, manifest, {"max_logit": order_images(images, {"known": labels}, classes=6)}, probe=probes)


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """Three splits of three methods; the third has no probe."""
    place, draws = tmp_path_factory.mktemp("claims"), np.random.default_rng(0)
    for split in range(3):
        write(place / f"m-OvR-{split}", draws, "m-OvR", split, jnd=1.0 + 0.1 * split)
        write(place / f"softmax-{split}", draws, "softmax", split, jnd=0.5 + 0.12 * split)
        write(place / f"CAC-{split}", draws, "CAC", split, probed=False)
    return place


def tables(entries):
    return report.claim_tables([read_entry(place) for place in sorted(entries.iterdir())])


def test_effects_are_those_of_the_probes_and_the_leaderboard(entries):
    (found,) = tables(entries)
    assert (found.name, found.runs, list(found.probes)) == ("mnist-neal", 6, ["m-OvR", "softmax"])
    records = {(record["arm"], record["effect"]): record for record in found.effects}
    last = {}
    for label in ("m-OvR", "softmax"):
        for split in range(3):
            with np.load(entries / f"{label}-{split}" / "probe.npz") as arrays:
                last[label, split] = arrays["norms_unknown"][-1].mean() - arrays["norms_known"][-1].mean()
    jnd = [last["m-OvR", split] for split in range(3)]
    assert records["m-OvR", "JND after training"]["per_split"] == pytest.approx(jnd, rel=1e-5)
    assert records["m-OvR", "JND after training"]["verdict"] == "holds"
    assert records["softmax", "JND after training"]["verdict"] == "reported"
    difference = records["m-OvR - softmax", "JND after training"]
    wanted = scipy.stats.ttest_rel(jnd, [last["softmax", split] for split in range(3)]).confidence_interval()
    assert difference["interval"] == pytest.approx(list(wanted), rel=1e-4)
    compared = records["m-OvR - softmax", "AUROC of all test images, corrected by Holm"]
    (table,) = report.entry_tables([read_entry(place) for place in sorted(entries.iterdir())])
    pairs = {pair.other: pair for pair in report.paired_verdicts(table, "m-OvR") if pair.own}
    assert len(pairs) == 2  # CAC counts in the correction
    assert compared["p_holm"] == pairs["softmax"].corrected
    assert compared["mean"] == pytest.approx(pairs["softmax"].found.difference.mean)
    assert compared["level"] == 0.025
    assert found.verdicts["a"] == found.verdicts["c"] == found.verdicts["n"].replace("undecided", "holds") == "holds"
    assert set(found.verdicts) == set(CLAIM_TEXTS)


def test_classes_are_told_by_their_ids(entries):
    read = entry_probe(read_entry(entries / "m-OvR-1"))
    assert read["known_classes"].tolist() == list(KNOWN[1])
    assert set(read["labels_unknown"].tolist()) == {1, 2, 4, 6}
    assert entry_probe(read_entry(entries / "CAC-0")) is None


def copied(entries, tmp_path, **fields):
    """An entry with another manifest."""
    copy = tmp_path / "copy"
    shutil.copytree(entries / "m-OvR-0", copy)
    manifest = json.loads((copy / "manifest.json").read_text()) | fields
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


@pytest.mark.parametrize("fields", [{"family": "random"}, {"family": "custom", "dataset": "mine"}])
def test_of_a_split_that_no_family_lists_no_class_is_known_elsewhere(entries, tmp_path, fields):
    assert (entry_probe(read_entry(copied(entries, tmp_path, **fields)))["known_classes"] < 0).all()


DAMAGED = {
    "has jnd of shape [0], not [6]": {"jnd": ...},
    "has norms_known of shape [6, 3], not [6, 24]": {"norms_known": np.ones((6, 3))},
    "has norms_unknown that is not finite": {"norms_unknown": np.full((6, IMAGES), np.nan)},
    "has auroc that is not finite or no number": {"auroc": np.array(["a"] * 6)},
    "has jnd that is not that of its norms": {"jnd": np.full(6, 5.0)},
    "has norm_known that is not that of its norms": {"norm_known": np.full(6, 5.0)},
    "holds no probe of steps, images and lines": {"labels_known": np.full(IMAGES, 6)},
}


@pytest.mark.parametrize("message", list(DAMAGED))
def test_a_probe_that_is_none_is_refused_in_one_line(message, entries, tmp_path):
    copy = copied(entries, tmp_path)
    with np.load(copy / "probe.npz") as stored:
        arrays = {name: array for name, array in (dict(stored) | DAMAGED[message]).items() if array is not ...}
    np.savez(copy / "probe.npz", **arrays)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["probe.npz"] = file_sha256(copy / "probe.npz")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        entry_probe(read_entry(copy))
    assert "\n" not in str(error.value)


def test_probes_of_a_method_at_other_steps_are_refused_in_one_line(entries, tmp_path):
    cut = shutil.copytree(entries, tmp_path / "entries") / "m-OvR-2"
    axis = ("steps", "norms_known", "norms_unknown", "path_lengths", "path_length", "jnd", "norm_known", "norm_unknown")
    axis += ("davies_bouldin", "intra_distance", "inter_distance", "auroc", "accuracy")
    with np.load(cut / "probe.npz") as stored:
        arrays = {name: array[:-1] if name in axis else array for name, array in stored.items()}
    np.savez(cut / "probe.npz", **arrays)
    manifest = json.loads((cut / "manifest.json").read_text())
    manifest["files"]["probe.npz"] = file_sha256(cut / "probe.npz")
    (cut / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"m-OvR-2 was probed .*m-OvR-0 at \[0, 10.*: leave one out") as error:
        tables(cut.parent)
    assert "\n" not in str(error.value)


def test_splits_without_an_entry_and_corrected_p_values_are_told(entries):
    found = report.claims_texts(tables(entries))
    assert "m-OvR 3, softmax 3 of 3, 2 of the family's 5 without an entry" in " ".join(found.text.split())
    (table,) = report.entry_tables([read_entry(place) for place in sorted(entries.iterdir())])
    (pair,) = (p for p in report.paired_verdicts(table, "m-OvR") if p.own and p.other == "softmax")
    assert f"Holm's p {pair.corrected:.2g}" in found.blocks["g"]


def test_below_the_accuracy_of_the_data_set_there_is_no_verdict(entries, tmp_path):
    draws = np.random.default_rng(1)
    for split in range(3):
        write(tmp_path / str(split), draws, "m-OvR", split, accuracy=0.98)  # above 0.85, below that of MNIST
    (found,) = tables(tmp_path)
    assert {verdict for letter, verdict in found.verdicts.items() if letter not in ("g", "i1")} == {
        "no verdict: accuracy"
    }
    assert found.verdicts["g"] == "no run"
    with pytest.raises(ValueError, match=r"have no probe\.npz"):
        report.claim_tables([read_entry(entries / "CAC-0")])


def test_the_script_writes_every_format_and_figure(entries, tmp_path, capsys):
    out = tmp_path / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_script("claims").main([str(entries), "--out", str(out), "--format", "markdown"]) == 0
    printed = capsys.readouterr()
    assert "9 entries" in printed.err
    page = (out / "claims.md").read_text()
    assert page == f"# Claims\n\n{printed.out}"
    assert [line for line in page.splitlines() if len(line) > 150 and not line.startswith("|")] == []
    for letter, text in CLAIM_TEXTS.items():
        assert f"## ({letter}) {text}" in page
        assert f"({letter}) {text}; figures: " in (out / "claims.txt").read_text()
    assert "m-OvR 3, softmax 3 of 3" in page
    drawn = {path.name for path in (out / "figures").iterdir()}
    assert drawn == {f"mnist-neal-{name}.{kind}" for name in CLAIM_FIGURES for kind in ("png", "svg")}
    stored = json.loads((out / "claims.json").read_text())
    (table,) = stored["tables"]
    assert (table["accuracy_threshold"], table["probed_runs"], len(stored["entries"])) == (0.99, 6, 9)
    lines = list(csv.DictReader((out / "claims.csv").read_text().splitlines()))
    assert len(lines) == len(table["effects"])
    for line, record in zip(lines, table["effects"], strict=True):
        assert (line["effect"].removeprefix("'"), line["verdict"]) == (record["effect"], record["verdict"])
        assert record["mean"] is None or float(line["mean"]) == record["mean"]


def test_the_script_draws_what_is_there_of_a_study(entries, tmp_path):
    out, copy = tmp_path / "out", copied(entries, tmp_path, study="halves")
    assert load_script("claims").main([str(copy), "--out", str(out)]) == 0
    stems = ("mnist-neal-halves", "mnist-neal-halves-steps")
    assert {path.name for path in (out / "figures").iterdir()} == {
        f"{s}.{kind}" for s in stems for kind in ("png", "svg")
    }
    assert "\n\nFigures: halves (i, i0), halves-steps (i, i0).\n\n" in (out / "claims.md").read_text()


def test_the_recipe_answers_for_data_that_no_method_was_trained_on(entries):
    methods = [read_entry(place) for place in sorted(entries.iterdir())]
    arms = [entry._replace(manifest=entry.manifest | {"study": "recipe"}) for entry in methods]
    assert report.claim_entries([*methods, *arms]) == methods
    fashion = dict.fromkeys(("dataset", "unknown"), "fashion_mnist")
    elsewhere = [entry._replace(manifest=entry.manifest | fashion) for entry in arms]
    found = report.claim_entries([*elsewhere, *methods])
    assert found[: len(methods)] == methods
    assert {entry.manifest["label"] for entry in found[len(methods) :]} == {"m-OvR", "softmax"}
    assert [table.name for table in report.claim_tables(found)] == ["fashion_mnist-neal", "mnist-neal"]
    halves = [entry._replace(manifest=entry.manifest | {"study": "halves"}) for entry in elsewhere]
    bare = [entry._replace(manifest=entry.manifest | {"files": {}}) for entry in elsewhere]
    assert report.claim_entries([*methods, *halves, *bare]) == methods


def test_what_would_change_a_verdict():
    def record(values, accuracy=0.95):
        values = np.array(values)[:, None]
        arm = {"claim": "a", "name": "x", "arm": "y", "expected": 1}
        return effect(values, ~np.isnan(values), [np.full_like(values, accuracy)], **arm, gate=0.9)

    needed = 10  # Cohen: an effect of one deviation
    for values, wanted in (
        ([0.0, 1.0, 2.0], f"holds with {needed} splits, if mean and spread stay"),
        ([0.0, -1.0, -2.0], f"fails with {needed} splits, if mean and spread stay"),
        ([9.0, 10.0, 11.0], "a mean within 2.484 of 0 at this spread"),  # t = 4.303 / sqrt 3
        ([1.0], "a second split"),
        ([-1.0, 1.0], "another mean"),
        ([np.nan], "runs"),
    ):
        assert report.what_would_change(record(values), gate=0.9) == wanted
    assert report.what_would_change(record([1.0, 2.0], 0.85), gate=0.9) == "an accuracy of 0.9 (now 0.850)"


@pytest.mark.parametrize(("place", "message"), [("nowhere", "is no directory"), ("empty", "holds no entry")])
def test_refusals_are_one_line(place, message, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert load_script("claims").main([str(tmp_path / place), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
