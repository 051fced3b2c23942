"""small_cnn with an eighth of its channels, for scripts whose network is not what is tested.

python narrow.py SCRIPT OPTIONS runs a script with it in a process of its own.
"""

import contextlib
import functools
import runpy
import sys
from pathlib import Path
from unittest import mock


@contextlib.contextmanager
def narrow_network():
    """Within, small_cnn is narrow."""
    from osrjax.models.backbones import NETWORKS, SmallCNN  # not above: a test's shape checks come first

    with mock.patch.dict(NETWORKS, small_cnn=functools.partial(SmallCNN, width=4, features=32)):
        yield


if __name__ == "__main__":
    script = sys.argv[1]
    sys.argv[:2] = [script]
    sys.path[0] = str(Path(script).parent)  # as Python itself does
    with narrow_network():
        runpy.run_path(script, run_name="__main__")
