"""Entries of a leaderboard: written from runs, read with every number rebuilt, refused where not whole."""

import csv
import hashlib
import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import load_script
from sklearn.metrics import roc_auc_score

from osrjax.data.splits import nested_split
from osrjax.models.backbones import NETWORKS, SmallCNN
from osrjax.run.entries import entry_corruption, entry_probe, find_entries, keep_corruption, read_entry
from osrjax.run.history import training_seconds
from osrjax.run.parsing import parse

METHODS = Path(__file__).parents[1] / "methods"
OWN_SCORE = """
import numpy as np

def length(rows, train, labels):
    return -np.linalg.norm(rows["logits"], axis=1)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a method of one's own on the digits, tiny and probed."""
    out = tmp_path_factory.mktemp("entries") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(METHODS))
        patch.setitem(NETWORKS, "small_cnn", partial(SmallCNN, width=4, features=16))
        options = ["--smoke", "--method", "focal_method:focal", "--resamples", "0", "--devices", "1", "--steps", "4"]
        probe = ["--probe-every", "4", "--probe-images", "6", "--probe-pairs", "1"]
        assert load_script("train").main([*options, *probe, "--out", str(out)]) == 0
        (out.parent / "own_length.py").write_text(OWN_SCORE)
        patch.syspath_prepend(str(out.parent))
        yield out


@pytest.fixture(scope="module")
def entry(run):
    out = run.parent / "entry"
    options = ["--images", "--own-method", "focal_method:focal", "--own", "own_length:length", "--label", "focal"]
    assert load_script("evaluate").main([str(run), *options, "--resamples", "0", "--out", str(out)]) == 0
    return out


def test_a_strangers_method_and_score_become_an_entry_like_any_other(run, entry):
    found = read_entry(entry)
    assert (found.manifest["label"], found.manifest["dataset"], found.manifest["score"]) == ("focal", "digits", "focal")
    assert {"focal", "own_length:length", "knn_sum", "vim", "react", "energy"} <= set(found.results)
    stored = json.loads((entry / "results.json").read_text())["scores"]
    for name, metrics in stored.items():
        for metric, value in metrics.items():
            if metric == "rejected":
                assert [found.results[name][f"rejected_{part}"] for part in ("known", "unknown")] == [*value.values()][
                    1:
                ]
            elif metric != "threshold":
                assert found.results[name][metric] == value["value"]
    trained = json.loads((run / "results.json").read_text())["trained"]["scores"]
    assert found.results["focal"]["auroc"] == trained["focal"]["auroc"]["value"]
    with np.load(run / "scores.npz") as arrays:
        lengths = [-np.linalg.norm(arrays[f"{part}_logits"], axis=1) for part in ("known", "unknown")]
    wanted = roc_auc_score(np.repeat([0, 1], list(map(len, lengths))), np.concatenate(lengths))
    assert found.results["own_length:length"]["auroc"] == pytest.approx(wanted, abs=1e-3)


def test_both_appear_in_a_leaderboard(entry, tmp_path, capsys):
    assert load_script("leaderboard").main([str(entry), "--out", str(tmp_path)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("focal ")]
    assert ["focal", "focal", "*"] in [row[:3] for row in rows]
    assert "own_length:length" in {row[1] for row in rows}
    stored = csv.DictReader((tmp_path / "leaderboard.csv").read_text().splitlines())
    (row,) = [row for row in stored if row["score"] == "own_length:length"]
    assert float(row["auroc"]) == pytest.approx(read_entry(entry).results["own_length:length"]["auroc"])


def test_a_manifest_says_what_was_trained_and_nothing_of_the_machines_folders(run, entry):
    found = read_entry(entry).manifest
    assert found["config"]["method"] == "focal_method:focal"
    assert found["config"]["steps"] == 4
    assert set(found["files"]) == {"scores.npz", "probe.npz"}
    assert found["sha256"] == json.loads((run / "provenance.json").read_text())["sha256"]
    assert found["versions"]["jax"]
    assert str(run.parent) not in (entry / "manifest.json").read_text()


def test_a_probe_of_a_collapsed_network_comes_along(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    with np.load(copy / "probe.npz") as stored:
        arrays = dict(stored)
    np.savez(copy / "probe.npz", **{**arrays, "davies_bouldin": np.full_like(arrays["davies_bouldin"], np.inf)})
    options = ["--own-method", "focal_method:focal", "--resamples", "0", "--out", str(tmp_path / "out")]
    assert load_script("evaluate").main([str(copy), *options]) == 0
    with np.load(tmp_path / "out" / "probe.npz") as kept:
        assert np.isinf(kept["davies_bouldin"]).all()
        np.testing.assert_allclose(kept["embedding_known"], arrays["embedding_known"], atol=1e-3)


def test_seconds_of_a_training_are_those_of_its_steps(tmp_path):
    lines = [{"step": 10, "train/images_per_second": 50.0}, {"step": 10, "validation/accuracy": 1.0}]
    lines += [{"step": 30, "train/images_per_second": 200.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert training_seconds(tmp_path, batch_size=5) == pytest.approx(10 * 5 / 50 + 20 * 5 / 200)
    assert training_seconds(tmp_path / "nowhere", batch_size=5) is None


def test_foreign_sets_are_entries_of_their_own(run, tmp_path, rng):
    pixels = rng.integers(0, 256, (30, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", test_images=pixels, test_labels=np.arange(30) % 3)
    options = ["--own-method", "focal_method:focal", "--resamples", "0", "--out", str(tmp_path / "out")]
    assert load_script("evaluate").main([str(run), "--against", f"npz:{tmp_path}/noise.npz", *options]) == 0
    (place,) = find_entries([tmp_path])
    found = read_entry(place)
    assert (place.name, found.manifest["unknown"]) == ("noise", "noise")
    assert found.manifest["images"]["test_unknown"] == 30
    assert list(found.manifest["files"]) == ["scores.npz"]  # the probe looked at other unknown images


def changed(entry, tmp_path, **fields):
    """A copy with another manifest."""
    copy = tmp_path / "copy"
    shutil.copytree(entry, copy)
    manifest = json.loads((copy / "manifest.json").read_text()) | fields
    (copy / "manifest.json").write_text(json.dumps({name: value for name, value in manifest.items() if value != ...}))
    return copy


BAD = {
    "has no family": {"family": None},
    "has split='first'": {"split": "first"},
    "has format=2": {"format": 2},
    "names no scores.npz": {"files": {}},
    "names a file '../x'": {"files": {"scores.npz": 0, "../x": "0"}},
    "scores.npz is not the file whose checksum": {"files": {"scores.npz": "0"}},
    "has score='none', scores.npz only": {"score": "none"},
    "has study=[1], which is no name": {"study": [1]},
}


@pytest.mark.parametrize("message", list(BAD))
def test_a_manifest_that_does_not_fit_is_refused_in_one_line(message, entry, tmp_path):
    fields = BAD[message]
    copy = changed(entry, tmp_path, **fields)
    if fields == {"family": None}:
        manifest = json.loads((copy / "manifest.json").read_text())
        del manifest["family"]
        (copy / "manifest.json").write_text(json.dumps(manifest))
    if "../x" in fields.get("files", {}):
        real = json.loads((entry / "manifest.json").read_text())["files"]["scores.npz"]
        (copy / "manifest.json").write_text(
            (copy / "manifest.json").read_text().replace('"scores.npz": 0', f'"scores.npz": "{real}"')
        )
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_entry(copy)
    assert "\n" not in str(error.value)


def test_scores_that_were_changed_are_noticed(entry, tmp_path):
    copy = changed(entry, tmp_path)
    with (copy / "scores.npz").open("ab") as file:
        file.write(b"0")
    with pytest.raises(ValueError, match=r"scores\.npz is not the file whose checksum stands in manifest\.json"):
        read_entry(copy)
    with pytest.raises(ValueError, match="holds no entry: give directories"):
        find_entries([tmp_path / "nowhere"])


def test_scores_of_other_images_than_the_rest_are_refused(entry, tmp_path):
    with np.load(entry / "scores.npz") as stored:
        arrays = dict(stored)
    manifest = json.loads((entry / "manifest.json").read_text())
    shorter = {name: rows[:, 1:] if name == "energy" else rows for name, rows in arrays.items()}
    cases = {"one": (shorter, "its scores are of different images")}
    every = {name: rows[:, rows[0] != rows[0].max()] for name, rows in arrays.items()}  # one unknown class fewer
    cases["all"] = every, f"has {manifest['images']['test_unknown']} test images of unknown classes, scores.npz"
    for name, (kept, message) in cases.items():
        copy = tmp_path / name
        shutil.copytree(entry, copy)
        np.savez_compressed(copy / "scores.npz", **kept)
        checksum = hashlib.sha256((copy / "scores.npz").read_bytes()).hexdigest()
        files = manifest["files"] | {"scores.npz": checksum}
        (copy / "manifest.json").write_text(json.dumps(manifest | {"files": files}))
        with pytest.raises(ValueError, match=message) as error:
            read_entry(copy)
        assert "\n" not in str(error.value)


def test_nothing_is_found_or_read_through_a_link_and_no_name_is_anything_but_text(entry, tmp_path):
    (tmp_path / "board").mkdir()
    (tmp_path / "board" / "elsewhere").symlink_to(entry)
    with pytest.raises(ValueError, match="holds no entry: give directories"):
        find_entries([tmp_path / "board"])
    assert find_entries([tmp_path / "board" / "elsewhere"])  # the user has named that one
    copy = changed(entry, tmp_path, known_names=[{}])
    with pytest.raises(ValueError, match="has known_names that are no text"):
        read_entry(copy)
    (copy / "manifest.json").unlink()
    (copy / "manifest.json").symlink_to(entry / "manifest.json")
    with pytest.raises(ValueError, match=r"manifest\.json is a link, and nothing is read through one"):
        read_entry(copy)


def test_scores_that_would_fill_the_memory_are_not_unpacked(entry, tmp_path):
    copy = changed(entry, tmp_path)
    np.savez_compressed(copy / "scores.npz", focal=np.zeros((3, 2**25), np.uint8))  # 100 KB
    files = {"scores.npz": hashlib.sha256((copy / "scores.npz").read_bytes()).hexdigest()}
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"files": files}))
    with pytest.raises(ValueError, match=r"scores\.npz cannot be read, .*would take 96 MiB"):
        read_entry(copy)


CORRUPTED = ["--images", "5", "--severities", "1", "5", "--corruptions", "fog", "shot_noise", "--resamples", "0"]


def corrupt(run, directory):
    own = ["--own-method", "focal_method:focal"]
    return load_script("corruption").main([str(run), *CORRUPTED, *own, "--entry", str(directory)])


@pytest.fixture(scope="module")
def corrupted(run, entry, tmp_path_factory):
    """The entry with accuracies on corrupted images."""
    copy = tmp_path_factory.mktemp("corrupted") / "entry"
    shutil.copytree(entry, copy)
    assert corrupt(run, copy) == 0
    return copy


def test_corrupted_images_become_part_of_an_entry_and_of_the_leaderboard(run, entry, corrupted, tmp_path, capsys):
    read, before = read_entry(corrupted), read_entry(entry)
    assert read.results == before.results
    assert read.manifest == before.manifest | {"files": read.manifest["files"]}
    assert str(run.parent) not in (corrupted / "corruption.json").read_text()
    found = entry_corruption(read)
    assert entry_corruption(before) is None
    assert (found["images"], found["severities"], set(found["accuracy"])) == (30, [1, 5], {"fog", "shot_noise"})
    cells = [value for row in found["accuracy"].values() for value in row.values()]
    assert found["mean_accuracy"]["value"] == pytest.approx(np.mean(cells))
    assert load_script("leaderboard").main([str(corrupted), "--out", str(tmp_path)]) == 0
    numbers = json.loads((tmp_path / "leaderboard.json").read_text())["tables"][0]["corruption"]
    assert numbers["methods"]["focal"]["noise"]["mean"] == pytest.approx(np.mean(cells[2:]))
    assert "30 test images, 2 corruptions at 1, 5 (generated, seed 0)" in capsys.readouterr().out
    options = ["--images", "--own-method", "focal_method:focal", "--label", "focal", "--resamples", "0"]
    copy = tmp_path / "again"
    shutil.copytree(corrupted, copy)
    assert load_script("evaluate").main([str(run), *options, "--out", str(copy)]) == 0
    assert entry_corruption(read_entry(copy)) is None  # what was measured before is not of the entry that was made now


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"severities": [1, 6]}, "corruptions or severities that do not exist"),
        ({"accuracy": {"fog": {"1": 0.5, "5": 1.5}}}, "or such that are no shares"),
        ({"accuracy": {}}, "it has no accuracies"),
        ({"images": None}, "it does not say which images"),
        ({"mean_accuracy": 0.5}, "it is cut or damaged"),
    ],
)
def test_a_damaged_file_of_corrupted_images_is_refused(fields, message, corrupted, tmp_path):
    found = entry_corruption(read_entry(corrupted))
    copy = tmp_path / "copy"
    shutil.copytree(corrupted, copy)
    keep_corruption(copy, found | fields)
    with pytest.raises(ValueError, match=message) as error:
        entry_corruption(read_entry(copy))
    assert "\n" not in str(error.value)
    (copy / "corruption.json").write_text("{}")
    with pytest.raises(ValueError, match=r"corruption\.json is not the file whose checksum stands in manifest\.json"):
        read_entry(copy)


def test_corrupted_images_go_into_no_other_entry(run, entry, tmp_path, capsys):
    copy = changed(entry, tmp_path, seed=1)
    assert corrupt(run, copy) == 2
    assert f"entry={str(copy)!r} has another seed than {run}: give that of the run" in capsys.readouterr().err
    assert corrupt(run, tmp_path) == 2
    assert "holds no manifest.json: make it with experiments/evaluate.py" in capsys.readouterr().err
    words = [str(run), "--entry", str(entry), "--out", str(tmp_path)]
    assert load_script("corruption").main(words) == 2
    assert f"out={str(tmp_path)!r} with entry={str(entry)!r}: give one of them" in capsys.readouterr().err
    assert not list(tmp_path.rglob("corruption.json"))


def test_nothing_is_written_through_a_link_in_a_run(run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (tmp_path / "elsewhere").mkdir()
    (copy / "evaluation").symlink_to(tmp_path / "elsewhere")
    assert load_script("evaluate").main([str(copy), "--own-method", "focal_method:focal", "--resamples", "0"]) == 2
    assert "run/evaluation is a link, and nothing is written through one" in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_scores_of_the_function_and_its_images_come_along_where_asked_for(run, tmp_path):
    options = ["--images", "--own-method", "focal_method:focal", "--image-scores", "jacobian_norm", "--resamples", "0"]
    assert load_script("evaluate").main([str(run), *options, "--out", str(tmp_path / "out")]) == 0
    found = read_entry(tmp_path / "out").results
    assert found["jacobian_norm"]["closed_set_accuracy"] == found["focal"]["closed_set_accuracy"]
    assert 0 <= found["jacobian_norm"]["auroc"] <= 1


REFUSED = {
    "image_scores=('odin',) belongs to a run": ["--image-scores", "odin"],
    "images=True belongs to a run": ["--images"],
    "against=('npz:a.npz',) belongs to a run": ["--against", "npz:a.npz"],
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_what_belongs_to_runs_is_refused_of_files(message, tmp_path, capsys):
    (tmp_path / "outputs.npz").write_bytes(b"")
    assert load_script("evaluate").main([str(tmp_path / "outputs.npz"), *REFUSED[message]]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--family", "neal"], ["--split", "3"], ["--seed", "7"], ["--cosines", "16"]])
def test_what_a_run_knows_of_itself_is_refused(words, run, tmp_path, capsys):
    assert load_script("evaluate").main([str(run), *words, "--out", str(tmp_path / "out")]) == 2
    assert "is known of a run: leave it out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_evaluation_never_replaces_the_files_of_a_run(run, tmp_path, capsys):
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    np.savez(tmp_path / "outputs.npz", known_logits=np.eye(3))
    for subject in (run, tmp_path / "outputs.npz"):
        assert load_script("evaluate").main([str(subject), "--out", str(run)]) == 2
        assert f"out={str(run)!r} is a run" in capsys.readouterr().err
    assert before == {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}


def test_a_benchmark_skips_what_has_its_manifest(run, entry, tmp_path, capsys):
    benchmark, cells = load_script("benchmark"), tmp_path / "entries" / "mnist-neal"
    asked = ["mnist", "--methods", "m-OvR", "SupCon", "--splits", "0", "--entries", str(tmp_path / "entries")]
    assert benchmark.main([*asked, "--dry"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["missing", "missing"]
    recipe = said[0].partition(": ")[2]
    assert recipe.startswith("train.py ")
    assert "contrastive.py" in said[1]
    shutil.copytree(changed(entry, tmp_path, recipe=recipe), cells / "m-OvR-0-0")
    assert benchmark.main([*asked, "--dry"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["done", "missing"]
    assert benchmark.main([*asked[:3], *asked[4:], "--runs", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert "1 of 1 cells are done" in said
    assert f"\npage: {cells / 'page.html'}" in said
    assert said.endswith(f"\nnext: python experiments/leaderboard.py {tmp_path / 'entries'}\n")
    assert benchmark.main([*asked, "--dry", "--options", "epochs=2"]) == 2
    assert "was made by" in capsys.readouterr().err


def test_images_that_are_not_there_start_nothing(tmp_path, capsys):
    asked = ["mnist", "--data", "npz:nowhere.npz", "--entries", str(tmp_path / "entries"), "--runs", str(tmp_path)]
    assert load_script("benchmark").main(asked) == 2
    assert capsys.readouterr().err == (
        "benchmark.py: data='npz:nowhere.npz' does not exist: give a file or folder that does\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_cell_of_a_method_that_has_changed_since_is_not_done(entry, tmp_path, capsys):
    asked = [
        "mnist",
        "--splits",
        "0",
        "--entries",
        str(tmp_path / "entries"),
        "--methods",
        "focal_method:focal",
        "--dry",
    ]
    benchmark = load_script("benchmark")
    assert benchmark.main(asked) == 0
    recipe = capsys.readouterr().out.partition(": ")[2].strip()
    cell = tmp_path / "entries" / "mnist-neal" / "focal_method.focal-0-0"
    shutil.copytree(changed(entry, tmp_path, recipe=recipe), cell)
    assert benchmark.main(asked) == 0
    assert capsys.readouterr().out.startswith("done ")
    source = read_entry(cell).manifest["method_source"]
    path = cell / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"method_source": dict.fromkeys(source, "another")}))
    assert benchmark.main(asked) == 2
    assert "was made before methods='focal_method:focal' was changed: delete it" in capsys.readouterr().err


PROTOCOLS = {
    "methods='none' does not exist": ["mnist", "--methods", "none"],
    "seeds=0": ["mnist", "--seeds", "0"],
    "with protocol='ood': give sets": ["ood"],
    "with protocol='mnist': give sets": ["mnist", "--against", "npz:a.npz"],
    "family='cac' has no lists for 'mnist'": ["mnist", "--family", "cac"],
    "family='nael' has no lists for 'mnist'": ["mnist", "--family", "nael"],
    "index=99 does not exist in neal/mnist: it has splits 0 to 4": ["mnist", "--splits", "0", "99"],
    "options='--epochs' is no NAME=VALUE": ["mnist", "--options=--epochs"],
    "probe_seed=1 is none of 1 seeds": ["mnist", "--probe", "softmax", "--probe-seed", "1"],
    "only=0 starts nothing": ["mnist", "--only", "0"],
    "methods='OvR' does not exist: choose from m-OvR, intra half": ["mnist", "--study", "halves", "--methods", "OvR"],
    "methods='a:b' does not exist": ["mnist", "--study", "recipe", "--methods", "a:b"],
    "study='halves' with protocol='cifar+N' has one set": ["cifar+N", "--study", "halves"],
    "family='cac' does nothing with study='classes'": ["mnist", "--study", "classes", "--family", "cac"],
    "order=-1 is negative": ["mnist", "--study", "classes", "--splits=-1"],
    "with protocol='mnist': give sets of unknown images to gray, ood and crops and to the studies of mixing": [
        *("mnist", "--study", "halves", "--against", "npz:a.npz")
    ],
    "methods='m-OvR/../x:y' does not exist": ["mnist", "--methods", "m-OvR/../x:y"],
    "'nowhere:focal' cannot be imported": ["mnist", "--methods", "nowhere:focal"],
    "splits=(0, 1) with protocol='gray', whose": ["gray", "--splits", "0", "1", "--against", "npz:a.npz"],
    "family='cac' with protocol='gray', whose": ["gray", "--family", "cac", "--against", "npz:a.npz"],
    "unknown_data='npz:a.npz' is for protocol='cifar+N'": ["mnist", "--unknown-data", "npz:a.npz"],
    "study='mixing' with protocol='ood' has one set": ["ood", "--study", "mixing", "--against", "npz:a.npz"],
}


@pytest.mark.parametrize("message", list(PROTOCOLS))
def test_protocols_that_do_not_exist_are_refused_in_one_line(message, capsys):
    assert load_script("benchmark").main([*PROTOCOLS[message], "--dry"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_commands_of_a_cell_say_where_its_images_are(tmp_path, monkeypatch):
    benchmark = load_script("benchmark")
    where = ["--entries", str(tmp_path), "--runs", str(tmp_path / "runs"), "--methods", "softmax"]
    parsed = []
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c10", "c100"):
        (tmp_path / f"{name}.npz").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("osrjax.run.grid.run_commands", lambda cells, **_: parsed.extend(cells.values()) or [])
        assert benchmark.main(["cifar+N", "--data", "npz:c10.npz", "--unknown-data", "npz:c100.npz", *where]) == 0
        assert benchmark.main(["ood", "--data", "npz:c10.npz", "--against", "npz:a.npz", "npz:b.npz", *where]) == 0
    both, foreign = parsed
    assert [" ".join(words).count("--unknown-data npz:c100.npz") for words in both] == [1, 0, 0]
    assert [word for words in both[1:] for word in words if word in ("cifar+10", "cifar+50")] == [
        "cifar+10",
        "cifar+50",
    ]
    assert foreign[1][foreign[1].index("--against") + 1 :][:2] == ["npz:a.npz", "npz:b.npz"]
    assert sys.executable not in foreign[0]


MIXING = {"mixing": ("GradMix +1", "contrastive.py"), "mixing-m-ovr": ("m-OvR GradMix +1", "train.py")}


@pytest.mark.parametrize("study", MIXING)
def test_cells_of_mixing_see_corrupted_images_and_other_sets(study, tmp_path, monkeypatch, capsys):
    benchmark, started = load_script("benchmark"), []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("osrjax.run.grid.run_commands", lambda cells, **_: started.extend(cells.items()) or [])
    label, script = MIXING[study]
    words = ["fashion_mnist", "--study", study, "--methods", label, "--splits", "0", "--entries", "kept", "--runs", "r"]
    against = ["--against", "npz:here/a.npz", "npz:a_b.npz"]
    assert benchmark.main([*words, *against]) == 2
    assert "against='npz:here/a.npz' does not exist: give a file or folder that does" in capsys.readouterr().err
    assert benchmark.main([*words, "--against", "fashion_mnist"]) == 2
    assert "against='fashion_mnist' is the data itself, whose classes are known" in capsys.readouterr().err
    (tmp_path / "here").mkdir()
    for place in ("here/a.npz", "a_b.npz"):
        (tmp_path / place).touch()
    assert benchmark.main(words) == benchmark.main([*words, *against]) == 0
    (_, short), (run, commands) = started
    assert commands[:3] == short
    train, score, corruption, foreign = commands
    cell = Path("kept") / "fashion_mnist-neal" / f"{label}-0-0".replace(" ", "_")
    assert [Path(command[0]).name for command in commands] == [script, "evaluate.py", "corruption.py", "evaluate.py"]
    assert [train[-1], *(command[1] for command in commands[1:])] == [str(run)] * 4
    assert corruption[-2:] == ["--entry", str(cell)]
    assert foreign[foreign.index("--against") :] == [*against, "--out", str(cell)]
    assert {command[command.index("--study") + 1] for command in (score, foreign)} == {study}
    for command in commands:
        module = load_script(Path(command[0]).stem)
        config = vars(sys.modules[module.main.__module__])["Config"]
        parse(config, command[1:], presets=vars(module).get("PRESETS") if command == train else None)


def test_a_cell_of_mixing_is_done_with_all_that_is_asked(tmp_path, monkeypatch, capsys):
    benchmark, cell = load_script("benchmark"), tmp_path / "kept" / "mnist-neal" / "no_mixing-0-0"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("osrjax.run.grid.run_commands", lambda cells, **_: [])
    monkeypatch.setattr("osrjax.report.leave_page", lambda *_, **__: None)
    words = [
        "mnist",
        "--study",
        "mixing",
        "--methods",
        "no mixing",
        "--splits",
        "0",
        "--entries",
        "kept",
        "--runs",
        "r",
    ]
    against = ["--against", "npz:a.npz", "npz:a_b.npz"]

    def is_done(*more):
        assert benchmark.main([*words, *more, "--dry"]) == 0
        state, recipe = re.fullmatch(r"(\w+) +[^:]+: (.*)\n", capsys.readouterr().out).groups()
        return state == "done", recipe

    recipe = is_done()[1]

    def make(place, *files):
        place.mkdir(parents=True, exist_ok=True)
        manifest = {"recipe": recipe, "files": dict.fromkeys(files, "0")}
        (place / "manifest.json").write_text(json.dumps(manifest))

    make(cell, "scores.npz")
    assert not is_done()[0]
    make(cell, "scores.npz", "corruption.json")
    assert is_done()[0]
    make(cell / "a_b", "scores.npz")
    assert not is_done(*against)[0]  # a_b is not a
    make(cell / "a", "scores.npz")
    assert is_done(*against)[0]
    shutil.rmtree(cell / "a")
    make(cell / "a train", "scores.npz")
    assert is_done(*against)[0]  # of a set without test images, its parts
    for name in ("a", "a_b", "c"):
        (tmp_path / f"{name}.npz").touch()
    said = "1 cells lack some of this, and their runs are gone: they are trained again\n"
    assert benchmark.main([*words, "--against", "npz:c.npz"]) == 0
    assert said in capsys.readouterr().out
    (tmp_path / "r" / "mixing" / "mnist-neal" / "no_mixing-0-0").mkdir(parents=True)
    assert benchmark.main([*words, "--against", "npz:c.npz"]) == 0
    assert said not in capsys.readouterr().out


STUDIES = {"halves": (6, 500), "recipe": (16, 500), "classes": (4, 500)}
STUDIES |= {"mixing": (6, 700), "mixing-m-ovr": (3, 500), "mixing-softmax": (3, 500)}


@pytest.mark.parametrize("study", STUDIES)
def test_the_cells_of_a_study_are_shorter_and_take_their_options(study, capsys):
    arms, steps = STUDIES[study]
    benchmark = load_script("benchmark")
    scripts = {name: load_script(name) for name in ("train", "contrastive")}
    assert benchmark.main(["fashion_mnist", "--study", study, "--dry", "--seeds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == arms * 5 * 2
    place = Path(benchmark.__file__).parent / "results" / "studies" / study
    family = "orders" if study == "classes" else "neal"
    assert all(f" {place}/fashion_mnist-{family}/" in line for line in lines)
    found = {tuple(line.split(": ", 1)[1].split()) for line in lines}
    for script, *options in found:
        name = script.removesuffix(".py")
        config = parse(scripts[name].Config, options, presets=scripts[name].PRESETS)
        assert config.steps == (5000 if study == "classes" else steps)  # fewer are no verdict on this set
    assert len(found) == (arms * 5 if study == "classes" else arms)  # the class lists are part of the recipe


def run_here(cells, **_):
    """In place of run_commands: in this process."""
    for words in (words for commands in cells.values() for words in commands):
        assert load_script(Path(words[0]).stem).main(words[1:]) == 0
    return []


def make_noise(path, rng):
    """A set of ten classes; 100 known and 100 unknown images are probed."""
    sets = {"train": 200, "test": 600}
    pixels = {f"{part}_images": rng.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8) for part, n in sets.items()}
    labels = {f"{part}_labels": np.arange(n) % 10 for part, n in sets.items()}
    np.savez(path, **pixels, **labels)
    return f"npz:{path}"


def test_a_cell_of_a_study_in_miniature(tmp_path, rng, capsys):
    """Through train.py and evaluate.py to the claims, which lack the other numbers of classes."""
    benchmark = load_script("benchmark")

    data = make_noise(tmp_path / "noise.npz", rng)
    where = [
        "--data",
        data,
        "--entries",
        str(tmp_path / "entries"),
        "--runs",
        str(tmp_path / "runs"),
    ]
    cell = ["--study", "classes", "--methods", "K 4", "--splits", "2", "--options", "steps=1", "batch_size=32"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "small_cnn", partial(SmallCNN, width=4, features=16))
        patch.setattr("osrjax.run.grid.run_commands", run_here)
        assert benchmark.main(["mnist", *cell, *where, "--workers", "1"]) == 0
    assert f"next: python experiments/claims.py {tmp_path / 'entries'}" in capsys.readouterr().out
    (place,) = find_entries([tmp_path / "entries"])
    assert place == tmp_path / "entries" / "mnist-orders" / "K_4-2-0"
    split, manifest = nested_split(2, 4), read_entry(place).manifest
    assert (manifest["study"], manifest["dataset"], manifest["family"], manifest["split"]) == (
        *("classes", "mnist"),
        *("custom", 2),
    )
    assert manifest["known_names"] == [str(k) for k in split.known]
    assert entry_probe(read_entry(place))["steps"].tolist() == [0, 1]
    assert load_script("claims").main([str(tmp_path / "entries"), "--out", str(tmp_path / "out")]) == 0
    (study,) = json.loads((tmp_path / "out" / "claims.json").read_text())["studies"]
    assert study["verdicts"] == {"f": "undefined"}  # of one number of classes


def test_a_cell_of_mixing_in_miniature(tmp_path, rng, capsys):
    """Through corruption.py and another set to the leaderboard's tables."""
    benchmark, study = load_script("benchmark"), "mixing-softmax"
    data, other = (make_noise(tmp_path / f"{name}.npz", rng) for name in ("noise", "other"))
    where = ["--data", data, "--entries", str(tmp_path / "entries"), "--runs", str(tmp_path / "runs")]
    arms = ["softmax random box", "softmax GradMix +1"]
    cells = ["--study", study, "--methods", *arms, "--splits", "0", "--options", "steps=1", "batch_size=32"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "small_cnn", partial(SmallCNN, width=4, features=16))
        patch.setattr("osrjax.run.grid.run_commands", run_here)
        patch.setattr(benchmark, "CORRUPTED", "--images 3 --severities 1 --corruptions fog pixelate --resamples 0")
        assert benchmark.main(["mnist", *cells, *where, "--against", other]) == 0
    assert f"next: python experiments/leaderboard.py {tmp_path / 'entries'}" in capsys.readouterr().out
    names = [label.replace(" ", "_") + "-0-0" for label in arms]
    places = find_entries([tmp_path / "entries"])
    assert {str(place.relative_to(tmp_path / "entries" / "mnist-neal")) for place in places} == {
        *names,
        *(f"{name}/other" for name in names),
    }
    words = ["--reference", arms[1], "--out", str(tmp_path / "out")]
    assert load_script("leaderboard").main([str(tmp_path / "entries"), *words]) == 0
    own, foreign = json.loads((tmp_path / "out" / "leaderboard.json").read_text())["tables"]
    assert (own["unknown"], foreign["unknown"]) == ("mnist", "other")
    assert next((pair["other"], pair["own"]) for pair in foreign["comparisons"]) == (arms[0], True)
    assert set(own["corruption"]["methods"]) == set(arms)
    assert [pair["other"] for pair in own["corruption"]["comparisons"]] == [arms[0]]
    assert foreign["corruption"] == {}
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "18 test images, 2 corruptions at 1 (generated, seed 0)" in text
    kept = [place / name for place in places for name in read_entry(place).manifest["files"] if name.endswith("json")]
    assert len(kept) == 2
    assert str(tmp_path) not in "".join(path.read_text() for path in kept)
