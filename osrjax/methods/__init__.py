"""A method is what changes when the loss changes: network, objective, optimiser, outputs, scores.

One file per method, beside the parts that several share. Nothing outside this room asks of which kind a run is.
"""

import lazy_loader

# Names are imported at their first use (PEP 562): `--help` needs none of them. __init__.pyi lists them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
