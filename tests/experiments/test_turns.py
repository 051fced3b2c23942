"""Two sides take turns; what is compared, and when there is no ratio. All times are made up."""

import importlib
import itertools
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "experiments" / "benchmarks"


@pytest.fixture
def turns(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("turns")


class MadeUp:
    """A side whose works take the times that are given, a block after the other, and that notes its turns."""

    def __init__(self, turns, diary, times, blocks=3, **conditions):
        self.names, self.diary, self.blocks = list(times), diary, blocks
        self.times = {who: itertools.cycle(values) for who, values in times.items()}
        self.make = lambda seconds: turns.Turn(seconds, **conditions)

    def turn(self, who, shortest, settle):
        self.diary.append((who, settle > 0))
        return self.make([next(self.times[who]) for _ in range(self.blocks)])


def measured(turns, repeats=15, conditions=(), **times):
    """Each work a side of its own."""
    conditions = dict(conditions)
    sides = [MadeUp(turns, [], {who: values}, **conditions.get(who, {})) for who, values in times.items()]
    return turns.take_turns(sides, repeats)


# Taking turns.


def test_sides_alternate_and_the_first_turn_is_left_out(turns):
    diary = []
    ours = MadeUp(turns, diary, {"a": range(1, 100)}, blocks=2)
    theirs = MadeUp(turns, diary, {"b": range(100, 200), "c": range(200, 300)}, blocks=2)
    seen = turns.take_turns([ours, theirs], 4)
    whos = "".join(who for who, _ in diary)
    assert whos == "abc" + "bca" + "cab" + "abc"  # nobody always follows the same neighbour
    assert all(settles for _, settles in diary)
    assert seen.seconds == {
        "a": [[3, 4], [5, 6], [7, 8]],
        "b": [[102, 103], [104, 105], [106, 107]],
        "c": [[202, 203], [204, 205], [206, 207]],
    }


def test_of_two_sides_with_several_works_each_one_follows_the_other(turns):
    diary = []
    ours, theirs = (MadeUp(turns, diary, {who: [1.0] for who in names}) for names in ("ace", "bd"))
    turns.take_turns([ours, theirs], 2)
    assert "".join(who for who, _ in diary) == "abcde" + "bcdea"


def test_one_side_alone_waits_for_nobody_and_some_of_its_works_can_be_named(turns):
    diary = []
    side = MadeUp(turns, diary, {"a": [1.0], "b": [2.0], "c": [3.0]})
    seen = turns.take_turns([side], 3, names=iter(["c", "a"]))
    assert "".join(who for who, _ in diary) == "acca" + "ac"
    assert not any(settles for _, settles in diary)
    assert list(seen.seconds) == ["a", "c"]


def test_fast_work_is_repeated_within_a_block_and_slow_work_is_a_block(turns):
    class Clock:
        now = 0.0

    def work(seconds):
        def call():
            Clock.now += seconds

        return call

    read = lambda: Clock.now  # noqa: E731
    fast, middling, slow = (turns.plan_of(work(seconds), 0.2, read) for seconds in (0.01, 0.15, 1.3))
    assert fast == (20, turns.MOST_BLOCKS)
    assert middling == (2, 3)
    assert slow == (1, 1)
    Clock.now = 0.0
    assert turns.block_times(work(0.25), turns.Plan(8, 2), read) == [0.25, 0.25]
    assert Clock.now == (2 + 16) * 0.25  # a quarter of a block before it, not timed
    Clock.now = 0.0
    assert turns.block_times(work(2.0), turns.Plan(1, 1), read) == [2.0]
    assert Clock.now == 2.0


SIDE = """
import os
from turns import Work
print("a library greets")

def side(word, fail=False):
    if fail:
        raise SystemExit("made_up.py: no luck today")
    os.write(1, b"and again\\n")
    calls = []
    return Work({"one": lambda: calls.append(1), "two": lambda: print("speaks")}, {"word": word, "pid": os.getpid()})
"""


def test_a_side_is_a_process_that_measures_when_it_is_told_to(turns, tmp_path, monkeypatch, capfd):
    (tmp_path / "made_up.py").write_text(SIDE)
    environment = {"PYTHONPATH": str(tmp_path)}
    with turns.SideProcess("made_up:side", {"word": "yes"}, environment=environment) as side:
        assert side.names == ["one", "two"]
        assert side.facts["word"] == "yes"
        seen = turns.take_turns([side], 3, shortest=1e-6)
        process = Path(f"/proc/{side.facts['pid']}")
    assert {who: len(made) for who, made in seen.seconds.items()} == {"one": 2, "two": 2}
    assert all(block > 0 for made in seen.seconds.values() for turn in made for block in turn)
    assert set(seen.taken) == set(seen.idle) == {"one", "two"}
    assert not process.exists()
    with pytest.raises(turns.SideError, match="made_up:side ended with exit code 1"):
        turns.SideProcess("made_up:side", {"word": "no", "fail": True}, environment=environment)
    captured = capfd.readouterr()
    assert captured.out == ""  # what a side prints goes where errors go
    assert "a library greets" in captured.err
    assert "and again" in captured.err
    assert "made_up.py: no luck today" in captured.err


def test_seconds_of_cores_do_not_go_back(turns):
    before = turns.core_seconds()
    sum(range(100_000))
    assert all(after >= start >= 0 for start, after in zip(before, turns.core_seconds(), strict=True))


# The verdict.


def test_the_fifth_best_block_is_compared(turns):
    assert turns.best([5.0, 1.0, 2.0, 3.0, 4.0, 6.0]) == 2.0
    assert turns.best([1.0, 2.0]) == pytest.approx(1.2)
    assert turns.best([7.0]) == 7.0


def test_ratio_is_of_the_fastest_of_each_side(turns):
    seen = measured(turns, 6, a=[1.0], b=[9.0], c=[2.0, 2.1, 2.2, 2.3, 2.4], d=[8.0])
    flat = turns.Measured(
        {"a": [[1.0]] * 5, "b": [[9.0]] * 5, "c": [[2.0], [2.1], [2.2], [2.3], [2.4]], "d": [[8.0]] * 5},
        seen.taken,
        seen.idle,
    )
    assert turns.compare(flat, ["b", "a"], ["d", "c"]) == (2.08, [2.05, 2.35], None)


@pytest.mark.parametrize("slow", range(1, 10))
def test_a_side_that_falls_13_times_behind_in_half_of_its_blocks_is_unreliable(turns, slow):
    """Whatever the share of slow blocks: a ratio is that of the undisturbed sides, or there is none."""
    theirs = [13.0] * slow + [1.0] * (10 - slow)
    verdict = turns.compare(measured(turns, ours=[1.0], theirs=theirs), ["ours"], ["theirs"])
    if slow >= 5:
        assert verdict.ratio is None
        assert verdict.quartiles is None
        assert verdict.reason.startswith("the median block of 'theirs' took ")
        assert verdict.reason.endswith("measure again with more --repeats")
        assert "\n" not in verdict.reason
    else:
        assert (verdict.ratio, verdict.reason) == (1.0, None)
    # Neither side is spared.
    assert turns.compare(measured(turns, ours=theirs, theirs=[1.0]), ["ours"], ["theirs"]).ratio == verdict.ratio


def test_who_was_disturbed_may_have_been_the_fastest_of_its_side(turns):
    seen = measured(turns, a=[1.0], b=[2.0], c=[1.0, 1.0, 1.0, 30.0, 30.0, 30.0])
    assert turns.compare(seen, ["a"], ["b", "c"]).ratio is None
    assert turns.compare(seen, ["a"], ["b"]).ratio == 2.0


def test_a_side_that_is_slowed_down_in_all_its_blocks_is_told_by_its_cores(turns):
    seen = measured(turns, conditions={"b": {"taken": 1.0}}, a=[1.0], b=[13.0], c=[2.0])
    verdict = turns.compare(seen, ["a"], ["b"])
    assert verdict.ratio is None
    assert verdict.reason.startswith("for each second of 'b' other programs took 1.0 s of its cores: stop")
    assert turns.compare(seen, ["a"], ["c"]).ratio == 2.0


def test_a_side_that_computes_in_the_turns_of_the_other_is_found(turns):
    waits = {"a": {"waited": 2.0, "busy": 0.02}, "b": {"waited": 2.0, "busy": 1.9}}
    seen = measured(turns, conditions=waits, a=[1.0], b=[1.0])
    assert seen.idle == {"a": pytest.approx(0.01), "b": pytest.approx(0.95)}
    assert "'b' kept 0.9 cores busy" in turns.compare(seen, ["a"], ["b"]).reason
    # Works of one side follow each other at once: there is nothing to judge.
    at_once = measured(turns, conditions={"a": {"waited": 1e-4, "busy": 1e-4}}, a=[1.0])
    assert at_once.idle == {"a": 0.0}


def test_times_per_part_of_a_unit(turns):
    seen = measured(turns, 3, a=[1.0], b=[1.0]).per({"a": 4, "b": 0.5})
    assert (seen.best("a"), seen.best("b"), seen.median("b"), seen.spread("b")) == (0.25, 2.0, 2.0, 1.0)
