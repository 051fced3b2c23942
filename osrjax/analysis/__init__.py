"""What is measured of networks: norms and maps of a data set, probes during training, claims, costs of a compiled step.

Here stands what takes a network, a data set or many runs to measure, and the rule that decides claims. A number of
given arrays is :mod:`osrjax.metrics`, a figure :mod:`osrjax.report`; nothing here trains or draws.
"""

import lazy_loader

# Names are imported at their first use (PEP 562): `--help` needs none of them. __init__.pyi lists them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
