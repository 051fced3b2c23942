"""experiments/jacobian.py on made-up finished runs: every figure, every verdict, partly finished grids, refusals."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import load_script

from osrjax.analysis import claims

STEPS = np.array([0, 5, 10, 15, 20])


@pytest.fixture(scope="module")
def jacobian():
    """The script as a module, with nothing run."""
    return load_script("jacobian")


def write_run(directory, options, seed, whole=False):
    """A finished run whose numbers rise over training, known norms less than unknown ones."""
    draws = np.random.default_rng(seed)
    rise = np.linspace(0, 1, 5) ** 2
    known, unknown = (draws.lognormal(0, 0.2, (5, 12)) * (1 + top * rise[:, None]) for top in (1, 4))
    embedding = draws.normal(size=(12, 4)).astype(np.float32)
    directory.mkdir(parents=True)
    jnd = unknown.mean(axis=1) - known.mean(axis=1)
    np.savez(
        directory / "probe.npz",
        steps=STEPS,
        norms_known=known.astype(np.float32),
        norms_unknown=unknown.astype(np.float32),
        labels_known=np.arange(12) % 3,
        labels_unknown=np.full(12, 7),
        embedding_known=embedding,
        embedding_unknown=-embedding,
        path_lengths=draws.random((5, 3)).astype(np.float32),
        pair_labels=np.array([[0, 1], [1, 2], [2, 0]]),
        fractions=np.linspace(0, 1, 5).astype(np.float32),
        profiles=(1 + draws.random((2, 3, 1)) * np.array([0, 1, 2, 1, 0])).astype(np.float32),
        jnd=jnd,
        norm_known=known.mean(axis=1),
        norm_unknown=unknown.mean(axis=1),
        davies_bouldin=3 - 2 * np.sqrt(rise) + 0.1 * draws.random(5),
        intra_distance=1 - 0.5 * rise,
        inter_distance=1 + rise,
        path_length=1 + rise,
        auroc=0.5 + 0.3 * np.sqrt(rise),
        accuracy=0.3 + 0.65 * rise,
    )
    if whole:
        norms = {
            f"{kind}_{when}": draws.lognormal(size=30) for kind in ("known", "unknown") for when in ("before", "after")
        }
        norms |= {f"{kind}_labels": np.arange(30) % 3 for kind in ("known", "unknown")}
        norms |= {f"{kind}_embedding": draws.normal(size=(30, 4)) for kind in ("known", "unknown")}
        np.savez(
            directory / "norms.npz", **{k: v.astype(np.float32) if v.dtype == float else v for k, v in norms.items()}
        )
    (directory / "provenance.json").write_text(
        json.dumps(
            {"known_names": ["zero", "one", "two"], "split": {"known": [0, 1, 2]}, "starts": [{"revision": "abc"}]}
        )
    )
    (directory / "results.json").write_text("{}")
    log = directory.with_name(directory.name + ".log")
    log.write_text(f"python train.py {' '.join(options)} --out {directory}\n")


def names_of(jacobian, table):
    options = jacobian.options_of(jacobian.TABLES[table], None)
    return {cell: ("-".join(map(str, cell)).replace(" ", "_"), line) for cell, line in options.items()}


@pytest.fixture(scope="module")
def finished(jacobian, tmp_path_factory):
    """Every run of `smoke`; read, and copied where a test changes it."""
    out = tmp_path_factory.mktemp("jacobian")
    for seed, (cell, (name, line)) in enumerate(names_of(jacobian, "smoke").items()):
        write_run(out / "smoke" / name, line, seed, whole=cell == jacobian.WHOLE)
    return out


def test_every_figure_and_claim_of_finished_runs(jacobian, finished, capsys):
    assert jacobian.main(["smoke", "--only-figures", "--out", str(finished)]) == 0
    printed = capsys.readouterr().out
    drawn = {path.name for path in (finished / "smoke" / "figures").iterdir()}
    assert drawn == {f"{name}.{kind}" for name in jacobian.FIGURES for kind in ("png", "svg")}
    stored = json.loads((finished / "smoke" / "claims.json").read_text())
    assert set(stored["claims"]) == set(claims.CLAIMS) == {record["claim"] for record in stored["effects"]}
    assert stored["rule"].startswith("What does training do")
    cells = names_of(jacobian, "smoke")
    assert {Path(run["directory"]).name for run in stored["runs"]} == {name for name, _ in cells.values()}
    assert [run["options"] for run in stored["runs"]] == [" ".join(line) for _, line in cells.values()]
    assert all(run["first_and_last"]["accuracy"] == pytest.approx([0.3, 0.95]) for run in stored["runs"])
    assert {run["revision"] for run in stored["runs"]} == {"abc"}
    assert stored["curves"]["arms"]["softmax"]["auroc"][-1][0] == pytest.approx(0.8)
    assert len(stored["curves"]["known_classes"]["jnd"]) == 2
    # One number done again from the files.
    values = []
    for group in (0, 1):
        with np.load(finished / "smoke" / f"m-OvR-neal_{group}-0" / "probe.npz") as probe:
            values.append(np.log(probe["norm_unknown"][-1] / probe["norm_unknown"][0]))
    (record,) = (
        r for r in stored["effects"] if r["arm"] == "m-OvR" and r["effect"] == "log growth of the unknown norm"
    )
    assert record["per_split"] == pytest.approx(values)
    assert (record["n"], record["expected"]) == (2, 1)
    text = (finished / "smoke" / "claims.txt").read_text()
    assert text in printed
    run = finished / "smoke" / next(iter(cells.values()))[0]
    assert printed.endswith(f"\nnext: osrjax norms {run} --images 500  # or any other run of {finished / 'smoke'}\n")
    assert text.startswith("smoke: 13 of 13 runs: 2 splits x 1 seeds; 2 class orders x 1 seeds for each K")
    for letter, claim in stored["claims"].items():
        assert any(line.startswith(letter) and line.endswith(claim["verdict"]) for line in text.splitlines())


def test_part_of_a_grid_is_drawn_and_tabulated(jacobian, finished, tmp_path, capsys):
    out = tmp_path / "part"
    for name in ("m-OvR-neal_0-0", "intra_half-neal_0-0", "K2-order_1-0"):
        shutil.copytree(finished / "smoke" / name, out / "smoke" / name)
        shutil.copy(finished / "smoke" / f"{name}.log", out / "smoke")
    assert jacobian.main(["smoke", "--only-figures", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "smoke: 3 of 13 runs" in printed
    # Without the run in full, the probed images of a run of m-OvR stand in.
    assert "known, n = 12" in (out / "smoke" / "figures" / "histograms.svg").read_text()
    stored = json.loads((out / "smoke" / "claims.json").read_text())
    verdicts = {letter: claim["verdict"] for letter, claim in stored["claims"].items()}
    assert verdicts["g"] == verdicts["i"] == verdicts["f"] == "no run"
    assert verdicts["b"] == "undecided"  # one split has no interval
    assert sum(not run["finished"] for run in stored["runs"]) == 10


@pytest.mark.parametrize("file", ["provenance.json", "probe.npz"])
def test_a_damaged_file_of_a_run_is_named_with_a_remedy(jacobian, finished, tmp_path, capsys, file):
    name = "softmax-neal_1-0"
    shutil.copytree(finished / "smoke" / name, tmp_path / "smoke" / name)
    shutil.copy(finished / "smoke" / f"{name}.log", tmp_path / "smoke")
    damaged = tmp_path / "smoke" / name / file
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    assert jacobian.main(["smoke", "--only-figures", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"jacobian.py: {damaged} cannot be read, it is cut or damaged")
    assert error.count("\n") == 1


def test_only_the_figures_that_were_asked_for(jacobian, finished, tmp_path, capsys):
    out = tmp_path / "alone"
    name = "softmax-neal_1-0"
    shutil.copytree(finished / "smoke" / name, out / "smoke" / name)
    shutil.copy(finished / "smoke" / f"{name}.log", out / "smoke")
    wanted = ["losses", "dynamics", "known_classes", "embedding"]
    assert jacobian.main(["smoke", "--only-figures", "--out", str(out), "--figures", *wanted]) == 0
    printed = capsys.readouterr().out
    assert {path.stem for path in (out / "smoke" / "figures").iterdir()} == {"losses"}
    for missing in wanted[1:]:
        assert f"figure {missing}: no finished run" in printed


def test_cells_are_balanced_and_class_orders_nested(jacobian):
    table = jacobian.TABLES["bundled"]
    options = jacobian.options_of(table, "npz:images.npz")
    assert len(options) == 1 + 3 * (4 * 5 + 5 * 4)
    assert all(line[-4:] == ["--resamples", "0", "--data", "npz:images.npz"] for line in options.values())
    seeds = [cell[2] for cell in options]
    assert seeds == sorted(seeds)
    orders = []
    for order in range(5):
        lines = [options[f"K{count}", f"order {order}", 1] for count in (2, 4, 6, 8)]
        known = [line[line.index("--known") + 1 : line.index("--unknown")] for line in lines]
        unknown = [line[line.index("--unknown") + 1 :][:2] for line in lines]
        assert [len(classes) for classes in known] == [2, 4, 6, 8]
        assert all(large[: len(small)] == small for small, large in itertools.pairwise(known))
        assert len(set(map(tuple, unknown))) == 1
        assert sorted(known[-1] + unknown[-1]) == [str(c) for c in range(10)]
        orders.append(tuple(known[-1]))
    assert len(set(orders)) == 5


def test_refusals_are_one_line_and_exit_code_2(jacobian, finished, tmp_path, capsys):
    for arguments, words in (
        (["smoke", "--only-figures", "--out", str(tmp_path)], "has no finished run of smoke"),
        (["smoke", "--workers", "-1", "--out", str(tmp_path)], "workers=-1"),
        (["smoke", "--only-figures", "--out", str(finished), "--data", "npz:x.npz"], "was made with other options"),
    ):
        assert jacobian.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("jacobian.py: ")
        assert words in error
        assert error.count("\n") == 1


def test_a_failed_run_is_named_and_draws_nothing(jacobian, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jacobian, "run_cells", lambda *_, **__: ["a.log"])
    assert jacobian.main(["smoke", "--out", str(tmp_path)]) == 1
    assert "1 runs failed; their logs: a.log" in capsys.readouterr().err
    assert not (tmp_path / "smoke").exists()
