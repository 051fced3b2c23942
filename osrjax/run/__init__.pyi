from .checkpoint import (
    Checkpoints as Checkpoints,
    LaneCheckpoints as LaneCheckpoints,
    Restored as Restored,
    UnreadableCheckpointsError as UnreadableCheckpointsError,
)
from .directory import (
    Run as Run,
    check_files as check_files,
    open_run as open_run,
    read_network as read_network,
)
from .entries import (
    MANIFEST as MANIFEST,
    Entry as Entry,
    check_entry_of as check_entry_of,
    entry_corruption as entry_corruption,
    entry_probe as entry_probe,
    find_entries as find_entries,
    is_entry as is_entry,
    keep_corruption as keep_corruption,
    manifest_of_run as manifest_of_run,
    read_entry as read_entry,
    write_entry as write_entry,
)
from .environment import (
    provenance as provenance,
)
from .finished import (
    FinishedRun as FinishedRun,
    open_finished as open_finished,
)
from .foreign import (
    ForeignSet as ForeignSet,
    foreign_sets as foreign_sets,
)
from .grid import (
    REPEAT as REPEAT,
    check_finished as check_finished,
    check_same_data as check_same_data,
    is_finished as is_finished,
    run_cells as run_cells,
    run_commands as run_commands,
)
from .history import (
    ValidationCurve as ValidationCurve,
    training_seconds as training_seconds,
    validation_curve as validation_curve,
)
from .lane_program import (
    Lane as Lane,
    LanesProgram as LanesProgram,
    build_lanes as build_lanes,
)
from .lanes import (
    LANE_HISTORY as LANE_HISTORY,
    LANE_METRICS as LANE_METRICS,
    LaneResults as LaneResults,
    train_lanes as train_lanes,
)
from .launch import (
    EntriesConfig as EntriesConfig,
    FinishedConfig as FinishedConfig,
    ImagesOfRunsConfig as ImagesOfRunsConfig,
    Job as Job,
    MovedConfig as MovedConfig,
    RunConfig as RunConfig,
    RunsConfig as RunsConfig,
    SingleRunConfig as SingleRunConfig,
    launch_run as launch_run,
)
from .loop import (
    LoopResult as LoopResult,
    check_profile_steps as check_profile_steps,
    train_loop as train_loop,
)
from .names import (
    run_name as run_name,
)
from .parsing import (
    parse as parse,
    preset_config as preset_config,
)
from .program import (
    Program as Program,
    Stage as Stage,
    make_program as make_program,
)
from .results import (
    asked_of as asked_of,
    kept_arrays as kept_arrays,
    result_directory as result_directory,
)
from .scoring import (
    outputs_of_images as outputs_of_images,
    parts_of as parts_of,
    score_run as score_run,
    stored_outputs as stored_outputs,
)
from .signals import (
    StopSignal as StopSignal,
)
from .single import (
    kept_probe as kept_probe,
    outputs_of_parts as outputs_of_parts,
    train_single as train_single,
    write_outputs as write_outputs,
)
