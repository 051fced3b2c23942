"""Meshes, and what eight virtual devices compute against one."""

import pytest

from osrjax import sharding


@pytest.mark.parametrize(
    ("lanes", "devices", "shape"),
    [(16, 4, (4, 1)), (2, 4, (2, 2)), (6, 4, (2, 2)), (3, 4, (1, 4)), (5, 1, (1, 1)), (4, None, (4, 1))],
)
def test_lanes_and_batches_share_the_devices_evenly(lanes, devices, shape):
    mesh = sharding.sweep_mesh(lanes, devices)
    assert mesh.axis_names == ("member", "data")
    assert mesh.devices.shape == shape
    assert lanes % shape[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"), [((0,), "lanes=0 is below 1"), ((4, 99), "devices=99 but 4 are visible: ask for 1 to 4")]
)
def test_bad_meshes(arguments, message):
    with pytest.raises(ValueError, match=message):
        sharding.sweep_mesh(*arguments)
