"""Each claim's effects on made-up probes whose numbers can be done by hand."""

import numpy as np
import pytest

from osrjax.analysis import claims
from osrjax.metrics import effects

NAN = float("nan")
STEPS = np.array([0, 10, 20, 30, 40])
FRACTIONS = np.array([0.0, 0.5, 1.0], np.float32)


def probe(jnd=(0.0, 0.1, 0.2, 0.4, 0.8), known=(1.0, 2.0), unknown=(1.0, 4.0), auroc=None, accuracy=0.9, middle=3.0):
    """Norms from first to last; DBI falls at once."""
    jnd = np.array(jnd, float)
    ramp = np.linspace(0, 1, 5)
    return {
        "steps": STEPS,
        "jnd": jnd,
        "norm_known": known[0] + (known[1] - known[0]) * ramp,
        "norm_unknown": unknown[0] + (unknown[1] - unknown[0]) * ramp,
        "davies_bouldin": np.array([5.0, 1.0, 1.0, 1.0, 1.0]),
        "auroc": np.array(auroc if auroc is not None else 0.5 + 0.25 * np.sqrt(np.abs(jnd)), float),
        "accuracy": accuracy * ramp,
        "fractions": FRACTIONS,
        "profiles": np.array([[[1, 1, 1], [2, 2, 2]], [[1, middle, 1], [2, 2 * middle, 2]]], np.float32),
    }


def grid(make):
    """3 splits x 2 seeds of probes that differ a little; one run is missing."""
    rows = [[make(i + 0.1 * j) for j in range(2)] for i in range(3)]
    rows[2][1] = None
    return rows


def by_name(records):
    return {(record["arm"], record["effect"]): record for record in records}


def test_series_fills_what_is_missing():
    array = claims.series(grid(lambda t: probe(known=(1.0, 2.0 + t))), "norm_known")
    assert array.shape == (3, 2, 5)
    assert array[1, 1, -1] == pytest.approx(3.1)
    assert np.isnan(array[2, 1]).all()
    assert np.isfinite(array[2, 0]).all()
    with pytest.raises(ValueError, match="0 runs"):
        claims.series([[None]], "jnd")
    with pytest.raises(ValueError, match="2 runs"):
        claims.series([[probe(), {"jnd": np.zeros(3)}]], "jnd")


def test_dynamics_by_hand():
    runs = grid(lambda t: probe(jnd=[-0.1, 0.1, 0.2, 0.4, 0.8 + t], known=(1.0, 2.0 + t)))
    records = claims.dynamics_effects(runs, arm="m-OvR")
    found = {record["effect"]: record for record in records}
    assert {record["claim"] for record in records} == set("abcde")
    # Splits: t = 0 and 0.1, 1 and 1.1, 2.
    assert found["JND after training"]["per_split"] == pytest.approx([0.85, 1.85, 2.8])
    assert found["JND after - before"]["per_split"] == pytest.approx([0.95, 1.95, 2.9])
    assert found["JND before training"]["mean"] == pytest.approx(-0.1)
    assert found["|JND before| / |mean JND after|"]["mean"] == pytest.approx(0.1 / np.mean([0.8, 0.9, 1.8, 1.9, 2.8]))
    first = (np.log(2.0) + np.log(2.1)) / 2
    assert found["log growth of the known norm"]["per_split"][0] == pytest.approx(first)
    assert found["log growth of the unknown norm"]["mean"] == pytest.approx(np.log(4))
    assert found["log of middle over ends, before"]["mean"] == pytest.approx(0.0)
    assert found["log of middle over ends, after"]["mean"] == pytest.approx(np.log(3))
    assert found["the same of the median line, after"]["mean"] == pytest.approx(np.log(3))
    inner = {
        when: found[f"share of lines with the largest norm in the inner half, {when}"]["mean"]
        for when in ("before", "after", "after - before")
    }
    assert inner["after - before"] == pytest.approx(inner["after"] - inner["before"])
    # t = 0: half of -0.1 to 0.8 is 0.35, three quarters of the way from step 20 to 30.
    assert found["half of the fall of DBI"]["mean"] == pytest.approx(0.125)
    late = found["half of the change, JND - DBI"]
    assert late["mean"] == pytest.approx(found["half of the rise of JND"]["mean"] - 0.125)
    assert effects.half_change(STEPS, runs[0][0]["jnd"], sign=1) == pytest.approx((20 + 7.5) / 40)
    # Ranks 1 to 5 against 1.5, 1.5, 3, 4, 5: the AUROC of -0.1 and of 0.1 are tied.
    assert found["Spearman of AUROC and JND"]["mean"] == pytest.approx(9.5 / np.sqrt(10 * 9.5))
    assert all(record["verdict"] == "reported" for record in records if record["expected"] == 0)
    verdicts = {
        "JND after - before": "undecided",  # splits 0.95, 1.95, 2.9: 1.93 -+ 2.42
        "log growth of the known norm": "holds",
        "log of middle over ends, after": "holds",
    }
    for name, verdict in verdicts.items():
        assert found[name]["verdict"] == verdict
        assert found[name]["runs"] == 5
        assert found[name]["undefined"] == 0


def test_an_arm_that_does_not_decide_is_only_reported():
    records = claims.dynamics_effects(grid(lambda t: probe()), arm="softmax", decides=False)
    assert {record["verdict"] for record in records} == {"reported"}
    assert {record["arm"] for record in records} == {"softmax"}


def test_inaccurate_models_give_no_verdict():
    records = claims.dynamics_effects(grid(lambda t: probe(accuracy=0.84)), arm="m-OvR")
    assert {record["verdict"] for record in records} == {"reported", "no verdict: accuracy"}


def test_effects_that_a_run_does_not_define_are_counted():
    runs = grid(lambda t: probe(jnd=[0.5, 0.1, 0.2, 0.4, 0.3 + 0.1 * t]))  # rises only for t above 2
    runs[1][0]["davies_bouldin"] = np.array([5.0, np.inf, 1.0, 1.0, 1.0])
    found = {record["effect"]: record for record in claims.dynamics_effects(runs, arm="m-OvR")}
    assert found["half of the rise of JND"]["undefined"] == 5
    assert found["half of the rise of JND"]["mean"] is None
    assert found["half of the change, JND - DBI"]["verdict"] == "undefined"
    # The infinite run falls where it is finite again, at step 20 of 40.
    assert found["half of the fall of DBI"]["per_split"] == pytest.approx([0.125, (0.5 + 0.125) / 2, 0.125])


def test_a_grid_without_runs():
    records = claims.dynamics_effects([[None, None]], arm="m-OvR")
    records += claims.loss_effects([[None, None]], [[None, probe()]])
    records += claims.half_effects([[None]], [[None]], [[None]])
    assert {record["verdict"] for record in records} == {"no run"}


def test_known_classes_by_hand():
    counts = np.array([2, 4, 6, 8])
    jnd = np.array([[[1.0, 2, 3, 4], [1, 3, 2, 4]], [[4.0, 3, 2, 1], [1, 2, NAN, 4]]])
    accuracy = np.full(jnd.shape, 0.9)
    accuracy[1, 1, 2] = NAN
    rank, slope = claims.known_classes_effects(counts, jnd, accuracy, arm="m-OvR")
    assert rank["per_split"] == pytest.approx([(1 + 0.8) / 2, -1])
    assert slope["per_split"] == pytest.approx([(0.5 + 0.4) / 2, -0.5])  # slope 16 / 40 in the second run
    assert (rank["runs"], rank["undefined"], rank["n"], rank["verdict"]) == (3, 0, 2, "undecided")
    accuracy[..., 3] = 0.8  # one K is enough
    assert claims.known_classes_effects(counts, jnd, accuracy, arm="m-OvR")[0]["verdict"] == "no verdict: accuracy"


def test_losses_are_paired_run_by_run():
    ours = grid(lambda t: probe(jnd=[0, 0, 0, 0, 1 + t], auroc=[0.5, 0.5, 0.5, 0.5, 0.8 + 0.01 * t]))
    theirs = grid(lambda t: probe(jnd=[0, 0, 0, 0, 0.5 + t], auroc=[0.5, 0.5, 0.5, 0.5, 0.85 + 0.01 * t]))
    theirs[0][0] = None
    jnd, auroc = claims.loss_effects(ours, theirs)
    assert (jnd["mean"], jnd["runs"], jnd["undefined"], jnd["verdict"]) == (pytest.approx(0.5), 4, 0, "holds")
    assert (auroc["mean"], auroc["verdict"]) == (pytest.approx(-0.05), "fails")
    assert effects.claim_verdict([jnd, auroc]) == "fails"
    weak = grid(lambda t: probe(accuracy=0.5))
    assert claims.loss_effects(ours, weak)[0]["verdict"] == "no verdict: accuracy"


def test_halves_by_hand():
    intra = grid(lambda t: probe(known=(2.0, 0.0), unknown=(2.0, 1.0 + 0.01 * t), accuracy=0.2))
    inter = grid(lambda t: probe(known=(1.0, 2.0), unknown=(1.0, 3.0), accuracy=0.1))
    records = claims.half_effects(intra, inter, grid(lambda t: probe()))
    found = by_name(records)
    assert len(found) == len(records) == 9
    lowered = found["intra half", "log growth of the known norm"]
    assert (lowered["mean"], lowered["expected"], lowered["verdict"]) == (pytest.approx(np.log(1e-6)), -1, "holds")
    raised = found["inter half", "log growth of the unknown norm"]
    assert (raised["mean"], raised["expected"], raised["verdict"]) == (pytest.approx(np.log(3)), 1, "holds")
    assert raised["accuracy"] == pytest.approx(0.9)  # that of the arm with both halves
    assert found["inter half", "log growth, unknown - known"]["mean"] == pytest.approx(np.log(1.5))
    assert found["both", "log growth of the unknown norm"]["mean"] == pytest.approx(np.log(4))
    assert sum(record["expected"] != 0 for record in records) == 2
    assert effects.claim_verdict(records) == "holds"
    poor = claims.half_effects(intra, inter, grid(lambda t: probe(accuracy=0.8)))
    assert effects.claim_verdict(poor) == "no verdict: accuracy"


def test_norms_of_the_same_classes_as_known_and_as_unknown():
    """Norms 2^class, tripled where unknown after training: the class is taken out and the role left."""
    rows = []
    for known in ([0, 1, 2], [1, 2, 3], [2, 3, 0]):
        unknown = [c for c in range(4) if c not in known]
        of_unknown = 2.0 ** np.array(unknown)
        norms = {
            "norms_known": np.array([2.0 ** np.array(known)] * 2),
            "norms_unknown": np.stack([of_unknown, 3 * of_unknown]),
        }
        labels = {"labels_known": np.arange(3), "labels_unknown": np.array(unknown), "known_classes": np.array(known)}
        rows.append([{**norms, **labels}])
    found = claims.class_adjusted_norms(rows)
    assert found["before"]["mean"] == pytest.approx(0, abs=1e-9)
    assert found["after"]["mean"] == pytest.approx(np.log(3))
