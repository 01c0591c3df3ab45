//! The directory of an executor: shuffle files and spilled data. Nothing in it outlives the process.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use townlake_common::{Error, ErrorCode, Result};

/// Whether `name` can be a directory name inside ours and nothing else: identifiers that come over the wire end in paths.
pub(crate) fn is_plain_name(name: &str) -> bool {
    (1..=128).contains(&name.len()) && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
}

/// `executor.spill_dir`, held by this process alone: a reader takes a file for local when it lies in its own directory, so
/// two executors must never share one.
#[derive(Debug)]
pub(crate) struct Directories {
    shuffle: PathBuf,
    spill: PathBuf,
    _lock: File,
}

impl Directories {
    /// Makes `root` when it is missing, takes it, and removes what an earlier process left there.
    ///
    /// Errors: `CONFIG_INVALID` when it cannot be written or another executor holds it.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let fail = |what: &str, error: std::io::Error| {
            let message = format!("executor.spill_dir {}: {what}: {error}", root.display());
            Error::new(ErrorCode::ConfigInvalid, message)
        };
        std::fs::create_dir_all(root).map_err(|e| fail("it cannot be made", e))?;
        let lock = File::create(root.join(".lock")).map_err(|e| fail("it cannot be written", e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("executor.spill_dir {} is in use by another executor", root.display());
                return Err(Error::new(ErrorCode::ConfigInvalid, message).with_hint("give each executor its own"));
            }
            Err(TryLockError::Error(error)) => return Err(fail("it cannot be locked", error)),
        }
        // Only what is ours is removed: a wrong setting must not empty somebody's home.
        let [shuffle, spill] = ["shuffle", "spill"].map(|name| root.join(name));
        for directory in [&shuffle, &spill] {
            match std::fs::remove_dir_all(directory) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(fail("it cannot be emptied", error)),
            }
            std::fs::create_dir_all(directory).map_err(|e| fail("it cannot be written", e))?;
        }
        Ok(Self { shuffle, spill, _lock: lock })
    }

    /// Where the output of tasks lies: `<job>/<stage>/…`.
    pub(crate) fn shuffle(&self) -> &Path {
        &self.shuffle
    }

    /// Where operators spill.
    pub(crate) fn spill(&self) -> &Path {
        &self.spill
    }

    /// Removes the output of these stages of a job, or of the whole job when `stages` is empty. Nothing there is no error.
    ///
    /// Errors: `INVALID_ARGUMENT` for a job that is not a plain name; `INTERNAL` when files cannot be removed.
    pub(crate) async fn remove_job(&self, job: &str, stages: &[u32]) -> Result<()> {
        if !is_plain_name(job) {
            return Err(Error::new(ErrorCode::InvalidArgument, "a job id is a plain name"));
        }
        let job = self.shuffle.join(job);
        let all = [job.clone()];
        let some: Vec<PathBuf> = stages.iter().map(|stage| job.join(stage.to_string())).collect();
        for directory in if stages.is_empty() { &all[..] } else { &some[..] } {
            match tokio::fs::remove_dir_all(directory).await {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::internal("the output of a job cannot be removed").with_source(error)),
            }
        }
        Ok(())
    }

    /// Whether no job's output is left: nobody can want anything more from this executor.
    pub(crate) async fn is_empty(&self) -> bool {
        match tokio::fs::read_dir(&self.shuffle).await {
            Ok(mut entries) => matches!(entries.next_entry().await, Ok(None)),
            Err(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_pass() {
        for good in ["01hgw-abc", "a", "Job_7"] {
            assert!(is_plain_name(good), "{good}");
        }
        let long = "a".repeat(129);
        for bad in ["", ".", "..", "../x", "a/b", "a\\b", "a b", "a\0", "é", "a.b", &long] {
            assert!(!is_plain_name(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn sweeps_at_start_is_held_once_and_removes_jobs() {
        let root = tempfile::tempdir().unwrap();
        let old = root.path().join("shuffle/job1/2");
        std::fs::create_dir_all(&old).unwrap();
        std::fs::write(root.path().join("notes.txt"), "mine").unwrap();
        let held = Directories::open(root.path()).unwrap();
        assert!(!old.exists() && root.path().join("notes.txt").exists());
        assert_eq!(Directories::open(root.path()).unwrap_err().code(), ErrorCode::ConfigInvalid);

        for path in ["job1/1", "job1/2", "job2/1"] {
            std::fs::create_dir_all(held.shuffle().join(path)).unwrap();
        }
        held.remove_job("job1", &[1]).await.unwrap();
        assert!(!held.shuffle().join("job1/1").exists() && held.shuffle().join("job1/2").exists());
        held.remove_job("job1", &[]).await.unwrap();
        held.remove_job("job1", &[]).await.unwrap();
        assert!(!held.is_empty().await);
        assert!(held.remove_job("..", &[]).await.is_err());
        held.remove_job("job2", &[]).await.unwrap();
        assert!(held.is_empty().await);
        drop(held);
        Directories::open(root.path()).unwrap();
    }
}
