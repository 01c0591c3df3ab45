//! The tasks that this executor has taken on, from the moment their launch arrives until they have ended.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ballista_core::serde::protobuf::RunningTaskInfo;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// One attempt of one task. A stage that runs again counts its tasks from zero again, under a new stage attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Attempt {
    pub(crate) job: String,
    pub(crate) stage: u32,
    pub(crate) stage_attempt: u32,
    pub(crate) task: u32,
}

#[derive(Debug, Clone)]
struct Entry {
    cancel: CancellationToken,
    ended: CancellationToken,
}

/// All tasks that have not ended, and whose the jobs are that were here.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    tasks: Mutex<HashMap<Attempt, Entry>>,
    /// The coordinator of each job whose output was not removed: where its reports go.
    jobs: Mutex<HashMap<String, String>>,
}

/// A task's place in the registry. Dropping it says that the task has ended.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Whose place it is.
    pub(crate) attempt: Attempt,
    /// Fires when the task shall stop.
    pub(crate) cancel: CancellationToken,
    ended: CancellationToken,
    registry: Arc<Registry>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.registry.tasks.lock().remove(&self.attempt);
        self.ended.cancel();
    }
}

impl Registry {
    /// Takes a task on. `None`: it is here already, the launch came twice.
    pub(crate) fn admit(self: &Arc<Self>, attempt: Attempt) -> Option<Admission> {
        let mut tasks = self.tasks.lock();
        if tasks.contains_key(&attempt) {
            return None;
        }
        let entry = Entry { cancel: CancellationToken::new(), ended: CancellationToken::new() };
        tasks.insert(attempt.clone(), entry.clone());
        let registry = Arc::clone(self);
        Some(Admission { attempt, cancel: entry.cancel, ended: entry.ended, registry })
    }

    /// Cancels the older attempts of the same task and waits until they have ended: all attempts of a task write the same
    /// file names.
    pub(crate) async fn end_older_attempts(&self, attempt: &Attempt) {
        let same = |other: &Attempt| {
            other.job == attempt.job
                && other.stage == attempt.stage
                && other.task == attempt.task
                && other.stage_attempt < attempt.stage_attempt
        };
        for ended in self.cancel_where(same) {
            ended.cancelled().await;
        }
    }

    /// Cancels a task in all its attempts. `false`: there is none.
    pub(crate) fn cancel(&self, task: &RunningTaskInfo) -> bool {
        let same =
            |other: &Attempt| other.job == task.job_id && other.stage == task.stage_id && other.task == task.task_id;
        !self.cancel_where(same).is_empty()
    }

    /// Cancels all tasks of a job and waits until they have ended.
    pub(crate) async fn end_job(&self, job: &str) {
        for ended in self.cancel_where(|other| other.job == job) {
            ended.cancelled().await;
        }
    }

    /// A job has tasks here; its reports go to `endpoint`.
    pub(crate) fn take_job(&self, job: &str, endpoint: &str) {
        self.jobs.lock().insert(job.to_string(), endpoint.to_string());
    }

    /// The output of a job was removed.
    pub(crate) fn forget_job(&self, job: &str) {
        self.jobs.lock().remove(job);
    }

    /// The jobs of a coordinator, in their order.
    pub(crate) fn jobs_of(&self, endpoint: &str) -> Vec<String> {
        let jobs = self.jobs.lock();
        let mut found: Vec<_> = jobs.iter().filter(|(_, of)| *of == endpoint).map(|(job, _)| job.clone()).collect();
        found.sort_unstable();
        found
    }

    /// The coordinators that have jobs here.
    pub(crate) fn endpoints(&self) -> HashSet<String> {
        self.jobs.lock().values().cloned().collect()
    }

    /// The tasks of these jobs that have not ended.
    pub(crate) fn tasks_of(&self, jobs: &[String]) -> Vec<Attempt> {
        let tasks = self.tasks.lock();
        tasks.keys().filter(|attempt| jobs.binary_search(&attempt.job).is_ok()).cloned().collect()
    }

    /// Cancels everything.
    pub(crate) fn cancel_all(&self) {
        self.cancel_where(|_| true);
    }

    /// How many tasks have not ended.
    pub(crate) fn len(&self) -> usize {
        self.tasks.lock().len()
    }

    fn cancel_where(&self, wanted: impl Fn(&Attempt) -> bool) -> Vec<CancellationToken> {
        let tasks = self.tasks.lock();
        let found = tasks.iter().filter(|(attempt, _)| wanted(attempt));
        found
            .map(|(_, entry)| {
                entry.cancel.cancel();
                entry.ended.clone()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(stage_attempt: u32, task: u32) -> Attempt {
        Attempt { job: "job".to_string(), stage: 1, stage_attempt, task }
    }

    #[tokio::test]
    async fn a_launch_that_comes_twice_runs_once() {
        let registry = Arc::new(Registry::default());
        let first = registry.admit(attempt(0, 0)).unwrap();
        assert!(registry.admit(attempt(0, 0)).is_none());
        drop(first);
        assert!(registry.admit(attempt(0, 0)).is_some());
    }

    #[tokio::test]
    async fn a_new_attempt_waits_for_the_old_one() {
        let registry = Arc::new(Registry::default());
        let old = registry.admit(attempt(0, 0)).unwrap();
        let other = registry.admit(attempt(0, 1)).unwrap();
        let new = registry.admit(attempt(1, 0)).unwrap();
        let waiting = {
            let registry = Arc::clone(&registry);
            let attempt = new.attempt.clone();
            tokio::spawn(async move { registry.end_older_attempts(&attempt).await })
        };
        old.cancel.cancelled().await;
        assert!(!waiting.is_finished() && !other.cancel.is_cancelled() && !new.cancel.is_cancelled());
        drop(old);
        waiting.await.unwrap();
        assert_eq!(registry.len(), 2);
    }

    #[test]
    fn a_cancel_finds_its_task() {
        let registry = Arc::new(Registry::default());
        let task = registry.admit(attempt(3, 7)).unwrap();
        let named = |task_id| RunningTaskInfo { task_id, job_id: "job".to_string(), stage_id: 1 };
        assert!(!registry.cancel(&named(6)) && !task.cancel.is_cancelled());
        assert!(registry.cancel(&named(7)) && task.cancel.is_cancelled());
    }
}
