"""A file that PyTorch wrote (experiments/examples/make_outputs_torch.py), scored where there is no PyTorch."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import load_script
from sklearn.metrics import accuracy_score, roc_auc_score

from osrjax.evaluation import OUTPUT_SCORES, read_outputs, score_outputs

FILE = Path(__file__).with_name("torch_outputs.npz")
PARTS = ("validation", "known", "unknown")


def test_scores_are_those_that_pytorch_took_of_its_own_tensors():
    with np.load(FILE) as file:
        energy, largest = ({part: file[f"{part}_torch_{n}"] for part in PARTS} for n in ("energy", "max_softmax"))
        assert (file["known_logits"].dtype, file["known_embedding"].dtype) == (np.float16, np.float32)
    scored, missing = score_outputs(read_outputs(FILE))
    assert (set(scored), missing) == (set(OUTPUT_SCORES), {})  # the head is among what was read
    for part in PARTS:
        np.testing.assert_allclose(getattr(scored["energy"], part), energy[part], rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(np.exp(-np.exp(getattr(scored["max_softmax"], part))), largest[part], rtol=1e-5)


def test_the_command_agrees_with_scikit_learn(tmp_path):
    assert load_script("evaluate").main([str(FILE), "--resamples", "0", "--out", str(tmp_path / "found")]) == 0
    found = json.loads((tmp_path / "found" / "results.json").read_text())["scores"]
    with np.load(FILE) as file:
        logits = [file[f"{part}_logits"].astype(np.float64) for part in ("known", "unknown")]
        truth = np.repeat([0, 1], [len(rows) for rows in logits])
        assert found["max_logit"]["auroc"]["value"] == pytest.approx(
            roc_auc_score(truth, -np.concatenate(logits).max(1)), abs=1e-12
        )
        accuracy = accuracy_score(file["known_labels"], logits[0].argmax(1))
    assert found["max_logit"]["closed_set_accuracy"]["value"] == pytest.approx(accuracy)
    assert accuracy > 0.9
