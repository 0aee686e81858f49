//! A connection's turn comes after its streams'.
//!
//! Each stream that writes wakes its connection, and the runtime lets what was woken last run next: so every answer would
//! leave alone, in a TLS record and a system call of its own. A connection with several streams waits until all who are ready
//! have run, and sends what they wrote together. Where nobody is ready the runtime asks for news once and goes on.

use futures_util::task::AtomicWaker;
use std::future::Future;
use std::pin::{pin, Pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// Streams on their way. They are counted and not held: all that a connection asks of them is whether there are any.
#[derive(Default)]
pub struct Running {
    streams: AtomicUsize,
    over: AtomicWaker,
}

impl Running {
    /// Whether there is no stream.
    pub fn none(&self) -> bool {
        self.streams.load(Ordering::Acquire) == 0
    }

    /// Waits until there is no stream.
    pub fn poll_none(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.over.register(cx.waker());
        if self.none() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// A stream on its way, until it is dropped.
pub struct OnItsWay(Arc<Running>);

impl OnItsWay {
    /// One more.
    pub fn new(running: &Arc<Running>) -> Self {
        running.streams.fetch_add(1, Ordering::Relaxed);
        OnItsWay(Arc::clone(running))
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.over.wake();
        }
    }
}

/// A future that, once woken, runs after all others that are ready.
pub struct Later<F> {
    inner: Pin<Box<F>>,
    turn: Arc<Turn>,
    waker: Waker,
    /// It has let the others go first.
    waited: bool,
}

impl<F: Future> Later<F> {
    /// The same future, with patience as long as there are several of these.
    pub fn new(inner: F, running: Arc<Running>) -> Self {
        let turn = Arc::new(Turn { task: AtomicWaker::new(), comes: AtomicBool::new(false), running });
        let waker = Waker::from(Arc::clone(&turn));
        Later { inner: Box::pin(inner), turn, waker, waited: false }
    }
}

impl<F: Future> Future for Later<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        this.turn.task.register(cx.waker());
        // One stream has nobody to wait for, and to wait may wake another thread.
        let several = this.turn.running.streams.load(Ordering::Relaxed) >= 2;
        if several && this.turn.comes.load(Ordering::Acquire) && !this.waited {
            this.waited = true;
            // Nothing else is known here that wakes later. Asked here and not where it is woken: the runtime may be waking
            // those that wait, and must not be asked to let one more wait then. Where no runtime is, it wakes at once.
            let _ = pin!(tokio::task::yield_now()).poll(cx);
            return Poll::Pending;
        }
        this.waited = false;
        // Before the rest is asked: whoever has news from here on asks for another turn.
        this.turn.comes.swap(false, Ordering::AcqRel);
        this.inner.as_mut().poll(&mut Context::from_waker(&this.waker))
    }
}

/// Wakes a task, once for each turn.
struct Turn {
    task: AtomicWaker,
    /// It has been asked for and has not come.
    comes: AtomicBool,
    running: Arc<Running>,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.comes.swap(true, Ordering::AcqRel) {
            return;
        }
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::future::poll_fn;
    use std::rc::Rc;
    use tokio::task::LocalSet;

    /// Of one that is woken by each of several, and takes note each time.
    async fn order(streams: usize) -> Vec<u8> {
        let notes = Rc::new(RefCell::new(Vec::new()));
        let bell: Rc<RefCell<Option<Waker>>> = Rc::default();
        let set = LocalSet::new();
        let (own, place) = (Rc::clone(&notes), Rc::clone(&bell));
        let listener = poll_fn(move |cx| {
            *place.borrow_mut() = Some(cx.waker().clone());
            own.borrow_mut().push(0);
            if own.borrow().iter().filter(|note| **note > 0).count() == 3 {
                return Poll::Ready(());
            }
            Poll::Pending
        });
        let running = Arc::default();
        let _streams: Vec<_> = (0..streams).map(|_| OnItsWay::new(&running)).collect();
        let listener = set.spawn_local(Later::new(listener, running));
        for n in 1..=3 {
            let (own, place) = (Rc::clone(&notes), Rc::clone(&bell));
            set.spawn_local(async move {
                own.borrow_mut().push(n);
                if let Some(bell) = &*place.borrow() {
                    bell.wake_by_ref();
                }
                tokio::task::yield_now().await;
            });
        }
        set.run_until(listener).await.unwrap();
        notes.take()
    }

    #[tokio::test]
    async fn one_turn_for_all_that_were_ready() {
        assert_eq!(order(2).await, [0, 1, 2, 3, 0]);
    }

    /// What has had its share of a turn is woken by the runtime while that wakes all who let others go first.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_share_that_is_used_up_is_waited_for() {
        let running = Arc::default();
        let _two = [OnItsWay::new(&running), OnItsWay::new(&running)];
        let busy = |running| async move {
            let work = async {
                for _ in 0..10_000 {
                    tokio::task::consume_budget().await;
                }
            };
            Later::new(work, running).await;
        };
        let all: Vec<_> = (0..4).map(|_| tokio::spawn(busy(Arc::clone(&running)))).collect();
        for one in all {
            one.await.unwrap();
        }
    }

    /// Woken from where there is no runtime, it runs all the same.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn nothing_is_lost() {
        for _ in 0..1000 {
            let (told, mut heard) = (Arc::new(AtomicBool::new(false)), 0);
            let teller = Arc::clone(&told);
            let mut begun = false;
            let running = Arc::default();
            let _two = [OnItsWay::new(&running), OnItsWay::new(&running)];
            let future = poll_fn(move |cx| {
                heard += 1;
                if told.load(Ordering::Acquire) {
                    return Poll::Ready(());
                }
                if !std::mem::replace(&mut begun, true) {
                    let (waker, teller) = (cx.waker().clone(), Arc::clone(&teller));
                    std::thread::spawn(move || {
                        teller.store(true, Ordering::Release);
                        waker.wake();
                    });
                }
                assert!(heard < 4);
                Poll::Pending
            });
            Later::new(future, running).await;
        }
    }
}
