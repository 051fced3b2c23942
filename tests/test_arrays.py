"""Labels of any dtype: exact, or refused by name; float32 or better; JSON that strict readers take."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from osrjax.arrays import at_least_float32, check_integers, class_positions
from osrjax.files import json_text, write_json

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_integers_of_any_width_are_the_same_positions(dtype):
    found = class_positions("labels", np.array([0, 3, 100], dtype), size=3, classes=101)
    assert found.dtype == np.int64
    assert (200 * found).tolist() == [0, 600, 20000]
    assert class_positions("labels", jnp.array([0, 3])).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([True, False]), "labels has dtype bool"),
        (np.array([0.0, 1.0]), "labels has dtype float64"),
        (np.array([0, 1], ml_dtypes.bfloat16), "labels has dtype bfloat16"),
        (np.array([0, 2**63], np.uint64), "labels holds -9223372036854775808"),
        (np.array([0, 2]), r"labels holds 2: give positions in \[0, 2\)"),
        (np.array([[0], [1]]), r"labels has shape \(2, 1\), not \(2,\)"),
        (np.array([0, 1, 1]), r"labels has shape \(3,\), not \(2,\)"),
    ],
)
def test_what_is_no_position_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        class_positions("labels", values, size=2, classes=2)


def test_a_dtype_is_checked_while_code_is_traced():
    with pytest.raises(ValueError, match="rows has dtype bool"):
        jax.eval_shape(lambda rows: check_integers("rows", rows), jax.ShapeDtypeStruct((3,), bool))


@pytest.mark.parametrize(
    ("dtype", "raised"),
    [(np.float16, "float32"), (ml_dtypes.bfloat16, "float32"), (np.int64, "float32"), (np.float64, "float64")],
)
def test_numbers_are_raised_to_float32(dtype, raised):
    assert at_least_float32(np.ones(2, dtype)).dtype == raised


def refuse(word):
    raise AssertionError(f"{word} is no JSON")


def test_json_has_null_for_what_is_no_number(tmp_path):
    value = {"auroc": np.float64(0.5), "interval": (float("-inf"), float("nan")), "deep": [{"x": float("inf")}, 1, "a"]}
    wanted = {"auroc": 0.5, "interval": [None, None], "deep": [{"x": None}, 1, "a"]}
    write_json(tmp_path / "a.json", value)
    for text in (json_text(value), (tmp_path / "a.json").read_text()):
        assert json.loads(text, parse_constant=refuse) == wanted


def test_json_is_written_in_one_place():
    """By osrjax.files alone: json.dumps writes NaN and Infinity. A round trip in memory writes nothing."""
    files = [*(ROOT / "osrjax").rglob("*.py"), *(ROOT / "experiments").glob("*.py")]
    wrong = [path for path in files if re.search(r"(?<!json\.loads\()json\.dumps?\(", path.read_text())]
    assert [path.relative_to(ROOT).as_posix() for path in wrong] == ["osrjax/files.py"]
