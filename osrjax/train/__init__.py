"""Training as pure functions: objective, optimiser, step, lanes, batches, devices.

The room that knows optax. Nothing here opens a file (that is :mod:`osrjax.run`) or asks what a loss is called.
"""

import lazy_loader

# Names are imported at their first use (PEP 562): `--help` needs none of them. __init__.pyi lists them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
