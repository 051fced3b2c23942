from .attribution import (
    SheetColumn as SheetColumn,
)
from .attribution import (
    contact_sheet as contact_sheet,
)
from .attribution import (
    mass_in_boxes as mass_in_boxes,
)
from .attribution import (
    mass_in_random_boxes as mass_in_random_boxes,
)
from .attribution import (
    peak_distances as peak_distances,
)
from .curves import (
    oscr_figure as oscr_figure,
)
from .curves import (
    roc_figure as roc_figure,
)
from .curves import (
    save_figure as save_figure,
)
from .curves import (
    score_histogram as score_histogram,
)
from .jacobian import (
    correlation_figure as correlation_figure,
)
from .jacobian import (
    dynamics_figure as dynamics_figure,
)
from .jacobian import (
    embedding_heat_map as embedding_heat_map,
)
from .jacobian import (
    interpolation_figure as interpolation_figure,
)
from .jacobian import (
    known_classes_figure as known_classes_figure,
)
from .jacobian import (
    norm_histograms as norm_histograms,
)
from .sweep import (
    arms_figure as arms_figure,
)
from .sweep import (
    arms_table as arms_table,
)
from .sweep import (
    response_figure as response_figure,
)
from .tables import (
    estimate_json as estimate_json,
)
from .tables import (
    estimate_text as estimate_text,
)
from .tables import (
    interval_text as interval_text,
)
from .tables import (
    open_set_table as open_set_table,
)
from .tables import (
    results_table as results_table,
)
