use std::collections::HashMap;

use async_trait::async_trait;
use townlake_common::{Error, ErrorCode};
use townlake_proto::control::TaskError;

use super::*;

/// A coordinator that can be away, can lose its answers, and refuses jobs by name.
#[derive(Default)]
struct Coordinator {
    away: Mutex<bool>,
    lost_answers: Mutex<usize>,
    got: Mutex<Vec<String>>,
}

impl Coordinator {
    fn got(&self) -> Vec<String> {
        self.got.lock().clone()
    }

    fn answer(&self) -> Result<(), Status> {
        if *self.away.lock() {
            return Err(Status::unavailable("away"));
        }
        Ok(())
    }
}

#[async_trait]
impl Delivery for Coordinator {
    async fn error(&self, _: &str, error: TaskError) -> Result<(), Status> {
        self.answer()?;
        self.got.lock().push(format!("error {}", Error::from_wire(&error.error).code()));
        Ok(())
    }

    async fn statuses(&self, endpoint: &str, statuses: Vec<TaskStatus>) -> Result<(), Status> {
        self.answer()?;
        if endpoint == "hangs" {
            return std::future::pending().await;
        }
        if statuses.iter().any(|status| status.job_id == "refused") {
            return Err(Status::invalid_argument("no such job"));
        }
        self.got.lock().extend(statuses.iter().map(|status| format!("{}/{}", status.job_id, status.task_id)));
        let mut lost = self.lost_answers.lock();
        if *lost > 0 {
            *lost -= 1;
            return Err(Status::unavailable("the answer was lost"));
        }
        Ok(())
    }
}

fn report(job: &str, task: u32) -> Report {
    let status = TaskStatus { task_id: task, job_id: job.to_string(), ..Default::default() };
    Report { error: None, status }
}

fn quick() -> Limits {
    Limits { first_wait: Duration::from_millis(5), longest_wait: Duration::from_millis(20), ..Limits::default() }
}

fn outbox(limits: Limits) -> (Arc<Coordinator>, Outbox) {
    let coordinator = Arc::new(Coordinator::default());
    let outbox = Outbox::new(Arc::clone(&coordinator) as Arc<dyn Delivery>, "me", limits);
    (coordinator, outbox)
}

const LONG: Duration = Duration::from_secs(5);

#[tokio::test]
async fn what_is_acknowledged_is_sent_once_and_in_order() {
    let (coordinator, outbox) = outbox(quick());
    for task in 0..200 {
        outbox.push("c", report("job", task));
    }
    outbox.flush(LONG).await;
    assert_eq!(coordinator.got(), (0..200).map(|task| format!("job/{task}")).collect::<Vec<_>>());
    outbox.push("c", report("job", 200));
    outbox.flush(LONG).await;
    assert_eq!(coordinator.got().len(), 201);
}

#[tokio::test]
async fn nothing_is_lost_while_the_coordinator_is_away() {
    let (coordinator, outbox) = outbox(quick());
    *coordinator.away.lock() = true;
    for task in 0..3 {
        outbox.push("c", report("job", task));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((outbox.len(), coordinator.got().len()), (3, 0));
    *coordinator.away.lock() = false;
    outbox.flush(LONG).await;
    assert_eq!(coordinator.got(), ["job/0", "job/1", "job/2"]);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let (coordinator, outbox) = outbox(quick());
    *coordinator.lost_answers.lock() = 1;
    outbox.push("c", report("job", 0));
    outbox.flush(LONG).await;
    assert_eq!(coordinator.got(), ["job/0", "job/0"]);
}

#[tokio::test]
async fn a_report_is_in_the_outbox_once() {
    let (coordinator, outbox) = outbox(quick());
    *coordinator.away.lock() = true;
    outbox.push("c", report("job", 0));
    outbox.push("c", report("job", 0));
    assert_eq!(outbox.len(), 1);
}

#[tokio::test]
async fn the_typed_error_goes_before_the_status() {
    let (coordinator, outbox) = outbox(quick());
    let error = Some(Error::new(ErrorCode::MemoryLimit, "too much"));
    outbox.push("c", Report { error, ..report("job", 0) });
    outbox.flush(LONG).await;
    assert_eq!(coordinator.got(), ["error MEMORY_LIMIT", "job/0"]);
}

#[tokio::test]
async fn one_coordinator_that_hangs_holds_up_nobody_else() {
    let (coordinator, outbox) = outbox(quick());
    outbox.push("hangs", report("job", 0));
    outbox.push("c", report("job", 1));
    outbox.flush(Duration::from_millis(300)).await;
    assert_eq!(coordinator.got(), ["job/1"]);
    assert_eq!(outbox.len(), 1);
}

#[tokio::test]
async fn a_refused_report_is_lost_alone() {
    let (coordinator, outbox) = outbox(quick());
    *coordinator.away.lock() = true;
    for (task, job) in ["good", "refused", "good"].into_iter().enumerate() {
        outbox.push("c", report(job, task as u32));
    }
    *coordinator.away.lock() = false;
    outbox.flush(LONG).await;
    assert_eq!(coordinator.got(), ["good/0", "good/2"]);
}

#[tokio::test]
async fn a_full_outbox_drops_its_oldest_job() {
    let (coordinator, outbox) = outbox(Limits { reports: 4, ..quick() });
    *coordinator.away.lock() = true;
    for (task, job) in ["old", "old", "new", "old", "new"].into_iter().enumerate() {
        outbox.push("c", report(job, task as u32));
    }
    assert_eq!(outbox.len(), 2);
    *coordinator.away.lock() = false;
    outbox.flush(LONG).await;
    assert_eq!(coordinator.got(), ["new/2", "new/4"]);
}

#[tokio::test]
async fn a_coordinator_that_never_comes_back_is_given_up() {
    let (coordinator, outbox) = outbox(Limits { give_up: Duration::from_millis(50), ..quick() });
    *coordinator.away.lock() = true;
    outbox.push("c", report("job", 0));
    outbox.flush(LONG).await;
    assert_eq!(outbox.len(), 0);
    *coordinator.away.lock() = false;
    outbox.push("c", report("later", 1));
    outbox.flush(LONG).await;
    let counts: HashMap<_, _> = coordinator.got().into_iter().map(|name| (name, ())).collect();
    assert!(counts.contains_key("later/1") && counts.len() == 1);
}
