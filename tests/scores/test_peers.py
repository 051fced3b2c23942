"""The comparison with pytorch-ood, where it is not installed."""

import numpy as np
from conftest import load_script

from osrjax.evaluation import OUTPUT_SCORES


def test_without_the_peer_one_line_says_what_to_install(monkeypatch, capsys):
    script = load_script("benchmarks/scores_peers")
    monkeypatch.setattr(script, "find_spec", lambda _: None)
    assert script.main([]) == 2
    assert capsys.readouterr().err == (
        "scores_peers.py: torch is not installed: pip install '.[peers]' in an environment of its own\n"
    )
    assert set(script.MAPS) - {"odin"} <= set(OUTPUT_SCORES)


def test_maps_to_the_peers_scores_keep_ranks():
    script = load_script("benchmarks/scores_peers")
    outputs = script.Outputs((np.zeros(0),) * 3 + (np.zeros(10),), np.zeros(0), np.zeros(50), np.zeros(0), np.zeros(0))
    for name, (_, to_peer) in script.MAPS.items():
        assert (np.diff(to_peer(np.linspace(-1, 3, 40), outputs)) > 0).all(), name
