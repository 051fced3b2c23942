"""Data sets: sources of uint8 images, class splits, the parts that a split takes, batches, corruptions.

Here stands everything from files to numbered images with labels, on the host; no network and no augmentation. Importing
this package reads no data and imports neither JAX, grain, scikit-learn nor TensorFlow Datasets.
"""

import lazy_loader

# Names are imported at their first use (PEP 562): `--help` needs none of them. __init__.pyi lists them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
