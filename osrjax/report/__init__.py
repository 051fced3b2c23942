"""Figures and tables of finished runs.

The only room that draws; it takes arrays and numbers, and measures nothing.
"""

import lazy_loader

# Names are imported at their first use (PEP 562): `--help` needs none of them. __init__.pyi lists them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
