"""Outputs of a foreign network, scored from one file: against scikit-learn and the scores' own formulas."""

import json
import runpy
import warnings

import numpy as np
import pytest
from conftest import EXPERIMENTS, load_script
from scipy.special import logsumexp
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

from osrjax.evaluation import OUTPUT_SCORES, read_outputs, score_outputs
from osrjax.report import entry_tables
from osrjax.run import find_entries, read_entry


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """What the example script stores."""
    directory = tmp_path_factory.mktemp("example")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of a training that ends after its epochs
        patch.chdir(directory)
        runpy.run_path(str(EXPERIMENTS / "examples" / "make_outputs.py"))
    with np.load(directory / "outputs.npz") as stored:
        return dict(stored)


@pytest.fixture
def stored(arrays, tmp_path):
    """Writes the example with some arrays changed, or left out for None; gives its path."""

    def write(**changes):
        kept = {name: rows for name, rows in (arrays | changes).items() if rows is not None}
        np.savez(tmp_path / "outputs.npz", **kept)
        return tmp_path / "outputs.npz"

    return write


def test_scores_of_a_file_equal_formulas_of_its_arrays(arrays, stored):
    scored, missing = score_outputs(read_outputs(stored()))
    assert set(scored) == set(OUTPUT_SCORES)
    assert not missing
    logits = arrays["unknown_logits"]
    np.testing.assert_allclose(scored["energy"].unknown, -logsumexp(logits, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(scored["energy"].unknown_predictions, logits.argmax(1))
    units = {
        part: rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for part, rows in ((part, arrays[f"{part}_embedding"]) for part in ("train", "unknown"))
    }
    distances, _ = NearestNeighbors(n_neighbors=50).fit(units["train"]).kneighbors(units["unknown"])
    np.testing.assert_allclose(scored["kth_neighbour"].unknown, distances[:, -1] ** 2 / 2 - 1, atol=1e-5)


def test_the_command_scores_a_file(arrays, stored, capsys):
    evaluate = load_script("evaluate")
    assert evaluate.main([str(stored(head_kernel=None, head_bias=None)), "--resamples", "20"]) == 0
    text = capsys.readouterr().out
    assert "not applicable: vim (head_kernel, head_bias)" in text
    out = stored().with_suffix(".evaluation")
    results = json.loads((out / "results.json").read_text())
    assert (out / "figures" / "roc.png").stat().st_size > 0
    found = results["scores"]["max_logit"]
    scores = [-arrays[f"{part}_logits"].max(1) for part in ("known", "unknown")]
    truth = np.repeat([0, 1], [len(rows) for rows in scores])
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(truth, np.concatenate(scores)))
    accuracy = accuracy_score(arrays["known_labels"], arrays["known_logits"].argmax(1))
    assert found["closed_set_accuracy"]["value"] == pytest.approx(accuracy)
    assert accuracy > 0.9
    assert set(results["scores"]) | set(results["not_applicable"]) == set(OUTPUT_SCORES)


OWN = """
import numpy as np

def margin(rows, train, labels):
    ordered = np.sort(rows["logits"], axis=1)
    return ordered[:, -2] - ordered[:, -1]

def short(rows, train, labels):
    return np.zeros(3)

def one(rows, train, labels):
    return 0.5

def column(rows, train, labels):
    return rows["logits"][:, :1]

def words(rows, train, labels):
    return np.full(len(rows["logits"]), "unknown")

def undefined(rows, train, labels):
    return np.full(len(rows["logits"]), np.nan)

def huge(rows, train, labels):
    return np.full(len(rows["logits"]), 1.7e308)

def misspelt(rows, train, labels):
    return rows["logit"]

def untrained(rows, train, labels):
    return train["logits"].mean(1)

def alone(rows):
    return rows["logits"][:, 0]

def writes(rows, train, labels):
    rows["logits"] *= -1
    return rows["logits"][:, 0]

def ends(rows, train, labels):
    raise SystemExit(0)

number = 7
"""


def test_a_score_of_ones_own(arrays, stored, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_scores.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    file = str(stored(train_logits=None, train_embedding=None, train_labels=None))
    evaluate = load_script("evaluate")
    assert evaluate.main([file, "--resamples", "0", "--own", "own_scores:margin", "--score", "own_scores:margin"]) == 0
    results = json.loads((tmp_path / "outputs.evaluation" / "results.json").read_text())
    ordered = [np.sort(arrays[f"{part}_logits"], axis=1) for part in ("known", "unknown")]
    truth = np.repeat([0, 1], [len(rows) for rows in ordered])
    wanted = roc_auc_score(truth, np.concatenate([rows[:, -2] - rows[:, -1] for rows in ordered]))
    assert results["scores"]["own_scores:margin"]["auroc"]["value"] == pytest.approx(wanted)
    capsys.readouterr()
    messages = {"short": "gives shape (3,) for", "one": "gives shape () for", "column": "1) for", "none": "imported"}
    messages |= dict.fromkeys(("undefined", "words", "huge"), "no finite numbers")
    messages |= {
        "misspelt": "score='own_scores:misspelt' raises KeyError('logit'): mend it",
        "untrained": "raises TypeError(",
        "alone": "raises TypeError(",
        "writes": "read-only",
        "ends": "raises SystemExit(0)",
        "number": "is no function, but int: give one",
    }
    (tmp_path / "broken_scores.py").write_text("raise RuntimeError('two\\nlines')")
    (tmp_path / "ending_scores.py").write_text("raise SystemExit(0)")
    (tmp_path / "cut_scores.py").write_text("def f(")
    raised = {"broken": "RuntimeError(", "ending": "SystemExit(0)", "cut": "SyntaxError("}
    of_modules = {f"{name}_scores:f": f"its module raises {error}" for name, error in raised.items()}
    for name, message in ({f"own_scores:{name}": text for name, text in messages.items()} | of_modules).items():
        assert evaluate.main([file, "--own", name]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def nan_in(rows, row):
    rows = rows.copy()
    rows[row, 0] = np.nan
    return rows


REFUSED = {
    "has neither unknown_logits nor unknown_embedding": lambda a: {"unknown_logits": None, "unknown_embedding": None},
    "has neither validation_logits nor": lambda a: {"validation_logits": None, "validation_embedding": None},
    "has no validation_labels": lambda a: {"validation_labels": None},
    "unknown_labels has shape (999,) for": lambda a: {"unknown_labels": np.zeros(999, int)},
    "unknown_labels has dtype": lambda a: {"unknown_labels": np.full(len(a["unknown_logits"]), "cat")},
    "train_embedding is not finite in float32, first in row 2": lambda a: {
        "train_embedding": nan_in(a["train_embedding"], 2)
    },
    "unknown_embedding is 0 everywhere in float32": lambda a: {"unknown_embedding": a["unknown_embedding"] * 1e-300},
    "known_embedding has shape": lambda a: {"known_embedding": a["known_embedding"].astype(str)},
    "known_labels has dtype float64: store": lambda a: {"known_labels": a["known_labels"] * np.nan},
    "has no known_labels": lambda a: {"known_labels": None},
    "known_logits is not finite in float32, first in row 7": lambda a: {"known_logits": nan_in(a["known_logits"], 7)},
    "validation_logits is not finite": lambda a: {"validation_logits": a["validation_logits"] * 1e39},
    "rows: store one row of each per image": lambda a: {"unknown_logits": a["unknown_logits"][:-1]},
    "known_labels has shape (3,) for": lambda a: {"known_labels": a["known_labels"][:3]},
    "labels run from 0 to 8: give positions in the 8 known classes": lambda a: {"train_labels": a["train_labels"] + 1},
    "train_labels run from -1": lambda a: {"train_labels": a["train_labels"] - 1},
    "dtype float64: store whole numbers": lambda a: {"known_labels": a["known_labels"] + 0.5},
    "dtype bool: store whole numbers": lambda a: {"known_labels": a["known_labels"] > 3},
    "has ['embedding'] of unknown and": lambda a: {"unknown_logits": None},
    "unknown_logits has 3 columns, others 8": lambda a: {"unknown_logits": a["unknown_logits"][:, :3]},
    "known_logits has shape (": lambda a: {"known_logits": a["known_logits"].ravel()},
    "head_bias has dtype": lambda a: {"head_bias": a["head_bias"].astype(str)},
    "head_kernel has shape (8, 64)": lambda a: {"head_kernel": a["head_kernel"].T},
    "is up to": lambda a: {"head_bias": a["head_bias"] + 10},
    "has head_bias: store": lambda a: {"head_kernel": None},
    "head_kernel or head_bias is not finite": lambda a: {"head_bias": a["head_bias"] * np.nan},
    "known_labels reach 1e+300": lambda a: {"known_labels": np.full(len(a["known_logits"]), 1e300)},
    "unknown_labels reach 1e+300": lambda a: {"unknown_labels": np.full(len(a["unknown_logits"]), 1e300)},
    "known_labels reach 1.84e+19": lambda a: {"known_labels": np.full(len(a["known_logits"]), 2**64 - 1, np.uint64)},
    "head_kernel or head_bias is not finite: look": lambda a: {"head_kernel": a["head_kernel"] * 1e99},
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_bad_files_are_refused_in_one_line(message, arrays, stored, capsys):
    wanted = message.replace("from 0 to 8", "from 1 to 8")
    assert load_script("evaluate").main([str(stored(**REFUSED[message](arrays)))]) == 2
    error = capsys.readouterr().err
    assert error.startswith("evaluate.py: file=")
    assert wanted in error
    assert error.count("\n") == 1
    assert not stored().with_suffix(".evaluation").exists()


def test_training_images_that_a_fit_refuses_cost_that_score_alone(arrays, stored):
    labels = np.zeros_like(arrays["train_labels"])
    scored, missing = score_outputs(read_outputs(stored(train_labels=labels)))
    assert "hold no image of class 1" in missing["knn_sum"]
    assert {"openmax", "mahalanobis"} <= set(missing)
    assert {"vim", "react", "gradient_norm", "energy"} <= set(scored)


def test_cosines_have_the_scores_of_their_head(stored, rng):
    parts = ("train", "validation", "known", "unknown")
    kept = {"head_kernel": None, "head_bias": None}
    with np.load(stored()) as file:
        kept |= {f"{part}_logits": np.tanh(file[f"{part}_logits"] / 20) for part in parts}
    scored, _ = score_outputs(read_outputs(stored(**kept), cosines=16.0))
    cosines = kept["known_logits"]
    np.testing.assert_allclose(scored["cosine"].known, -cosines.max(1), rtol=1e-6)
    np.testing.assert_allclose(scored["energy"].known, -logsumexp(16 * cosines, axis=1), rtol=1e-5)
    assert {"m_ovr", "m_ovr_margin", "openmax", "generalised_entropy"} <= set(scored)


def test_logits_that_are_no_cosines_are_refused_as_such(stored, capsys):
    evaluate, kept = load_script("evaluate"), {"head_kernel": None, "head_bias": None}
    for changes, words, message in (
        (kept, "16", "and are no cosines: leave out --cosines"),
        ({}, "16", "has head_kernel, head_bias, whose logits are no cosines"),
        ({}, "inf", "cosines=inf is no T"),
    ):
        assert evaluate.main([str(stored(**changes)), "--cosines", words]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_large_margins_do_not_tie(stored, rng):
    """Where the largest probability is 1 in single precision, and the entropy 0."""
    parts = ("train", "validation", "known", "unknown")
    with np.load(stored()) as file:
        logits = {f"{part}_logits": np.round(10 * file[f"{part}_logits"]) * 10 for part in parts}
    scored, _ = score_outputs(read_outputs(stored(head_kernel=None, head_bias=None, **logits)))
    rows = np.concatenate([logits["known_logits"], logits["unknown_logits"]])
    log_p = rows - logsumexp(rows, axis=1, keepdims=True)
    ordered = np.sort(rows, axis=1)
    wanted = logsumexp(ordered[:, :-1] - ordered[:, -1:], axis=1)  # the log of what is left of 1, nearly
    assert np.median(ordered[:, -1] - ordered[:, -2]) > 90
    for name, exact in {"max_softmax": wanted, "entropy": wanted + np.log(np.maximum(1, -log_p).max(1))}.items():
        found = np.concatenate([scored[name].known, scored[name].unknown])
        assert np.corrcoef(found, exact)[0, 1] > 0.99, name
        assert len(np.unique(found)) > 0.7 * len(np.unique(wanted.astype(np.float32)))


def test_a_name_that_no_table_can_show_and_a_file_in_the_way_are_refused(stored, tmp_path, capsys):
    evaluate, file = load_script("evaluate"), stored()
    (tmp_path / "taken").write_text("")
    for words, message in (
        (["--label", ""], "label='' is empty: rename it"),
        (["--label", "a\nb"], r"label='a\nb' has characters that cannot be printed"),
        (["--dataset", "x\ty"], "dataset='x\\ty' has characters"),
        (["--out", str(tmp_path / "taken")], "is a file: give a directory"),
        (["--family", "neal", "--dataset", "mnist"], "has 8 known classes, family neal lists 6 in split 0 of mnist"),
    ):
        assert evaluate.main([str(file), *words]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not file.with_suffix(".evaluation").exists()


def test_splits_of_a_file_are_samples_and_stand_beside_runs(stored, tmp_path, capsys):
    """In a family of one's own each split is a sample; in a listed one a file stands beside runs on as many images."""
    evaluate, out, quick = load_script("evaluate"), tmp_path / "entries", ["--resamples", "0", "--no-draw"]
    without = {f"{part}_embedding": None for part in ("train", "validation", "known", "unknown")}
    without |= {"head_kernel": None, "head_bias": None}
    (out / "old").mkdir(parents=True)
    (out / "old" / "probe.npz").write_bytes(b"of another network")
    for split in range(3):
        for label, sign in {"mine": 1, "other": -1}.items():
            with np.load(stored()) as file:
                drawn = {f"{part}_logits": np.roll(file[f"{part}_logits"], split) for part in ("known", "unknown")}
            drawn["unknown_logits"] = sign * drawn["unknown_logits"]
            where = out / ("old" if (label, split) == ("mine", 0) else f"{label}-{split}")
            words = ["--label", label, "--dataset", "pictures", "--family", "ours", "--split", str(split)]
            assert evaluate.main([str(stored(**without, **drawn)), *words, *quick, "--out", str(where)]) == 0
    assert read_entry(out / "old").manifest["files"].keys() == {"scores.npz"}
    (table,) = entry_tables([read_entry(place) for place in find_entries([out])])
    assert (table.unit, len(table.samples)) == ("split", 3)
    # Labels of eight classes are six of MNIST's, told by the family.
    listed = evaluate_split(stored(), tmp_path / "six.npz", known=6)
    words = ["--label", "foreign", "--dataset", "mnist", "--family", "neal", "--split", "0", *quick]
    assert evaluate.main([str(listed), *words, "--out", str(tmp_path / "six")]) == 0
    found = read_entry(tmp_path / "six")
    assert found.manifest["known_names"] == ["0", "1", "2", "4", "5", "9"]
    ours = found._replace(
        manifest=found.manifest | {"label": "ours", "known_names": list("abcdef"), "sha256": {"a": "b"}}
    )
    (table,) = entry_tables([found, ours])
    assert {label for label, _ in table.results} == {"foreign", "ours"}
    theirs = ours._replace(manifest=ours.manifest | {"label": "theirs", "sha256": {"a": "c"}})
    fewer = found._replace(manifest=found.manifest | {"label": "fewer"}, images=(1, *found.images[1:]))
    for others in ([found, ours, theirs], [found, fewer]):
        with pytest.raises(ValueError, match="split 0 has other images or another reject_share"):
            entry_tables(others)


def evaluate_split(file, place, *, known):
    """The images and logits of the first classes alone."""
    with np.load(file) as stored:
        arrays = {}
        for part in ("validation", "known", "unknown"):
            rows = stored[f"{part}_logits"][:, :known]
            kept = slice(None) if part == "unknown" else stored[f"{part}_labels"] < known
            arrays[f"{part}_logits"] = rows[kept]
            if part != "unknown":
                arrays[f"{part}_labels"] = stored[f"{part}_labels"][kept]
    np.savez(place, **arrays)
    return place


def test_labels_of_unknown_images_are_kept_and_other_arrays_not_read(arrays, stored):
    labels = -np.arange(len(arrays["unknown_logits"]))
    found = read_outputs(
        stored(unknown_labels=labels, names=np.array([None, "a word"]), unknown_notes=np.array(np.nan))
    )
    np.testing.assert_array_equal(found.labels["unknown"], labels)
    assert found.classes == 8
    assert set(found.outputs["unknown"]) == {"logits", "embedding"}
    without = {f"{part}_logits": None for part in ("train", "validation", "known", "unknown")}
    without |= {"head_kernel": None, "head_bias": None}
    assert read_outputs(stored(unknown_labels=100 - labels, **without)).classes == 8  # unknown classes are none of them
    found = read_outputs(stored(train_embedding=None, train_labels=None, **without))
    with pytest.raises(ValueError, match="score='own' goes with no predicted class: store logits too"):
        score_outputs(found, own={"own": lambda rows, *_: rows["embedding"][:, 0]})
