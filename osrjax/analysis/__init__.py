"""What training does to a network: norms of a data set, probes, claims, costs of a compiled step.

Measures trained or training networks and decides claims; draws nothing.
"""

import lazy_loader

# Names are imported at their first use (PEP 562): `--help` needs none of them. __init__.pyi lists them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
