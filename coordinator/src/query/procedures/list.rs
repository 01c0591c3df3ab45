//! The procedures, their parameters and their results.

use std::sync::LazyLock;

use datafusion::arrow::datatypes::{DataType, TimeUnit};

/// What a procedure does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    Optimize,
    ExpireSnapshots,
    RemoveOrphanFiles,
    RewriteManifests,
    RewritePositionDeletes,
    Migrate,
    AddFiles,
    RollbackToSnapshot,
    RollbackToTimestamp,
    SetCurrentSnapshot,
    FastForward,
    RegisterTable,
    Refresh,
    KillQuery,
}

/// What an argument must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// A number of bytes, or a text like `128MB`.
    Size,
    Integer,
    Boolean,
    /// A time, or a text that is one.
    Time,
}

#[derive(Debug)]
pub(super) struct Parameter {
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
}

#[derive(Debug)]
pub(super) struct Procedure {
    pub name: &'static str,
    pub task: Task,
    /// In the order of their positions.
    pub parameters: Vec<Parameter>,
    /// Columns of the result; none: one line of text.
    pub results: Vec<(&'static str, DataType)>,
    /// Whether a catalog that looks after its tables itself does this.
    pub maintains: bool,
}

impl Procedure {
    pub fn find(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|procedure| procedure.name == name)
    }
}

/// All of them, sorted.
pub(super) fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = ALL.iter().map(|procedure| procedure.name).collect();
    names.sort_unstable();
    names
}

fn required(name: &'static str, kind: Kind) -> Parameter {
    Parameter { name, kind, required: true }
}

fn optional(name: &'static str, kind: Kind) -> Parameter {
    Parameter { name, kind, required: false }
}

const COUNT: DataType = DataType::Int64;
const ID: DataType = DataType::Int64;

/// The names are those of Spark's procedures for Iceberg, where it has the same.
static ALL: LazyLock<Vec<Procedure>> = LazyLock::new(|| {
    let table = || required("table", Kind::Text);
    let moved = || vec![("previous_snapshot_id", ID), ("current_snapshot_id", ID)];
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    vec![
        Procedure {
            name: "optimize",
            task: Task::Optimize,
            parameters: vec![
                table(),
                optional("where", Kind::Text),
                optional("target_size", Kind::Size),
                optional("file_size_threshold", Kind::Size),
                optional("strategy", Kind::Text),
                optional("sort_order", Kind::Text),
            ],
            results: vec![
                ("rewritten_data_files_count", COUNT),
                ("added_data_files_count", COUNT),
                ("rewritten_bytes_count", COUNT),
            ],
            maintains: true,
        },
        Procedure {
            name: "expire_snapshots",
            task: Task::ExpireSnapshots,
            parameters: vec![table(), optional("older_than", Kind::Time), optional("retain_last", Kind::Integer)],
            results: vec![
                ("expired_snapshots_count", COUNT),
                ("expired_references_count", COUNT),
                ("deleted_data_files_count", COUNT),
                ("deleted_position_delete_files_count", COUNT),
                ("deleted_equality_delete_files_count", COUNT),
                ("deleted_manifest_files_count", COUNT),
                ("deleted_manifest_lists_count", COUNT),
                ("deleted_statistics_files_count", COUNT),
                ("left_files_count", COUNT),
            ],
            maintains: true,
        },
        Procedure {
            name: "remove_orphan_files",
            task: Task::RemoveOrphanFiles,
            parameters: vec![table(), optional("older_than", Kind::Time), optional("dry_run", Kind::Boolean)],
            results: vec![("orphan_file_location", DataType::Utf8), ("bytes", COUNT), ("last_modified", time)],
            maintains: true,
        },
        Procedure {
            name: "rewrite_manifests",
            task: Task::RewriteManifests,
            parameters: vec![table()],
            results: vec![("rewritten_manifests_count", COUNT), ("snapshot_id", ID)],
            maintains: true,
        },
        Procedure {
            name: "rewrite_position_deletes",
            task: Task::RewritePositionDeletes,
            parameters: vec![table()],
            results: vec![("rewritten_delete_files_count", COUNT), ("added_delete_files_count", COUNT)],
            maintains: true,
        },
        Procedure {
            name: "migrate",
            task: Task::Migrate,
            parameters: vec![table(), required("location", Kind::Text)],
            results: vec![("added_files_count", COUNT), ("added_records_count", COUNT)],
            maintains: false,
        },
        Procedure {
            name: "add_files",
            task: Task::AddFiles,
            parameters: vec![table(), required("location", Kind::Text)],
            results: vec![("added_files_count", COUNT), ("added_records_count", COUNT)],
            maintains: false,
        },
        Procedure {
            name: "rollback_to_snapshot",
            task: Task::RollbackToSnapshot,
            parameters: vec![table(), required("snapshot_id", Kind::Integer)],
            results: moved(),
            maintains: false,
        },
        Procedure {
            name: "rollback_to_timestamp",
            task: Task::RollbackToTimestamp,
            parameters: vec![table(), required("timestamp", Kind::Time)],
            results: moved(),
            maintains: false,
        },
        Procedure {
            name: "set_current_snapshot",
            task: Task::SetCurrentSnapshot,
            parameters: vec![table(), optional("snapshot_id", Kind::Integer), optional("ref", Kind::Text)],
            results: moved(),
            maintains: false,
        },
        Procedure {
            name: "fast_forward",
            task: Task::FastForward,
            parameters: vec![table(), required("branch", Kind::Text), required("to", Kind::Text)],
            results: vec![("branch_updated", DataType::Utf8), ("previous_ref", ID), ("updated_ref", ID)],
            maintains: false,
        },
        Procedure {
            name: "register_table",
            task: Task::RegisterTable,
            parameters: vec![table(), required("metadata_file", Kind::Text)],
            results: vec![
                ("current_snapshot_id", ID),
                ("total_records_count", COUNT),
                ("total_data_files_count", COUNT),
            ],
            maintains: false,
        },
        Procedure { name: "refresh", task: Task::Refresh, parameters: vec![], results: vec![], maintains: false },
        Procedure {
            name: "kill_query",
            task: Task::KillQuery,
            parameters: vec![required("id", Kind::Text)],
            results: vec![],
            maintains: false,
        },
    ]
});
