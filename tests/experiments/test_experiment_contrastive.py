"""experiments/contrastive.py: a whole run, a stopped and resumed one, and what it refuses."""

import dataclasses
import functools
import json
import logging
import signal

import jax
import numpy as np
import pytest
from conftest import load_script
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from osrjax import models
from osrjax.data import open_source
from osrjax.fields import check_fields
from osrjax.run import single
from osrjax.run.parsing import parse

contrastive = load_script("contrastive")


def contrastive_config(*words):
    """The configuration of a command line."""
    return parse(contrastive.Config, list(words), presets=contrastive.PRESETS, smoke=contrastive.SMOKE)


SMOKE = ["--smoke", "--first-stage-steps", "4", "--steps", "6", "--save-every", "4", "--log-every", "2"]
SMOKE += ["--resamples", "20", "--eval-batch-size", "250"]


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """The network of a smoke run with an eighth of the channels: its width is not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.NETWORKS, "small_cnn", functools.partial(models.SmallCNN, width=4, features=32))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A two-stage GradMix run, and what was compiled for it."""
    out, compiled = tmp_path_factory.mktemp("runs") / "whole", []
    handler = logging.Handler()
    handler.emit = lambda record: compiled.append(record.getMessage())
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    with jax.log_compiles():
        code = contrastive.main([*SMOKE, "--out", str(out)])
    logger.removeHandler(handler)
    assert code == 0
    return out, [message for message in compiled if message.startswith("Finished XLA compilation")]


@pytest.fixture(scope="module")
def finished(whole):
    return whole[0]


def test_both_stages_and_all_hyper_parameters_are_one_program(whole):
    assert sum("staged_step" in message for message in whole[1]) == 1


def test_a_run_gives_what_it_promises(finished, capsys):
    results = json.loads((finished / "results.json").read_text())
    assert results["steps"] == 10
    assert results["score"] == "knn_sum"
    scores = results["trained"]["scores"]
    assert {"knn_sum", "knn_ratio", "mahalanobis", "knn_sum_embedding", "mahalanobis_embedding"} < set(scores)
    assert 0 <= scores["knn_sum"]["auroc"]["low"] <= scores["knn_sum"]["auroc"]["high"] <= 1
    assert 0 < results["attribution"]["mass_in_box"] < 1
    assert {"scores", "roc", "oscr"} <= {path.stem for path in (finished / "figures").iterdir()}
    # The stored features give the stored accuracy again, by another way than the library's.
    with np.load(finished / "scores.npz") as stored:
        cosines = stored["known_projection"] @ stored["train_projection"].T
        labels, train_labels = stored["known_labels"], stored["train_labels"]
    sums = [np.sort(cosines[:, train_labels == k], axis=1)[:, -3:].sum(axis=1) for k in range(train_labels.max() + 1)]
    accuracy = np.mean(np.argmax(sums, axis=0) == labels)
    assert abs(scores["knn_sum"]["closed_set_accuracy"]["value"] - accuracy) < 2 / len(labels)
    assert results["linear_probe"]["accuracy"] > 0.5
    probe = scores["probe_max_logit"]
    assert probe["closed_set_accuracy"]["value"] == results["linear_probe"]["accuracy"]
    assert probe["auroc"]["low"] <= probe["auroc"]["value"] <= probe["auroc"]["high"]
    with np.load(finished / "scores.npz") as stored:
        given = {part: stored[f"{part}_embedding"] for part in ("train", "known", "unknown")}
    mean, scale = given["train"].mean(axis=0), given["train"].std(axis=0)
    known, unknown, train = ((given[part] - mean) / scale for part in ("known", "unknown", "train"))
    penalty = results["linear_probe"]["penalty"]
    model = LogisticRegression(C=1 / (penalty * len(train)), max_iter=300).fit(train, train_labels)
    logits = [model.decision_function(part).max(axis=1) for part in (known, unknown)]
    wanted = roc_auc_score(np.repeat([1, 0], list(map(len, logits))), np.concatenate(logits))
    assert probe["auroc"]["value"] == pytest.approx(wanted, abs=2e-3)
    capsys.readouterr()
    assert contrastive.main([*SMOKE, "--out", str(finished)]) == 0
    out = capsys.readouterr().out
    assert "finished before" in out
    assert "knn_sum, untrained" in out


def test_prediction_from_a_contrastive_run(finished, tmp_path, capsys):
    """By neighbours among the stored features of the training images."""
    test = open_source("digits").splits["test"]
    for row in range(12):
        Image.fromarray(test.images[row, :, :, 0]).save(tmp_path / f"{row:02}.png")
    assert load_script("predict").main([str(finished), str(tmp_path), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    with np.load(finished / "scores.npz") as stored:
        train, labels = stored["train_projection"], stored["train_labels"]
        parts = {part: stored[f"{part}_projection"] for part in ("validation", "known", "unknown")}

    def sums(rows):
        """Class by class, of the three largest cosines."""
        cosines = rows @ train.T
        return np.stack([np.sort(cosines[:, labels == k], axis=1)[:, -3:].sum(axis=1) for k in range(6)], axis=1)

    threshold = np.quantile(-sums(parts["validation"]).max(1), 0.9)
    # The command line's numbers are those of the run: the first images of the test set are its known or unknown ones.
    known_digits = [0, 1, 2, 4, 5, 9]
    rows = {True: iter(sums(parts["known"])), False: iter(sums(parts["unknown"]))}
    for line, digit in zip(lines, test.labels[:12], strict=True):
        wanted = next(rows[digit in known_digits])
        assert line["score"] == pytest.approx(-wanted.max(), abs=1e-4)
        assert line["nearest_class"] == str(known_digits[wanted.argmax()])
        assert line["threshold"] == pytest.approx(threshold, abs=0.05)
        assert line["decision"] == ("unknown" if line["score"] > line["threshold"] else line["nearest_class"])
    assert load_script("predict").main([str(finished), str(tmp_path), "--score", "max_softmax"]) == 2
    assert "score='max_softmax' does not exist for this run: choose from knn_sum" in capsys.readouterr().err


def test_the_first_stage_has_no_labels_and_the_second_a_new_optimiser(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: line for line in lines}
    for step, weights in {2: (0.0, 1.0), 4: (0.0, 1.0), 6: (1.0, 1.2)}.items():
        line = found[step]
        # The weight lambda' is one for the batch, so the losses add up exactly.
        bracket = line["train/nt_xent_loss"] + line["train/kept"] * line["train/mixed_loss"]
        expected = weights[0] * line["train/supcon_loss"] + weights[1] * bracket
        assert line["train/loss"] == pytest.approx(expected, rel=1e-4)


def test_a_stopped_run_goes_on_to_the_same_bits(finished, tmp_path, monkeypatch, capsys):
    class StopAfterThree(single.StopSignal):
        """A signal that arrives during the third step."""

        looks = 0

        def __getattribute__(self, name):
            if name == "requested":
                StopAfterThree.looks += 1
                if StopAfterThree.looks == 3:
                    self._request(signal.SIGTERM, None)
            return super().__getattribute__(name)

    monkeypatch.setattr(single, "StopSignal", StopAfterThree)
    options = [*SMOKE, "--no-linear-probe", "--no-untrained", "--out", str(tmp_path / "run")]
    assert contrastive.main(options) == 143
    assert "stopped by SIGTERM after saving step 3" in capsys.readouterr().out
    monkeypatch.undo()
    assert contrastive.main(options) == 0
    out = capsys.readouterr().out
    assert "going on from step 3" in out
    assert "untrained" not in out
    with np.load(finished / "network.npz") as whole, np.load(tmp_path / "run" / "network.npz") as resumed:
        assert whole.files == resumed.files
        for name in whole.files:
            np.testing.assert_array_equal(whole[name], resumed[name])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--cam-layers", "2", "4"], "layers=(2, 4): the network has the stages 1 to 3"),
        (["--batch-size", "1"], "batch_size=1 leaves no negatives"),
        (["--temperature", "0"], "temperature=0.0 must be above 0"),
        (["--cam-temperature", "-1"], "cam_temperature=-1.0 must be above 0"),
        (["--smallest-kept", "0"], "smallest_kept=0.0, largest_kept=0.9: give shares with 0 < smallest"),
        (["--largest-kept", "1.2"], "smallest_kept=0.5, largest_kept=1.2: give shares with 0 < smallest"),
        (["--smallest-kept", "0.95"], "smallest_kept=0.95, largest_kept=0.9: give shares with 0 < smallest"),
        (["--supcon-weight", "0", "--ssl-weight", "0"], "leave nothing to minimise"),
        (["--batch-size", "100000"], "batch_size=100000 exceeds the 778 training images"),
        (["--neighbours", "500"], "neighbours=500 exceeds the"),
        (["--steps", "0"], "steps=0 must be above 0"),
        (["--jitter", "6"], "jitter=6.0 is above 5"),
        (["--known", "3", "--unknown", "4"], "is a single class"),
        (["--ssl-weight", "0"], "ssl_weight=0 gives the mixed term of mixing='gradmix' no weight"),
        (["--mixing", "mixup", "--fill", "mean"], "fill='mean' does nothing with mixing='mixup'"),
        (["--mixing", "random_box", "--cam-sign", "-1"], "cam_sign=-1 does nothing with mixing='random_box'"),
        (["--no-crop", "--jitter", "0"], "jitter=0 and policy='none' give two equal views"),
        (["--mixing-alpha", "0"], "mixing_alpha=0.0 must be above 0"),
        (["--first-stage-epochs", "0"], "first_stage_epochs=0 must be at least 1"),
        (["--preset", "nothing"], "preset='nothing' does not exist"),
        (["--method", "m_ovr"], "method='m_ovr' takes ClassifyOptions, and this script has others"),
        (["--split", "-1"], "split=-1 must not be negative"),
    ],
)
def test_bad_input_is_one_line_before_any_work(options, line, tmp_path, capsys):
    assert contrastive.main(["--smoke", "--out", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("contrastive.py: ")
    assert line in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_every_preset_is_a_configuration():
    for name, preset in contrastive.PRESETS.items():
        found = contrastive_config("--preset", name)
        assert found == dataclasses.replace(preset, preset=name)
        check_fields(found)
        check_fields(contrastive_config("--preset", name, "--smoke"))
