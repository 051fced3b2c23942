"""From outputs of a network to all scores x all metrics, and the linear probe of frozen features.

Here stands which scores meet which metrics: arrays in, numbers out. A score of one example is :mod:`osrjax.scores`, a
metric :mod:`osrjax.metrics`; where the outputs come from is a method's business.
"""

import lazy_loader

# Names are imported at their first use (PEP 562): `--help` needs none of them. __init__.pyi lists them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
