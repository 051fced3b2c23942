from .anchors import (
    Anchor as Anchor,
    published_anchors as published_anchors,
)
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
    panel_axes as panel_axes,
    progress_figure as progress_figure,
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
from .leaderboard import (
    ResultTable as ResultTable,
    RunResult as RunResult,
    ScoreRow as ScoreRow,
    accuracy_correlation as accuracy_correlation,
    accuracy_points as accuracy_points,
    manifest_results as manifest_results,
    result_tables as result_tables,
    score_ranks as score_ranks,
    score_rows as score_rows,
)
from .leaderboard_figures import (
    accuracy_figure as accuracy_figure,
    ranks_figure as ranks_figure,
)
from .leaderboard_pages import (
    Leaderboard as Leaderboard,
    leaderboard_texts as leaderboard_texts,
)
from .markup import (
    csv_text as csv_text,
    latex_table as latex_table,
    latex_text as latex_text,
    markdown_table as markdown_table,
    markdown_text as markdown_text,
)
from .page import (
    leave_page as leave_page,
    write_page as write_page,
)
from .sheets import (
    Sheet as Sheet,
    comparison_sheet as comparison_sheet,
    score_sheets as score_sheets,
)
from .sweep import (
    arms_figure as arms_figure,
    arms_table as arms_table,
    response_figure as response_figure,
)
from .tables import (
    JND as JND,
    OOD_COLUMNS as OOD_COLUMNS,
    cell_text as cell_text,
    data_text as data_text,
    estimate_json as estimate_json,
    estimate_text as estimate_text,
    interval_text as interval_text,
    number_text as number_text,
    open_set_table as open_set_table,
    operating_point_text as operating_point_text,
    results_table as results_table,
)
from .verdicts import (
    GATES as GATES,
    PairedVerdict as PairedVerdict,
    gate_of as gate_of,
    paired_verdicts as paired_verdicts,
    verdict as verdict,
)
