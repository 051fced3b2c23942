"""The tables of compare.py, from run directories written by hand: no training."""

import json

import numpy as np
import pytest
from conftest import EXPERIMENTS, load_script


@pytest.fixture(scope="module")
def compare():
    return load_script("compare")


def finish(compare, root, table, **more):
    """Writes every run of a comparison as contrastive.py would leave it; returns the AUROC of every cell."""
    comparison, config = compare.COMPARISONS[table], compare.Config(table=table, out=root)
    rng, aurocs = np.random.default_rng(0), {}
    for seed in range(comparison.seeds):
        for group in comparison.groups:
            for arm in comparison.arms:
                directory = root / table / f"{arm}-{group}-{seed}".replace(" ", "_")
                directory.mkdir(parents=True)
                options = " ".join(compare.options_of(config, comparison, (arm, group, seed)))
                directory.with_name(directory.name + ".log").write_text(f"python script {options} --out {directory}\n")
                aurocs[arm, group, seed] = rng.uniform()
                scores = {
                    name: {metric: {"value": shift + aurocs[arm, group, seed]} for metric in compare.METRICS}
                    for name, shift in (("knn_sum", 0.0), ("knn_ratio", 1.0))
                }
                (directory / "config.json").write_text(json.dumps({"mixing": arm}))
                results = {"trained": {"scores": scores}, "score": "knn_sum"}
                results |= {key: value for key, value in more.items() if arm != "none"}
                (directory / "results.json").write_text(json.dumps(results))
    return aurocs


def mean(aurocs, arm):
    return np.mean([value for (name, *_), value in aurocs.items() if name == arm])


def test_contrastive_runs_are_tabulated_by_the_score_that_they_name(compare, tmp_path, capsys):
    attribution = {"mass_in_box": 0.5, "mass_in_random_box": 0.25}
    aurocs = finish(compare, tmp_path, "mixing", attribution=attribution, linear_probe={"accuracy": 0.8})
    assert compare.main(["mixing", "--out", str(tmp_path), "--only-table"]) == 0
    text = capsys.readouterr().out
    numbers = json.loads((tmp_path / "mixing.json").read_text())["neal"]
    assert "90 of 90 runs" in text
    assert text.count("knn_sum *") == 6
    *_, page, following = text.splitlines()
    assert page.startswith(f"page: {tmp_path / 'mixing' / 'page.html'}")
    assert following.startswith(f"next: osrjax evaluate {tmp_path / 'mixing'}/")
    assert "median angle" not in text
    assert "linear probe" not in text  # a column of the comparison that asks for it
    assert numbers["GradMix, sign -1 / knn_sum"]["auroc"]["mean"] == pytest.approx(mean(aurocs, "GradMix, sign -1"))
    difference = mean(aurocs, "random box") - mean(aurocs, "Mixup")
    assert numbers["random box - Mixup"]["auroc"]["mean"] == pytest.approx(difference)
    masses = [line.split() for line in text.splitlines() if "0.250 [0.250, 0.250]" in line]
    assert len(masses) == 5  # "none" masks nothing
    assert "none / attribution mass" not in numbers
    assert numbers["CutMix / attribution mass"]["in the box"]["mean"] == 0.5


def test_the_linear_probe_gets_a_column_where_a_comparison_asks_for_it(compare, tmp_path, capsys):
    finish(compare, tmp_path, "ssl", linear_probe={"accuracy": 0.8})
    assert compare.main(["ssl", "--out", str(tmp_path), "--only-table"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert sum("linear probe accuracy" in row for row in rows) == 2  # of the arms and of the differences
    assert sum(row.endswith("0.800 [0.800, 0.800]") for row in rows) == 3  # beside knn_sum alone
    numbers = json.loads((tmp_path / "ssl.json").read_text())["neal"]
    assert numbers["random box - GradMix, sign +1"]["linear probe accuracy"]["mean"] == 0.0
    assert "linear probe accuracy" not in numbers["random box - none"]


def test_a_damaged_file_of_a_run_is_named_with_a_remedy(compare, tmp_path, capsys):
    finish(compare, tmp_path, "mixing")
    damaged = sorted((tmp_path / "mixing").rglob("results.json"))[3]
    damaged.write_text(damaged.read_text()[:-5])
    assert compare.main(["mixing", "--out", str(tmp_path), "--only-table"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"compare.py: {damaged} cannot be read, it is cut or damaged")
    assert error.endswith("delete the run's directory and give the same command again\n")
    assert error.count("\n") == 1


def test_what_ood_and_corruption_found_is_tabulated_beside_the_runs(compare, tmp_path, capsys):
    """Three seeds as three groups: one t interval over three numbers."""
    finish(compare, tmp_path, "mixing-all")
    rng, found = np.random.default_rng(1), {}
    for directory in sorted(path for path in (tmp_path / "mixing-all").iterdir() if path.is_dir()):
        arm = directory.name.rpartition("-seed")[0]
        results = json.loads((directory / "results.json").read_text())
        auroc, detection, first, second = rng.uniform(size=4)
        scores = {name: {"auroc": {"value": shift + auroc}} for name, shift in (("knn_sum", 0.0), ("knn_ratio", 1.0))}
        scores["knn_sum"]["detection_accuracy"] = {"value": detection}
        own = results["trained"]["scores"]["knn_sum"]["auroc"]["value"]
        (directory / "ood").mkdir()
        (directory / "ood" / "ood.json").write_text(json.dumps({"sets": {"npz:/there/other.npz": {"scores": scores}}}))
        corrupted = {
            "images": 7,
            "severities": [1, 5],
            "clean_accuracy": {"value": 0.9},
            "mean_accuracy": {"value": (first + second) / 2},
            "accuracy": {"fog": {"1": first, "5": second}, "frost (procedural)": {"1": 0.0, "5": 0.0}},
        }
        (directory / "corruption-generated").mkdir()
        (directory / "corruption-generated" / "corruption.json").write_text(json.dumps(corrupted))
        found.setdefault(arm, []).append((auroc, detection, own, (first + second) / 2))
    assert compare.main(["mixing-all", "--out", str(tmp_path), "--only-table"]) == 0
    text = capsys.readouterr().out
    numbers = json.loads((tmp_path / "mixing-all.json").read_text())["seed"]
    what = "7 test images, 2 corruptions at 1, 5"
    for arm in ("none", "random box", "GradMix, sign +1", "GradMix, sign -1"):
        auroc, detection, own, accuracy = np.mean(found[arm.replace(" ", "_")], axis=0)
        other = numbers[f"{arm} / npz:other.npz"]
        assert other["auroc"]["mean"] == pytest.approx(auroc)
        assert other["detacc"]["mean"] == pytest.approx(detection)
        assert numbers[f"{arm} / the runs' own unknown images"]["auroc"]["mean"] == pytest.approx(own)
        assert numbers[f"{arm} / {what}"]["mean accuracy"]["mean"] == pytest.approx(accuracy)
        assert numbers[f"{arm} / {what}"]["weather"]["mean"] == pytest.approx(accuracy / 2)
        assert "noise" not in numbers[f"{arm} / {what}"]
    pairs = np.subtract(found["random_box"], found["none"])[:, 0]  # of the same seeds
    difference = numbers["random box - none / npz:other.npz"]["auroc"]
    half = 4.302653 * pairs.std(ddof=1) / 3**0.5  # Student's t, 2 degrees of freedom
    assert difference["mean"] == pytest.approx(pairs.mean())
    wanted = np.clip([pairs.mean() - half, pairs.mean() + half], -1, 1)  # a difference of two shares
    assert difference["interval"] == pytest.approx(wanted)
    assert difference["n"] == 3
    assert "difference, npz:other.npz" in text
    assert "/there" not in text

    one, other, *_ = (tmp_path / "mixing-all").glob("*/corruption-generated/corruption.json")
    other.unlink()
    assert compare.main(["mixing-all", "--out", str(tmp_path), "--only-table"]) == 0
    assert f"{what}, 11 of 12 runs" in capsys.readouterr().out
    one.write_text(json.dumps(corrupted | {"images": 8}))
    assert compare.main(["mixing-all", "--out", str(tmp_path), "--only-table"]) == 2
    assert capsys.readouterr().err.startswith("compare.py: the files corruption.json are of different images")


def test_every_comparison_is_offered_and_runs_a_script_that_exists(compare):
    offered = compare.Config.__dataclass_fields__["table"].type.__args__[0].__args__
    assert set(offered) == set(compare.COMPARISONS)
    for comparison in compare.COMPARISONS.values():
        assert (EXPERIMENTS / comparison.script).exists()
        assert comparison.reference in comparison.arms
        assert set(comparison.columns) <= set(compare.FIGURES)
