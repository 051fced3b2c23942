"""Data sets: sources of uint8 images, class splits, the parts that a split takes, batches, corruptions.

Importing this package reads no data and imports neither JAX, grain, scikit-learn nor TensorFlow Datasets.
"""

from osrjax.data.batches import Batches, batch_indices, stream
from osrjax.data.catalogue import SOURCES, open_source
from osrjax.data.choice import DATA_DEFAULTS, choose_data, content_of, describe_data
from osrjax.data.open_set import OpenSetData, open_set_data, pseudo_unknown_data
from osrjax.data.prepared import PREPARED_SETS, element_sequence
from osrjax.data.source import Examples, MissingDataError, Source

__all__ = [
    "DATA_DEFAULTS",
    "PREPARED_SETS",
    "SOURCES",
    "Batches",
    "Examples",
    "MissingDataError",
    "OpenSetData",
    "Source",
    "batch_indices",
    "choose_data",
    "content_of",
    "describe_data",
    "element_sequence",
    "open_set_data",
    "open_source",
    "pseudo_unknown_data",
    "stream",
]
