//! The behaviour reference: the files in `tests/slt`, each run against the engines that it is true of.
//!
//! | folder | engines |
//! |---|---|
//! | `portable` | single-process DataFusion (the oracle), and the cluster through its Flight SQL door, every scan on executors |
//! | `cluster` | the cluster only: what is ours |
//!
//! A file runs in a schema of its own, `lake.<file>`, which is current; `crm.<file>` is there too. Column types are those
//! of [`cells::Kind`]; a value is shown as DataFusion shows it, `NULL` and `(empty)` apart. To write the results of a new
//! portable file, run the oracle with `TOWNLAKE_SLT_COMPLETE=1`, then read every line that it wrote.

mod cells;
mod engines;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use sqllogictest::{AsyncDB, Runner, strict_column_validator};
use townlake_tests::town::TownSpec;

use engines::{Door, Oracle};

/// The files of a folder, sorted; only those whose name contains `TOWNLAKE_SLT`, where it is set.
fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("slt").join(folder);
    let only = std::env::var("TOWNLAKE_SLT").unwrap_or_default();
    let entries = std::fs::read_dir(&folder).expect("the folder of the files");
    let paths = entries.map(|entry| entry.expect("a file").path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "slt") && name(path).contains(&only)).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().to_string()
}

/// Trailing blanks are the editor's; all others count.
#[allow(clippy::ptr_arg)]
fn normalize(line: &String) -> String {
    line.trim_end().to_string()
}

/// Runs a file, or writes its results. Says what is wrong.
async fn run<D: AsyncDB + Clone + Sync>(path: &Path, engine: D, complete: bool) -> Result<(), String> {
    let mut runner = Runner::new(move || {
        let engine = engine.clone();
        async move { Ok(engine) }
    });
    runner.with_normalizer(normalize);
    runner.with_column_validator(strict_column_validator);
    let outcome = match complete {
        true => runner
            .update_test_file(path, " ", sqllogictest::default_validator, normalize, strict_column_validator)
            .await
            .map_err(|error| error.to_string()),
        false => runner.run_file_async(path).await.map_err(|error| error.display(false).to_string()),
    };
    runner.shutdown_async().await;
    outcome
}

fn report(engine: &str, ran: usize, failed: &[String]) {
    println!("{ran} files on {engine}, {} failed", failed.len());
    assert!(ran > 0 || std::env::var_os("TOWNLAKE_SLT").is_some(), "there are no files");
    assert!(failed.is_empty(), "{engine}:\n{}", failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn single_process_datafusion() {
    let complete = std::env::var_os("TOWNLAKE_SLT_COMPLETE").is_some();
    let mut failed = Vec::new();
    let paths = files("portable");
    for path in &paths {
        let oracle = Oracle::new(&name(path)).await;
        failed.extend(run(path, oracle, complete).await.err());
    }
    report("single-process DataFusion", paths.len(), &failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster() {
    let spec =
        TownSpec::default().user("ann", "a password", &[]).lake("lake", &[], &["ann"]).lake("crm", &[], &["ann"]);
    let town = spec.start().await;
    let complete = std::env::var_os("TOWNLAKE_SLT_COMPLETE_CLUSTER").is_some();
    let mut failed = Vec::new();
    let (portable, own) = (files("portable"), files("cluster"));
    for (path, is_portable) in portable.iter().map(|path| (path, true)).chain(own.iter().map(|path| (path, false))) {
        let door = Door::open(town.connect("ann", "a password").await, &name(path), is_portable).await;
        let faults = Arc::clone(&door.faults);
        failed.extend(run(path, door, complete && !is_portable).await.err());
        failed.extend(
            faults
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .map(|fault| format!("a fault of ours: {fault}")),
        );
    }
    town.stop().await;
    report("the cluster", portable.len() + own.len(), &failed);
}
