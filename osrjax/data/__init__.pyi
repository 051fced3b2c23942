from .batches import (
    Batches as Batches,
)
from .batches import (
    batch_indices as batch_indices,
)
from .batches import (
    stream as stream,
)
from .catalogue import (
    SOURCES as SOURCES,
)
from .catalogue import (
    open_source as open_source,
)
from .choice import (
    DataConfig as DataConfig,
)
from .choice import (
    ImagesConfig as ImagesConfig,
)
from .choice import (
    choose_data as choose_data,
)
from .choice import (
    content_of as content_of,
)
from .choice import (
    describe_data as describe_data,
)
from .open_set import (
    OpenSetData as OpenSetData,
)
from .open_set import (
    open_set_data as open_set_data,
)
from .open_set import (
    pseudo_unknown_data as pseudo_unknown_data,
)
from .prepared import (
    PREPARED_SETS as PREPARED_SETS,
)
from .prepared import (
    element_sequence as element_sequence,
)
from .source import (
    Examples as Examples,
)
from .source import (
    MissingDataError as MissingDataError,
)
from .source import (
    Source as Source,
)
from .table import (
    DATA_SETS as DATA_SETS,
)
from .table import (
    DataSet as DataSet,
)
from .table import (
    data_set as data_set,
)
from .table import (
    resolve_data as resolve_data,
)
