from .anchors import (
    Anchor as Anchor,
    published_anchors as published_anchors,
)
from .attribution import (
    SheetColumn as SheetColumn,
    contact_sheet as contact_sheet,
    effective_areas as effective_areas,
    mass_in_boxes as mass_in_boxes,
    mass_in_random_boxes as mass_in_random_boxes,
    peak_distances as peak_distances,
)
from .claim_pages import (
    ClaimPages as ClaimPages,
    claims_texts as claims_texts,
)
from .claims import (
    CLAIM_FIGURES as CLAIM_FIGURES,
    CLAIM_TEXTS as CLAIM_TEXTS,
    ClaimTable as ClaimTable,
    claim_entries as claim_entries,
    claim_figures as claim_figures,
    claim_tables as claim_tables,
)
from .corruption import (
    CORRUPTION_KINDS as CORRUPTION_KINDS,
    corruption_columns as corruption_columns,
    corruption_sheets as corruption_sheets,
    corruptions_text as corruptions_text,
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
from .effect_figures import (
    Point as Point,
    effects_figure as effects_figure,
)
from .effects import (
    effect_rows as effect_rows,
    role_rows as role_rows,
    what_would_change as what_would_change,
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
    entry_tables as entry_tables,
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
from .mechanism_figures import (
    detectors_figure as detectors_figure,
    distance_figure as distance_figure,
    lines_figure as lines_figure,
    roles_figure as roles_figure,
)
from .page import (
    leave_page as leave_page,
    write_page as write_page,
)
from .probes import (
    probe_arms_figure as probe_arms_figure,
    probe_correlation_figure as probe_correlation_figure,
    probe_dynamics_figure as probe_dynamics_figure,
    probe_embedding_figure as probe_embedding_figure,
    probe_histograms as probe_histograms,
    probe_interpolation_figure as probe_interpolation_figure,
    probe_steps as probe_steps,
)
from .refill import (
    entry_sources as entry_sources,
    refilled as refilled,
    small_png as small_png,
    write_tables as write_tables,
)
from .sheets import (
    Sheet as Sheet,
    comparison_sheet as comparison_sheet,
    own_sheet as own_sheet,
    p_text as p_text,
    score_sheets as score_sheets,
)
from .studies import (
    STUDY_GATE as STUDY_GATE,
    STUDY_TEXTS as STUDY_TEXTS,
    StudyTable as StudyTable,
    study_tables as study_tables,
)
from .studies_figures import (
    STUDY_FIGURES as STUDY_FIGURES,
    growth_figure as growth_figure,
    recipe_figure as recipe_figure,
    study_figures as study_figures,
)
from .sweep import (
    arms_figure as arms_figure,
    arms_table as arms_table,
    response_figure as response_figure,
    response_panels as response_panels,
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
from .titles import (
    METRIC_TITLES as METRIC_TITLES,
    metric_title as metric_title,
)
from .verdicts import (
    GATES as GATES,
    PairedVerdict as PairedVerdict,
    gate_of as gate_of,
    paired_verdicts as paired_verdicts,
    verdict as verdict,
)
