"""How far a run is, where there is no terminal."""

import pytest

from osrjax.run import progress
from osrjax.run.progress import Progress


def test_plain_lines_say_loss_accuracy_speed_and_time_left(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    shown = Progress(100, initial=20)
    for step, now in ((30, 5.0), (40, 10.5), (50, 14.0), (60, 21.0), (100, 40.0)):
        clock[0] = now
        shown.update()
        shown.show(step, {"loss": 0.5, "accuracy": 0.25, "param_norm": 3.0}, speed=1234.4)
    shown.close()
    assert capsys.readouterr().err.splitlines() == [  # 10.5 s for 20 steps, 60 are left; 21 s for 40, 40 are left
        "step 40/100: loss 0.500, accuracy 0.250, 1234 images/s, 32 s left",
        "step 60/100: loss 0.500, accuracy 0.250, 1234 images/s, 21 s left",
        "step 100/100: loss 0.500, accuracy 0.250, 1234 images/s",
    ]


def test_lines_become_rare_and_others_than_the_first_process_show_none(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    shown, silent = Progress(10**6), Progress(10**6, show=False)
    for step in range(1, 1001):
        clock[0] = 11.0 * step
        for one in (shown, silent):
            one.show(step, {"loss": 1.0}, speed=1.0)
    lines = capsys.readouterr().err.splitlines()
    assert 60 < len(lines) < 130
    assert lines[-1].endswith("h left")


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0 s"), (59.2, "60 s"), (3600.0, "60 min"), (3601.0, "1.1 h")])
def test_durations_are_rounded_up(seconds, text):
    assert progress._duration(seconds) == text
