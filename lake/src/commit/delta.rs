//! What a statement changes in the rows of a table: files that come, files that go, rows of files that go.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::logical_expr::Expr;
use iceberg::spec::{DataContentType, FormatVersion, Operation, Struct};
use townlake_common::{Error, ErrorCode, Result};

use crate::PlannedTarget;
use crate::types::{DeleteFile, DeleteKind, FilePlan, LoadedTable, PlannedFile, WrittenFile};

/// A statement that changes rows, for the table properties that say how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowCommand {
    /// `DELETE`.
    Delete,
    /// `UPDATE`.
    Update,
    /// `MERGE`.
    Merge,
}

impl RowCommand {
    fn property<'a>(self, table: &'a LoadedTable, what: &str) -> Option<&'a str> {
        let command = match self {
            Self::Delete => "delete",
            Self::Update => "update",
            Self::Merge => "merge",
        };
        table.metadata.properties().get(&format!("write.{command}.{what}")).map(String::as_str)
    }
}

/// A change of a table, made for the state of it that a statement has read.
#[derive(Debug, Clone)]
pub struct Delta {
    /// Data files and position delete files that come.
    pub(super) added: Vec<WrittenFile>,
    /// The URIs of data and delete files that go.
    pub(super) removed: HashSet<String>,
    /// The data files that go or lose rows, as they were read.
    pub(super) touched: Vec<PlannedFile>,
    /// Whether rows of the touched files are written anew: who deletes one of them meanwhile would see it come back.
    pub(super) moves_rows: bool,
    /// Rows that come meanwhile and match these are a conflict; `None`: no such row is.
    pub(super) conflicting: Option<Vec<Expr>>,
    /// What the snapshot is called.
    pub(super) operation: Operation,
    /// For the data files that come; by default that of the snapshot.
    pub(super) sequence_number: Option<i64>,
}

impl Delta {
    /// Of a statement that has read `target` and written `written`. A data file that has lost all its rows goes as a whole.
    ///
    /// Errors: `INVALID_ARGUMENT` for an isolation level in the table's properties that is none.
    pub fn of_rows(
        table: &LoadedTable,
        command: RowCommand,
        target: &PlannedTarget,
        written: Vec<WrittenFile>,
    ) -> Result<Self> {
        let files: HashMap<&str, &PlannedFile> =
            target.files.files.iter().map(|file| (file.path.as_str(), file)).collect();
        let mut lost: HashMap<String, u64> = HashMap::new();
        for delete in &written {
            if let Some(data_file) = delete.data_file.referenced_data_file() {
                *lost.entry(data_file).or_default() += delete.data_file.record_count();
            }
        }
        let touched = lost.keys().filter_map(|path| files.get(path.as_str())).map(|file| (*file).clone()).collect();
        let is_gone = |path: &str, rows: u64| {
            files.get(path).is_some_and(|file| file.deletes.is_empty() && file.record_count == rows)
        };
        lost.retain(|path, rows| is_gone(path, *rows));
        Ok(Self {
            added: written,
            removed: lost.into_keys().collect(),
            touched,
            moves_rows: command != RowCommand::Delete,
            conflicting: is_serializable(table, command)?.then(|| target.filters.clone()),
            operation: Operation::Overwrite,
            sequence_number: None,
        }
        .named())
    }

    /// The table without the files `gone` of `plan`, which is all of it, and with those that were written. Deletes that no
    /// other file needs go too.
    pub fn replacing(plan: &FilePlan, gone: Vec<PlannedFile>, written: Vec<WrittenFile>) -> Self {
        let mut removed: HashSet<String> = gone.iter().map(|file| file.path.clone()).collect();
        let stay = plan.files.iter().filter(|file| !removed.contains(&file.path));
        let needed: HashSet<usize> = stay.flat_map(|file| file.deletes.iter().copied()).collect();
        let needless = plan.deletes.iter().enumerate().filter(|(number, _)| !needed.contains(number));
        let needless: Vec<String> = needless.map(|(_, delete)| delete.path.clone()).collect();
        removed.extend(needless);
        Self {
            added: written,
            removed,
            touched: gone,
            moves_rows: true,
            conflicting: None,
            operation: Operation::Overwrite,
            sequence_number: None,
        }
        .named()
    }

    /// The rows of the files `gone` of `plan`, which is all of the table, in the files that were written from them. Those
    /// keep the sequence number of what was read, so that equality deletes which come meanwhile apply to them.
    ///
    /// Errors: `INTERNAL` where another number of rows was written than read, as far as manifests tell.
    pub fn compacting(
        table: &LoadedTable,
        plan: &FilePlan,
        gone: Vec<PlannedFile>,
        written: Vec<WrittenFile>,
    ) -> Result<Self> {
        let read: u64 = gone.iter().map(|file| file.record_count).sum();
        let rows: u64 = written.iter().map(|file| file.data_file.record_count()).sum();
        let with_deletes = gone.iter().any(|file| !file.deletes.is_empty());
        if rows > read || (rows < read && !with_deletes) {
            let name = table.full_name();
            return Err(Error::internal(format!(
                "{rows} rows were written of the {read} of {name}: nothing is changed"
            )));
        }
        let can = table.metadata.format_version() >= FormatVersion::V2;
        let sequence_number = table.snapshot.as_ref().filter(|_| can).map(|snapshot| snapshot.sequence_number());
        let replacing = Self::replacing(plan, gone, written);
        Ok(Self { operation: Operation::Replace, sequence_number, ..replacing })
    }

    /// Delete files `gone` in other words: those that were written delete the same rows.
    pub(crate) fn exchanging(gone: HashSet<String>, written: Vec<WrittenFile>) -> Self {
        Self {
            added: written,
            removed: gone,
            touched: Vec::new(),
            moves_rows: false,
            conflicting: None,
            operation: Operation::Replace,
            sequence_number: None,
        }
    }

    /// What was written in place of all that its partitions have. A table without partitions is one.
    ///
    /// Errors: `NOT_SUPPORTED` for a table with files of another partition spec, which no partition of today can be compared
    /// with.
    pub fn overwriting(table: &LoadedTable, plan: &FilePlan, written: Vec<WrittenFile>) -> Result<Self> {
        let spec = table.metadata.default_partition_spec();
        if spec.is_unpartitioned() {
            return Ok(Self::replacing(plan, plan.files.clone(), written));
        }
        if plan.files.iter().any(|file| file.spec_id != spec.spec_id()) {
            let message = format!("table {} has files that are partitioned as it was before", table.full_name());
            return Err(Error::new(ErrorCode::NotSupported, message)
                .with_hint("DELETE the rows and INSERT the new ones, or write its files anew first"));
        }
        let partitions: HashSet<&Struct> = written.iter().map(|file| file.data_file.partition()).collect();
        let gone = plan.files.iter().filter(|file| partitions.contains(&file.partition)).cloned().collect();
        Ok(Self::replacing(plan, gone, written.clone()))
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }

    /// Rows that are new, have changed, or are gone.
    pub fn rows(&self) -> u64 {
        self.added.iter().map(|file| file.rows).sum()
    }

    /// Bytes of the files that come.
    pub fn bytes(&self) -> u64 {
        self.added.iter().map(|file| file.bytes).sum()
    }

    /// The files that come.
    pub fn added(&self) -> &[WrittenFile] {
        &self.added
    }

    /// Copy-on-write: the data files that have lost some of their rows, with the deletes that this change brings. `plan` is
    /// what the statement has read.
    pub fn to_rewrite(&self, plan: &FilePlan) -> FilePlan {
        let mut rewrite =
            FilePlan { deletes: plan.deletes.clone(), total_files: plan.total_files, ..FilePlan::default() };
        let mut new: HashMap<String, Vec<usize>> = HashMap::new();
        for written in &self.added {
            let delete = &written.data_file;
            let Some(data_file) = delete.referenced_data_file() else { continue };
            new.entry(data_file.clone()).or_default().push(rewrite.deletes.len());
            rewrite.deletes.push(Arc::new(DeleteFile {
                path: delete.file_path().to_string(),
                size: delete.file_size_in_bytes(),
                spec_id: written.spec_id,
                partition: delete.partition().clone(),
                is_global: false,
                data_sequence_number: i64::MAX,
                kind: DeleteKind::Positions { data_files: Some((data_file.clone(), data_file)) },
                columns: HashMap::new(),
            }));
        }
        for file in self.touched.iter().filter(|file| !self.removed.contains(&file.path)) {
            let mut file = file.clone();
            file.deletes.extend(new.remove(&file.path).unwrap_or_default());
            rewrite.files.push(file);
        }
        rewrite.files.sort_by(|a, b| a.path.cmp(&b.path));
        rewrite
    }

    /// Copy-on-write: the files that have lost rows go, and `rewritten` come with the rows that are left. The delete files
    /// have done their work: they are returned, to be deleted.
    pub fn rewritten(mut self, rewritten: Vec<WrittenFile>) -> (Self, Vec<WrittenFile>) {
        let (deletes, data): (Vec<_>, Vec<_>) = self.added.drain(..).partition(is_delete);
        self.removed.extend(self.touched.iter().map(|file| file.path.clone()));
        self.added = data;
        self.added.extend(rewritten);
        self.moves_rows = true;
        (self.named(), deletes)
    }

    /// Merge-on-read: the delete files of data files that go as a whole are not needed. They are returned, to be deleted.
    pub fn without_needless(mut self) -> (Self, Vec<WrittenFile>) {
        let removed = std::mem::take(&mut self.removed);
        let needless = |file: &WrittenFile| {
            file.data_file.referenced_data_file().is_some_and(|data_file| removed.contains(&data_file))
        };
        let (needless, added) = self.added.drain(..).partition(needless);
        (self.added, self.removed) = (added, removed);
        (self.named(), needless)
    }

    fn named(mut self) -> Self {
        let (adds, deletes) = (self.added.iter().any(|f| !is_delete(f)), self.added.iter().any(is_delete));
        self.operation = match (adds, deletes || !self.removed.is_empty()) {
            (true, false) => Operation::Append,
            (false, true) => Operation::Delete,
            _ => Operation::Overwrite,
        };
        self
    }
}

pub(super) fn is_delete(file: &WrittenFile) -> bool {
    file.data_file.content_type() != DataContentType::Data
}

/// Whether the statement writes delete files (merge-on-read), or files without the rows that go (copy-on-write, Iceberg's
/// default, and all that format version 1 can do).
///
/// Errors: `INVALID_ARGUMENT` for a table property that says neither.
pub fn merges_on_read(table: &LoadedTable, command: RowCommand) -> Result<bool> {
    let can = table.metadata.format_version() >= FormatVersion::V2;
    match command.property(table, "mode") {
        None | Some("copy-on-write") => Ok(false),
        Some("merge-on-read") => Ok(can),
        Some(other) => {
            let message = format!("the write mode {other} of table {} is not known", table.full_name());
            Err(Error::new(ErrorCode::InvalidArgument, message).with_hint("copy-on-write or merge-on-read"))
        }
    }
}

fn is_serializable(table: &LoadedTable, command: RowCommand) -> Result<bool> {
    match command.property(table, "isolation-level") {
        None | Some("snapshot") => Ok(false),
        Some("serializable") => Ok(true),
        Some(other) => {
            let message = format!("the isolation level {other} of table {} is not known", table.full_name());
            Err(Error::new(ErrorCode::InvalidArgument, message).with_hint("snapshot or serializable"))
        }
    }
}
