"""From outputs of a network to all scores x all metrics, and the linear probe of frozen features.

Arrays in, numbers out; what produced the outputs is a method's business.
"""

import lazy_loader

# Names are imported at their first use (PEP 562): `--help` needs none of them. __init__.pyi lists them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
