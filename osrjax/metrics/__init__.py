"""Metrics on the host: detection, intervals, effect sizes; unknown is the positive class.

NumPy, SciPy and scikit-learn on arrays of scores; nothing here knows a network or a file.
"""

import lazy_loader

# Names are imported at their first use (PEP 562): `--help` needs none of them. __init__.pyi lists them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
