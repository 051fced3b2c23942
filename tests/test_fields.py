"""Fields of configurations: their types, limits and marks."""

import dataclasses
import types
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
import pytest

from osrjax.fields import (
    Execution,
    Place,
    check_at_most,
    check_directories,
    check_seed,
    check_type,
    execution_fields,
    marked_fields,
    plain_fields,
)


@dataclasses.dataclass(frozen=True)
class Config:
    data: Annotated[str, Place] = "digits"
    out: Annotated[Path | None, Execution] = None
    seed: int = 0
    known: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (int, [3, -1, np.int64(3)], [True, 3.0, "3", None, [3], 10**400]),
        (float, [0.5, 3, np.float32(0.5), float("nan")], [True, "0.5", None, (0.5,), 10**400]),
        (bool, [True, False], [1, 0, "True", None]),
        (str, ["a", ""], [1, None, ["a"]]),
        (int | None, [3, None], ["3", True, {}]),
        (Literal["one", "all"], ["one"], ["two", None, 1, ["one"]]),
        (Literal[1, -1], [1, -1], [True, 1.0, 0, "1"]),
        (tuple[int, ...], [(), (1, 2)], [(1, "a"), [1], 1, None, ((1,),)]),
        (tuple[int, int] | None, [(1, 2), None], [(1,), (1, 2, 3), (1, None)]),
        (Path | None, [Path("a"), None], ["a", 3]),
        (list[int], [[1], "anything"], []),  # a hint of a user's own class, of which nothing is known
    ],
)
def test_types(hint, good, bad):
    for value in good:
        check_type("field", value, hint)
    for value in bad:
        with pytest.raises(ValueError, match=r"^field=.+ is no .+: correct it, ") as caught:
            check_type("field", value, hint)
        assert len(str(caught.value)) < 300


def test_a_seed_has_the_bits_that_jax_reads():
    assert (jax.random.key_data(jax.random.key(2**32 + 5)) == jax.random.key_data(jax.random.key(5))).all()
    for seed in (0, 2**31, 2**32 - 1):
        check_seed(Config(seed=seed))
    for seed, message in ((-1, "seed=-1 must not be negative"), (2**32, "seed=4294967296 is above 4294967295"),
                          (2**63, "seed=9223372036854775808 is above")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            check_seed(Config(seed=seed))


def test_a_list_of_directories_names_one_at_least_and_no_file(tmp_path):
    config = types.SimpleNamespace(places=(tmp_path,))
    check_directories(config, "places", "one")
    (tmp_path / "file").touch()
    for places in ((), (tmp_path, tmp_path / "file"), (tmp_path / "none",)):
        with pytest.raises(ValueError, match=r"^places=.+: give one$"):
            check_directories(types.SimpleNamespace(places=places), "places", "one")


def test_limits_and_marks():
    check_at_most(Config(seed=7), {"seed": 7})
    check_at_most(Config(), {"out": 7})  # None
    with pytest.raises(ValueError, match="seed=8 is above 7: give a smaller number"):
        check_at_most(Config(seed=8), {"seed": 7})
    assert (execution_fields(Config), marked_fields(Config, Place)) == (("out",), ("data",))
    plain = {"data": "digits", "out": "a/b", "seed": 0, "known": (1,)}
    assert plain_fields(Config(out=Path("a/b"), known=(1,))) == plain
