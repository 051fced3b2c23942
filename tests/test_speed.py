import json
import runpy
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).parents[1] / "experiments" / "speed.py")


@pytest.fixture
def main(monkeypatch):
    module = runpy.run_path(SCRIPT)
    monkeypatch.setitem(module["main"].__globals__, "find_torch", lambda: False)
    # The allocator's settings would last for all tests of this process.
    monkeypatch.setitem(module["main"].__globals__, "reuse_host_memory", lambda: False)
    return module["main"]


def test_smoke_run_without_torch_reports_our_speed_alone(main, capsys):
    assert main(["--what", "train", "--smoke"]) == 0
    *lines, last = capsys.readouterr().out.strip().splitlines()
    result = json.loads(last)
    assert result["ratio"] is None
    assert result["images_per_second"]["small_cnn"]["osrjax"] > 0
    assert "torch" not in result["versions"]
    assert sum("pip install '.[speed]'" in line for line in lines) == 1


@pytest.mark.parametrize("arguments", [["--repeats", "2"], ["--batch", "1"]])
def test_too_small_a_measurement_is_refused(main, capsys, arguments):
    assert main(arguments) == 2
    name = arguments[0].removeprefix("--")
    assert f"{name}={arguments[1]}" in capsys.readouterr().err


def test_turns_leave_the_first_one_out_and_serve_everyone(main):
    calls = {"a": 0, "b": 0}

    def unit(who):
        calls[who] += 1

    turns = main.__globals__["turns"]
    turns.__globals__["SHORTEST_TURN"] = 0.0
    seconds = turns({who: lambda who=who: unit(who) for who in calls}, 4)
    assert {who: len(times) for who, times in seconds.items()} == {"a": 3, "b": 3}
    assert calls == {"a": 6, "b": 6}  # two to warm up, one a turn
