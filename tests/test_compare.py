"""The tables of compare.py, from run directories written by hand: no training."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.fixture(scope="module")
def compare():
    spec = importlib.util.spec_from_file_location("experiments_compare", EXPERIMENTS / "compare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


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


def test_every_comparison_is_offered_and_runs_a_script_that_exists(compare):
    offered = compare.Config.__dataclass_fields__["table"].type.__args__[0].__args__
    assert set(offered) == set(compare.COMPARISONS)
    for comparison in compare.COMPARISONS.values():
        assert (EXPERIMENTS / comparison.script).exists()
        assert comparison.reference in comparison.arms
        assert set(comparison.columns) <= set(compare.FIGURES)
