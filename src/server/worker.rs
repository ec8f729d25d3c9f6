//! The data plane: threads that each keep their connections for life.
//!
//! One accept loop per listener hands a new connection to the worker with the fewest. From then on
//! everything about it (TLS, HTTP, upstream connections, buffers) stays on that thread, so nothing there
//! needs a lock or a wake-up from another core.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connection::{ConnectionLimits, Lifecycle, Service};
use super::entrance::{Entrance, FAREWELL, enter, turn_away};
use super::proxied::introduce;
use super::socket::{Accepted, ListeningSocket};
use crate::http::{ConnInfo, Transport, TrustedProxies};
use crate::telemetry::metrics::{Count, Level, Listener, ListenerReason, Metrics};

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
#[derive(Clone, Debug)]
pub struct Admission {
    /// Open connections, over all listeners.
    pub most: usize,
    /// What each of them may take.
    pub limits: ConnectionLimits,
    /// Whose PROXY headers are believed.
    pub trusted: Arc<TrustedProxies>,
}

/// What holds for the connections of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Open connections of this listener. `None`: as many as there may be over all.
    pub most: Option<usize>,
    /// They begin with a PROXY header, from a trusted proxy.
    pub proxy_protocol: bool,
}

/// A worker, seen from the accept loops.
#[derive(Debug)]
struct Slot {
    inbox: mpsc::UnboundedSender<Arrival>,
    open: Arc<AtomicUsize>,
}

/// A connection on its way to a worker.
#[derive(Debug)]
struct Arrival {
    stream: Accepted,
    info: ConnInfo,
    entrance: Entrance,
    /// Where it is counted if it does not begin with a PROXY header, where it has to.
    proxied: Option<Family<ListenerReason, Count>>,
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
        listener: ListeningSocket,
        entrance: Entrance,
        terms: Terms,
        admission: watch::Receiver<Admission>,
        metrics: &Metrics,
        mut lifecycle: watch::Receiver<Lifecycle>,
    ) -> io::Result<impl Future<Output = ()> + Send + use<>> {
        let address = listener.address()?;
        let name: Arc<str> = address.to_string().into();
        let gauge = metrics.connections.get_or_create_owned(&Listener::new(Arc::clone(&name)));
        let proxied = terms.proxy_protocol.then(|| metrics.proxy_refused.clone());
        let slots = Arc::clone(&self.0);
        let local = address.tcp();
        let transport = match entrance {
            Entrance::Redirect(port) => Transport::Redirect(port),
            // It is `Tls` when hands have been shaken.
            Entrance::Plain { .. } | Entrance::Tls(_) => Transport::Plain,
        };
        let listener = listener.into_acceptor()?;
        Ok(async move {
            loop {
                let accepted = tokio::select! {
                    biased;
                    _ = lifecycle.wait_for(|step| *step >= Lifecycle::Draining) => return,
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((stream, peer)) => {
                        let info = ConnInfo { peer, local, listener: Arc::clone(&name), transport: transport.clone() };
                        let admission = admission.borrow().clone();
                        if let Some(refused) = proxied.as_ref().filter(|_| !admission.trusted.contains(peer)) {
                            count_refusal(refused, &info, "untrusted");
                            continue;
                        }
                        // The gauge counts those of before a reload, too: they are open.
                        let full =
                            terms.most.is_some_and(|most| usize::try_from(gauge.get()).is_ok_and(|open| open >= most));
                        let overloaded = full || open(&slots) >= admission.most;
                        let (entrance, proxied) = (entrance.clone(), proxied.clone());
                        let (limits, lifecycle) = (admission.limits, lifecycle.clone());
                        hand_over(&slots, &gauge, |place| Arrival {
                            stream,
                            info,
                            entrance,
                            proxied,
                            overloaded,
                            limits,
                            lifecycle,
                            place,
                        });
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

fn open(slots: &[Slot]) -> usize {
    slots.iter().map(|slot| slot.open.load(Ordering::Relaxed)).sum()
}

/// Gives a connection to the worker with the fewest.
fn hand_over(slots: &[Slot], gauge: &Level, arrival: impl FnOnce(Place) -> Arrival) {
    let Some(slot) = slots.iter().min_by_key(|slot| slot.open.load(Ordering::Relaxed)) else { return };
    slot.open.fetch_add(1, Ordering::Relaxed);
    gauge.inc();
    let place = Place { open: Arc::clone(&slot.open), gauge: gauge.clone() };
    // A worker that is gone is one that stops: the connection closes with the message.
    slot.inbox.send(arrival(place)).unwrap_or_default();
}

/// One worker's life.
async fn run<S: Service>(
    mut accepted: mpsc::UnboundedReceiver<Arrival>,
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

async fn begin<S: Service>(arrival: Arrival, service: Rc<S>) {
    let Arrival { stream, mut info, entrance, proxied, overloaded, mut limits, lifecycle, place } = arrival;
    let mut stream = match stream.into_stream() {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "a connection was gone before it began"),
    };
    if let Some(refused) = proxied {
        let deadline = Instant::now() + if overloaded { FAREWELL } else { limits.handshake };
        // Apart, so that other connections do not take the room that reading it takes.
        let introduced = Box::pin(introduce(&mut stream, &mut info, deadline, lifecycle.clone())).await;
        if let Err(why) = introduced {
            if let Some(reason) = why.as_str() {
                count_refusal(&refused, &info, reason);
            }
            return tracing::debug!(?why, proxy = %info.peer, "a connection without a PROXY header");
        }
        // A TLS handshake has what is left.
        limits.handshake = deadline.saturating_duration_since(Instant::now());
    }
    if overloaded {
        Box::pin(turn_away(stream, info, entrance, &*service, lifecycle)).await;
    } else {
        enter(stream, info, entrance, service, limits, lifecycle).await;
    }
    drop(place);
}

fn count_refusal(refused: &Family<ListenerReason, Count>, info: &ConnInfo, reason: &'static str) {
    refused.get_or_create_owned(&ListenerReason::new(Arc::clone(&info.listener), reason)).inc();
}

#[cfg(test)]
mod tests;
