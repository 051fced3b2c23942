from .batches import (
    Batches as Batches,
    batch_indices as batch_indices,
    drawn_rows as drawn_rows,
    stream as stream,
)
from .catalogue import (
    SOURCES as SOURCES,
    open_source as open_source,
)
from .choice import (
    DataConfig as DataConfig,
    ImagesConfig as ImagesConfig,
    choose_data as choose_data,
    describe_data as describe_data,
)
from .classes import (
    class_ids as class_ids,
    class_table as class_table,
)
from .corruptions import (
    corrupt as corrupt,
    mean_corruption_error as mean_corruption_error,
    published_corruption as published_corruption,
)
from .decoding import (
    decoded_image as decoded_image,
)
from .identity import (
    content_of as content_of,
    image_digests as image_digests,
    other_content as other_content,
    parts_sha256 as parts_sha256,
)
from .open_set import (
    OpenSetData as OpenSetData,
    open_set_data as open_set_data,
    pseudo_unknown_data as pseudo_unknown_data,
)
from .prepared import (
    PREPARED_SETS as PREPARED_SETS,
    element_sequence as element_sequence,
)
from .source import (
    Examples as Examples,
    MissingDataError as MissingDataError,
    Source as Source,
)
from .table import (
    DATA_SETS as DATA_SETS,
    DataSet as DataSet,
    data_set as data_set,
    resolve_data as resolve_data,
)
