from .attribution import (
    SheetColumn as SheetColumn,
    contact_sheet as contact_sheet,
    mass_in_boxes as mass_in_boxes,
    mass_in_random_boxes as mass_in_random_boxes,
    peak_distances as peak_distances,
)
from .curves import (
    draw_scores as draw_scores,
    oscr_figure as oscr_figure,
    roc_figure as roc_figure,
    save_figure as save_figure,
    score_histogram as score_histogram,
)
from .examples import (
    ScoredExamples as ScoredExamples,
    examples_figure as examples_figure,
    spread_over as spread_over,
)
from .jacobian import (
    correlation_figure as correlation_figure,
    dynamics_figure as dynamics_figure,
    embedding_heat_map as embedding_heat_map,
    interpolation_figure as interpolation_figure,
    known_classes_figure as known_classes_figure,
    norm_histograms as norm_histograms,
)
from .page import (
    leave_page as leave_page,
    write_page as write_page,
)
from .sweep import (
    arms_figure as arms_figure,
    arms_table as arms_table,
    response_figure as response_figure,
)
from .tables import (
    JND as JND,
    OOD_COLUMNS as OOD_COLUMNS,
    data_text as data_text,
    estimate_json as estimate_json,
    estimate_text as estimate_text,
    interval_text as interval_text,
    number_text as number_text,
    open_set_table as open_set_table,
    results_table as results_table,
)
