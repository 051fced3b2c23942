"""Tables of names, and what an entry of one becomes."""

from typing import get_args

import pytest

from osrjax import models
from osrjax.choices import load
from osrjax.models.table import BACKBONES, NetworkName


def test_the_names_of_networks_stand_once():
    assert list(models.NETWORKS) == list(BACKBONES) == list(get_args(NetworkName))
    assert models.NETWORKS["small_cnn"] is models.SmallCNN is load(BACKBONES["small_cnn"])
    assert models.NETWORKS["wrn16_4"]().widen == 4


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("SmallCNN", "'SmallCNN' is not of the form module:object"),
        ("a:b:c", "is not of the form"),
        (":b", "is not of the form"),
        ("no_such_module:f", "cannot be imported .*No module named 'no_such_module'"),
        ("math:no_such_name", "cannot be imported .*no_such_name"),
    ],
)
def test_a_bad_entry_is_named(path, message):
    with pytest.raises(ValueError, match=message):
        load(path)
