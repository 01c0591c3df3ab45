//! A TCP line between Town Lake and a source, which a test cuts or stops: what a network, or a server that hangs, does to us.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the line does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All goes through.
    Open,
    /// Nothing that the source sends comes through; connections stay, and what we say reaches it.
    Silent,
    /// Every connection is closed, and new ones at once.
    Cut,
}

/// A running line. Dropped, it closes all its connections.
pub struct Line {
    port: u16,
    state: Arc<State>,
    listener: JoinHandle<()>,
}

struct State {
    target: watch::Sender<Option<u16>>,
    mode: watch::Sender<Mode>,
    /// After so many bytes of the source it changes.
    then: Mutex<Option<(u64, Mode)>>,
    bytes: AtomicU64,
    open: AtomicUsize,
    ended: AtomicUsize,
    waiting: AtomicUsize,
}

impl Line {
    /// A line that ends at a port, or nowhere until [`Line::lead_to`] says.
    pub async fn new(target: Option<u16>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its port").port();
        let state = Arc::new(State {
            target: watch::Sender::new(target),
            mode: watch::Sender::new(Mode::Open),
            then: Mutex::default(),
            bytes: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        });
        let of_all = Arc::clone(&state);
        let listener = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&of_all)));
            }
        });
        Self { port, state, listener }
    }

    /// The port of our end.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it ends from now on.
    pub fn lead_to(&self, port: u16) {
        self.state.target.send_replace(Some(port));
    }

    /// Changes what it does.
    pub fn set(&self, mode: Mode) {
        *self.state.then.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.state.mode.send_replace(mode);
    }

    /// It changes when the source has sent so many bytes more.
    pub fn set_after(&self, bytes: u64, mode: Mode) {
        let at = self.bytes() + bytes;
        *self.state.then.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, mode));
    }

    /// What it does now.
    pub fn mode(&self) -> Mode {
        *self.state.mode.borrow()
    }

    /// Bytes that came through from the source.
    pub fn bytes(&self) -> u64 {
        self.state.bytes.load(Ordering::SeqCst)
    }

    /// Connections on it.
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Connections that were on it and have ended.
    pub fn ended(&self) -> usize {
        self.state.ended.load(Ordering::SeqCst)
    }

    /// Connections on which we have asked and wait, or that hold what came.
    pub fn waiting(&self) -> usize {
        self.state.waiting.load(Ordering::SeqCst)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.listener.abort();
        self.state.mode.send_replace(Mode::Cut);
    }
}

/// One connection, as it is counted.
struct Counted {
    state: Arc<State>,
    waits: AtomicBool,
}

impl Counted {
    fn new(state: Arc<State>) -> Self {
        state.open.fetch_add(1, Ordering::SeqCst);
        Self { state, waits: AtomicBool::new(false) }
    }

    fn wait(&self, waits: bool) {
        match (self.waits.swap(waits, Ordering::SeqCst), waits) {
            (false, true) => self.state.waiting.fetch_add(1, Ordering::SeqCst),
            (true, false) => self.state.waiting.fetch_sub(1, Ordering::SeqCst),
            _ => 0,
        };
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.wait(false);
        self.state.open.fetch_sub(1, Ordering::SeqCst);
        self.state.ended.fetch_add(1, Ordering::SeqCst);
    }
}

async fn serve(socket: TcpStream, state: Arc<State>) {
    let mut mode = state.mode.subscribe();
    let counted = Counted::new(Arc::clone(&state));
    let both = async {
        let mut target = state.target.subscribe();
        let port = target.wait_for(Option::is_some).await.ok().and_then(|port| *port);
        let Ok(source) = TcpStream::connect(("127.0.0.1", port.unwrap_or_default())).await else { return };
        let (our_read, our_write) = socket.into_split();
        let (its_read, its_write) = source.into_split();
        // Whichever side ends ends the other.
        tokio::select! {
            () = ask(our_read, its_write, &counted) => {}
            () = answer(its_read, our_write, &counted) => {}
        }
    };
    tokio::select! {
        () = both => {}
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn ask(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, counted: &Counted) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        counted.wait(true);
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

async fn answer(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, counted: &Counted) {
    let state = &counted.state;
    let mut mode = state.mode.subscribe();
    let mut bytes = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        let came = state.bytes.fetch_add(read as u64, Ordering::SeqCst) + read as u64;
        let due = state.then.lock().unwrap_or_else(PoisonError::into_inner).take_if(|(at, _)| came >= *at);
        if let Some((_, next)) = due {
            state.mode.send_replace(next);
        }
        if *mode.borrow() == Mode::Silent {
            counted.wait(true); // also in the middle of an answer
        }
        if mode.wait_for(|mode| *mode == Mode::Open).await.is_err() || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
        counted.wait(false);
    }
}
