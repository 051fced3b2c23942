"""Where a program runs: CPU settings, convolutions, meshes, processes.

Here stands what knows JAX and the operating system, and nothing of networks, data or runs. Names are those of its
modules: ``devices.sharding.data_mesh``.
"""

import lazy_loader

# Names are imported at their first use (PEP 562): `--help` needs none of them. __init__.pyi lists them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
