"""Open-set recognition in JAX: classify the known classes, detect everything else.

Shape words mean the same everywhere: ``batch`` examples, ``height width channels`` of an image (NHWC),
``classes`` known classes, ``features`` entries of an embedding, ``*batch`` any leading axes.
Importing this package imports neither Flax nor any data, metric or checkpoint library: each module is
imported by its name, such as ``from osrjax import losses`` or ``from osrjax.data import open_source``.
"""

__version__ = "0.1.0"
