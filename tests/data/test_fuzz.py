"""Some dozens of the damaged and odd files that experiments/benchmarks/fuzz.py makes by thousands."""

import pytest
from conftest import load_script
from hypothesis import HealthCheck, given, settings

FUZZ = load_script("benchmarks/fuzz")


@pytest.mark.parametrize("reader", FUZZ.READERS)
def test_every_file_gives_pixels_or_one_line(reader):
    found = set()

    @settings(max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(FUZZ.CASES[reader])
    def run(case):
        found.add(FUZZ.outcome(reader, case))

    run()
    assert found == {"pixels", "one line"}


def test_a_reader_that_fails_otherwise_is_noticed(monkeypatch, capsys):
    def broken(case, root):
        raise SyntaxError("broken PNG file")

    monkeypatch.setitem(FUZZ.READERS, "predict", broken)
    assert FUZZ.main(["--readers", "predict", "--cases", "3"]) == 1
    assert "broken PNG file" in capsys.readouterr().err
    assert FUZZ.main(["--cases", "0"]) == 2
