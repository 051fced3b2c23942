"""A run on disk: directory, checkpoints, loop, signals, lanes, launch, and opening a finished one.

Here stands what survives a kill. The training step itself is :mod:`osrjax.train`; nothing here draws or tabulates.
"""

import lazy_loader

# Names are imported at their first use (PEP 562): `--help` needs none of them. __init__.pyi lists them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
