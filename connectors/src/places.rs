//! Places in a budget of connections, of which there may be more or fewer as time goes on.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use townlake_common::{Error, Result};

/// So many places, taken in the order of asking. Where they become fewer than are taken, those that are given back are gone until the
/// number is right.
#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    count: Mutex<Count>,
}

#[derive(Debug)]
struct Count {
    /// How many there should be.
    all: usize,
    /// How many that are taken now go when they are given back.
    owed: usize,
}

impl Places {
    /// So many.
    pub fn new(all: usize) -> Arc<Self> {
        let all = all.min(Semaphore::MAX_PERMITS);
        Arc::new(Self { free: Arc::new(Semaphore::new(all)), count: Mutex::new(Count { all, owed: 0 }) })
    }

    /// A place, when there is one for us.
    pub async fn take(self: &Arc<Self>) -> Result<Place> {
        loop {
            let permit = Arc::clone(&self.free).acquire_owned().await;
            let permit = permit.map_err(|_| Error::internal("a connection budget is closed"))?;
            let mut count = self.count();
            if count.owed == 0 {
                return Ok(Place { places: Arc::clone(self), permit: Some(permit) });
            }
            // It was on its way to us when there came to be fewer.
            count.owed -= 1;
            permit.forget();
        }
    }

    /// The count, with debts paid from what is free: who gave up waiting leaves a place so.
    fn count(&self) -> MutexGuard<'_, Count> {
        let mut count = self.count.lock();
        if count.owed > 0 {
            count.owed -= self.free.forget_permits(count.owed);
        }
        count
    }

    /// Makes them so many.
    pub fn resize(&self, all: usize) {
        let all = all.min(Semaphore::MAX_PERMITS);
        let mut count = self.count();
        if all >= count.all {
            let more = all - count.all;
            let paid = more.min(count.owed);
            count.owed -= paid;
            self.free.add_permits(more - paid);
        } else {
            let fewer = count.all - all;
            count.owed += fewer - self.free.forget_permits(fewer);
        }
        count.all = all;
    }

    /// How many there should be.
    pub fn all(&self) -> usize {
        self.count().all
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        let count = self.count();
        (count.all + count.owed).saturating_sub(self.free.available_permits())
    }

    /// How many connections may lie idle beside those whose places are taken.
    pub fn free(&self) -> usize {
        let _settled = self.count();
        self.free.available_permits()
    }

    /// The same when one of the places that are taken is given back.
    pub fn free_without_one(&self) -> usize {
        let count = self.count();
        self.free.available_permits() + usize::from(count.owed == 0)
    }
}

/// A place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        // Under the lock: what is given back is either owed or free for a shrinking in the same moment, never both.
        let mut count = self.places.count();
        if count.owed > 0 {
            count.owed -= 1;
            permit.forget();
        } else {
            drop(permit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// A place, if there is one at once.
    async fn try_take(places: &Arc<Places>) -> Option<Place> {
        timeout(Duration::from_millis(20), places.take()).await.ok().map(Result::unwrap)
    }

    #[tokio::test]
    async fn fewer_places_are_reached_as_those_that_are_taken_come_back() {
        let places = Places::new(3);
        let mut held = [places.take().await.unwrap(), places.take().await.unwrap()].map(Some);
        places.resize(1);
        assert_eq!((places.all(), places.taken(), places.free()), (1, 2, 0));
        held[0] = None;
        assert_eq!((places.taken(), places.free()), (1, 0), "the one that came back is gone");
        assert!(try_take(&places).await.is_none());
        held[1] = None;
        assert_eq!((places.taken(), places.free()), (0, 1));
        assert!(try_take(&places).await.is_some());
    }

    #[tokio::test]
    async fn whoever_waits_is_served_when_there_are_more_and_debts_are_paid_first() {
        let places = Places::new(0);
        let mut waiting = Box::pin(places.take());
        assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        places.resize(1);
        let held = waiting.await.unwrap();
        places.resize(0);
        places.resize(1);
        assert!(try_take(&places).await.is_none(), "the one place is taken");
        assert_eq!(places.free_without_one(), 1);
        drop(held);
        assert!(try_take(&places).await.is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_place_is_lost_or_doubled_whatever_happens_at_once() {
        let places = Places::new(4);
        let users = (0..8).map(|user| {
            let places = Arc::clone(&places);
            tokio::spawn(async move {
                for round in 0..200 {
                    if let Ok(place) = timeout(Duration::from_millis(50), places.take()).await {
                        if (user + round) % 3 == 0 {
                            tokio::task::yield_now().await;
                        }
                        drop(place);
                    }
                }
            })
        });
        let users: Vec<_> = users.collect();
        for round in 0..400 {
            places.resize([5, 1, 3, 0, 7][round % 5]);
            tokio::task::yield_now().await;
        }
        places.resize(6);
        for user in users {
            user.await.unwrap();
        }
        assert_eq!((places.all(), places.taken(), places.free()), (6, 0, 6));
    }
}
