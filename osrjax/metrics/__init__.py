"""Metrics on the host: detection, intervals, effect sizes; unknown is the positive class.

Here stand NumPy, SciPy and scikit-learn on arrays of scores, features or runs, and no network and no file. A score of
one example is :mod:`osrjax.scores`; all scores x all metrics are :mod:`osrjax.evaluation`.
"""

import lazy_loader

# Names are imported at their first use (PEP 562): `--help` needs none of them. __init__.pyi lists them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
