//! The data plane: threads that each keep their connections for life.
//!
//! One accept loop per listener hands a new connection to the worker with the fewest. From then on
//! everything about it (TLS, HTTP, upstream connections, buffers) stays on that thread, so nothing there
//! needs a lock or a wake-up from another core.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::connection::{ConnectionLimits, Lifecycle, Service};
use super::entrance::{Entrance, enter, turn_away};
use crate::http::{ConnInfo, Transport};
use crate::telemetry::metrics::{Level, Listener, Metrics};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 4096;

/// The threads that serve connections.
#[derive(Debug)]
pub struct Workers {
    inboxes: Inboxes,
    threads: Vec<JoinHandle<()>>,
}

/// Where accept loops leave connections: the workers, as far as a listener that is added later has
/// to know them.
#[derive(Clone, Debug)]
pub struct Inboxes(Arc<[Slot]>);

/// What a new connection may take, and whether there may be one more.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    /// Open connections, over all listeners.
    pub most: usize,
    /// What each of them may take.
    pub limits: ConnectionLimits,
}

/// A worker, seen from the accept loops.
#[derive(Debug)]
struct Slot {
    inbox: mpsc::UnboundedSender<Accepted>,
    open: Arc<AtomicUsize>,
}

/// A connection on its way to a worker.
#[derive(Debug)]
struct Accepted {
    stream: TcpStream,
    info: ConnInfo,
    entrance: Entrance,
    /// The most connections there may be are already open: it only gets to hear so.
    overloaded: bool,
    limits: ConnectionLimits,
    /// Of its listener, which may end before the process does.
    lifecycle: watch::Receiver<Lifecycle>,
    place: Place,
}

/// A connection's place in the counts, given back on drop.
#[derive(Debug)]
struct Place {
    open: Arc<AtomicUsize>,
    gauge: Level,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
    }
}

impl Workers {
    /// Starts `count` threads. Each makes its own service, on its thread.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn start<S: Service>(
        count: usize,
        lifecycle: &watch::Receiver<Lifecycle>,
        make_service: impl Fn() -> S + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let (mut slots, mut threads) = (Vec::new(), Vec::new());
        for index in 0..count {
            let (inbox, accepted) = mpsc::unbounded_channel();
            let (lifecycle, make_service) = (lifecycle.clone(), make_service.clone());
            let runtime = move || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_io()
                    .enable_time()
                    // Name look-ups are the only blocking work of a worker.
                    .max_blocking_threads(4)
                    .build_local(tokio::runtime::LocalOptions::default())
            };
            let (report, started) = std::sync::mpsc::sync_channel(1);
            threads.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                match runtime() {
                    Err(error) => report.send(Err(error)).unwrap_or_default(),
                    Ok(runtime) => {
                        report.send(Ok(())).unwrap_or_default();
                        runtime.block_on(run(accepted, Rc::new(make_service()), lifecycle));
                    }
                }
            })?);
            started.recv().map_err(io::Error::other)??;
            slots.push(Slot { inbox, open: Arc::default() });
        }
        Ok(Self { inboxes: Inboxes(slots.into()), threads })
    }

    /// Where accept loops leave connections.
    pub fn inboxes(&self) -> &Inboxes {
        &self.inboxes
    }

    /// Waits for every thread to end, which they do when the process drains or stops.
    pub fn join(self) {
        drop(self.inboxes);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }

    /// Open connections, over all workers.
    pub fn open(&self) -> usize {
        open(&self.inboxes.0)
    }
}

impl Inboxes {
    /// Accepts connections on `listener` until it drains, which is told to its connections, too; a
    /// task for the control runtime. A connection is held to what `admission` says when it comes.
    ///
    /// # Errors
    /// When the listener cannot be polled.
    pub fn accept(
        &self,
        listener: TcpListener,
        entrance: Entrance,
        admission: watch::Receiver<Admission>,
        metrics: &Metrics,
        mut lifecycle: watch::Receiver<Lifecycle>,
    ) -> io::Result<impl Future<Output = ()> + Send + use<>> {
        listener.set_nonblocking(true)?;
        let local = listener.local_addr()?;
        let name: Arc<str> = local.to_string().into();
        let gauge = metrics.connections.get_or_create_owned(&Listener::new(Arc::clone(&name)));
        let slots = Arc::clone(&self.0);
        let transport = match entrance {
            Entrance::Redirect(port) => Transport::Redirect(port),
            // It is `Tls` when hands have been shaken.
            Entrance::Plain { .. } | Entrance::Tls(_) => Transport::Plain,
        };
        let listener = tokio::net::TcpListener::from_std(listener)?;
        Ok(async move {
            loop {
                let accepted = tokio::select! {
                    biased;
                    _ = lifecycle.wait_for(|step| *step >= Lifecycle::Draining) => return,
                    // The socket leaves this runtime again: it belongs to the one of its worker.
                    accepted = listener.accept() => accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))),
                };
                match accepted {
                    Ok((stream, peer)) => {
                        let info = ConnInfo { peer, local, listener: Arc::clone(&name), transport: transport.clone() };
                        let (entrance, lifecycle) = (entrance.clone(), lifecycle.clone());
                        hand_over(&slots, stream, (info, entrance), *admission.borrow(), lifecycle, gauge.clone());
                    }
                    Err(error) => {
                        tracing::warn!(%error, listener = %name, "a connection could not be accepted");
                        // Out of file descriptors, most likely: nothing tells when one is free again.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        })
    }
}

/// A listening socket. Binding is apart from accepting so that a port that is taken is found before
/// anything else starts.
///
/// # Errors
/// When the address is taken or not this machine's.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two listeners, so that both can be configured.
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for the old process's closed connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn open(slots: &[Slot]) -> usize {
    slots.iter().map(|slot| slot.open.load(Ordering::Relaxed)).sum()
}

/// Gives a connection to the worker with the fewest.
fn hand_over(
    slots: &[Slot],
    stream: TcpStream,
    (info, entrance): (ConnInfo, Entrance),
    admission: Admission,
    lifecycle: watch::Receiver<Lifecycle>,
    gauge: Level,
) {
    let Admission { most, limits } = admission;
    let overloaded = open(slots) >= most;
    let Some(slot) = slots.iter().min_by_key(|slot| slot.open.load(Ordering::Relaxed)) else { return };
    slot.open.fetch_add(1, Ordering::Relaxed);
    gauge.inc();
    let place = Place { open: Arc::clone(&slot.open), gauge };
    // A worker that is gone is one that stops: the connection closes with the message.
    slot.inbox.send(Accepted { stream, info, entrance, overloaded, limits, lifecycle, place }).unwrap_or_default();
}

/// One worker's life.
async fn run<S: Service>(
    mut accepted: mpsc::UnboundedReceiver<Accepted>,
    service: Rc<S>,
    mut lifecycle: watch::Receiver<Lifecycle>,
) {
    let mut connections = JoinSet::new();
    let mut stopping = lifecycle.clone();
    // Until nothing is open and nothing more can come.
    while !(accepted.is_closed() && accepted.is_empty() && connections.is_empty()) {
        tokio::select! {
            biased;
            // Everything still open is dropped with the set.
            _ = stopping.wait_for(|step| *step >= Lifecycle::Stopping) => return,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if ended.is_err_and(|error| error.is_panic()) {
                    tracing::error!("a connection ended in a panic");
                }
            }
            next = accepted.recv(), if !accepted.is_closed() || !accepted.is_empty() => match next {
                Some(next) => {
                    connections.spawn_local(begin(next, Rc::clone(&service)));
                }
                None => accepted.close(),
            },
            _ = lifecycle.wait_for(|step| *step >= Lifecycle::Draining), if !accepted.is_closed() => {
                // What is in the inbox was accepted, so it is served; nothing new comes.
                accepted.close();
            }
        }
    }
}

async fn begin<S: Service>(accepted: Accepted, service: Rc<S>) {
    let Accepted { stream, info, entrance, overloaded, limits, lifecycle, place } = accepted;
    let stream = stream.set_nodelay(true).and_then(|()| tokio::net::TcpStream::from_std(stream));
    match stream {
        Err(error) => tracing::debug!(%error, "a connection was gone before it began"),
        Ok(stream) if overloaded => Box::pin(turn_away(stream, info, entrance, &*service, lifecycle)).await,
        Ok(stream) => enter(stream, info, entrance, service, limits, lifecycle).await,
    }
    drop(place);
}

#[cfg(test)]
mod tests;
