"""Open-set recognition in JAX: classify the known classes, detect everything else.

Shape words mean the same everywhere: ``batch`` examples, ``height width channels`` of an image (NHWC),
``classes`` known classes, ``features`` entries of an embedding, ``*batch`` any leading axes.
Importing this package imports nothing else: each room is imported at its first use, such as
``osrjax.losses.m_ovr_loss`` or ``from osrjax.data import open_source``. A room's docstring says what may stand there.
"""

import lazy_loader

__getattr__, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.2.0"
