"""Networks in Flax: backbones, heads, and functions of their outputs.

The only room that knows Flax; no loss, no optimiser, no file.
"""

import lazy_loader

# Names are imported at their first use (PEP 562): `--help` needs none of them. __init__.pyi lists them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
