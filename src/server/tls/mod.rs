//! TLS on listeners (RFC 8446, RFC 5246): certificates by SNI, client certificates, tickets, and new
//! files without a restart.
//!
//! Each listener has one rustls configuration with ticket keys of its own: a session that began on
//! one cannot be resumed on another, so that no ticket goes around a demand for client certificates.
//! When a file's content changes, the configuration is made anew and swapped in; connections keep
//! what they began with. A file that is no good changes nothing. A reload keeps what it finds of the
//! same listener with the same `[listener.tls]`.

mod choice;
mod handshake;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ServerConfig, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};

pub(crate) use handshake::Shaken;

use crate::certificates::{self, Certificate, Slot, Why, provider};
use crate::clock::Timestamp;
use crate::config::{self, ClientAuth, ListenAddress, TlsVersion};
use crate::http::{HostNames, Zone};
use choice::Choice;

/// The name of HTTP/2 in ALPN (RFC 9113 §3.1).
const HTTP2: &[u8] = b"h2";

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is no good.
    #[error(transparent)]
    File(#[from] certificates::Error),
    /// rustls does not take the whole.
    #[error("TLS cannot be set up")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// TLS of all listeners that have it.
#[derive(Debug)]
pub struct Tls {
    endpoints: Vec<Arc<Endpoint>>,
}

/// TLS of one listener.
#[derive(Debug)]
pub struct Endpoint {
    address: ListenAddress,
    config: config::Tls,
    /// What handshakes begin with.
    rustls: ArcSwap<ServerConfig>,
    /// Its connections look at it, also those that are older than what is in it.
    zone: Arc<ArcSwap<Zone>>,
    /// No handshake locks it.
    material: Mutex<Material>,
}

/// What the files were when they were good.
#[derive(Clone, Debug)]
struct Material {
    certificates: Vec<Slot<Certificate>>,
    authorities: Option<Slot<Arc<RootCertStore>>>,
    tickets: Arc<dyn ProducesTickets>,
}

/// TLS of all listeners of a configuration, ready to be put in force.
#[derive(Debug)]
pub struct Prepared {
    tls: Arc<Tls>,
    /// What becomes of each endpoint; those that are new have it already.
    next: Vec<(Arc<ServerConfig>, Arc<Zone>, Material)>,
}

impl Prepared {
    /// TLS of all listeners. Those that were there before are as they were until
    /// [`Prepared::put_in_force`].
    pub fn tls(&self) -> &Arc<Tls> {
        &self.tls
    }

    /// From now on handshakes begin with what was read.
    pub fn put_in_force(self) {
        for (endpoint, (rustls, zone, material)) in self.tls.endpoints.iter().zip(self.next) {
            *endpoint.material() = material;
            endpoint.rustls.store(rustls);
            endpoint.zone.store(zone);
        }
    }
}

impl Tls {
    /// Reads the files of every listener that has TLS. What `before` has of the same listener with the
    /// same settings goes on, with the contents that the files have `now`. Every mistake is told.
    ///
    /// # Errors
    /// Those of all files. One that takes the place of another must not have expired.
    pub fn prepare(
        listeners: &[config::Listener],
        before: Option<&Self>,
        now: Timestamp,
    ) -> Result<Prepared, Vec<Error>> {
        let mut left: Vec<&Arc<Endpoint>> = before.iter().flat_map(|before| &before.endpoints).collect();
        let (mut read, mut errors) = (Vec::new(), Vec::new());
        for listener in listeners {
            let Some(config) = &listener.tls else { continue };
            let same = left.iter().position(|known| known.address == listener.address && known.config == *config);
            let known = same.map(|at| left.remove(at));
            let in_use = known.map(|known| known.material());
            match Material::load(config, in_use.as_deref(), now) {
                Ok(material) => read.push((listener.address.clone(), config, known, material)),
                Err(found) => errors.extend(found),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let zones = zones(&read.iter().map(|(_, config, _, material)| (*config, material.names())).collect::<Vec<_>>());
        let (mut endpoints, mut next) = (Vec::new(), Vec::new());
        for ((address, config, known, material), zone) in read.into_iter().zip(zones) {
            let rustls = material.rustls(config).map_err(|error| vec![error])?;
            endpoints.push(known.map_or_else(
                || {
                    Arc::new(Endpoint {
                        address,
                        config: config.clone(),
                        rustls: ArcSwap::new(Arc::clone(&rustls)),
                        zone: Arc::new(ArcSwap::new(Arc::clone(&zone))),
                        material: Mutex::new(material.clone()),
                    })
                },
                Arc::clone,
            ));
            next.push((rustls, zone, material));
        }
        Ok(Prepared { tls: Arc::new(Self { endpoints }), next })
    }

    /// TLS of each listener that has it, in their order.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// When each certificate ends, by its first name; of several with one name, the first to end.
    pub fn expiries(&self) -> BTreeMap<Arc<str>, Timestamp> {
        let mut ends = BTreeMap::new();
        for endpoint in &self.endpoints {
            for slot in &endpoint.material().certificates {
                let end = ends.entry(Arc::clone(&slot.good.label)).or_insert(slot.good.not_after);
                *end = slot.good.not_after.min(*end);
            }
        }
        ends
    }

    /// Certificates that have expired already. They are served all the same: a client that does not
    /// mind is better off.
    pub fn expired(&self, now: Timestamp) -> Vec<certificates::Error> {
        let mut expired = Vec::new();
        for endpoint in &self.endpoints {
            let material = endpoint.material();
            let slots = endpoint.config.certificates.iter().zip(&material.certificates);
            let ended = slots.filter(|(_, slot)| slot.good.not_after < now);
            expired.extend(ended.map(|(config, _)| certificates::Error {
                path: config.chain.clone(),
                place: config.place.clone(),
                why: Why::Expired,
            }));
        }
        expired
    }

    /// Takes over what changed in the files and is good. Connections that are open, and handshakes
    /// that have begun, keep what they have. Blocks while it reads.
    pub fn refresh(&self, now: Timestamp) {
        let mut changed = Vec::new();
        for endpoint in &self.endpoints {
            changed.push(endpoint.material().refresh(&endpoint.config, now));
        }
        if !changed.contains(&true) {
            return;
        }
        let names: Vec<_> = self.endpoints.iter().map(|one| (&one.config, one.material().names())).collect();
        // The names of one listener are the business of all others.
        for (endpoint, zone) in self.endpoints.iter().zip(zones(&names)) {
            match endpoint.material().rustls(&endpoint.config) {
                Ok(rustls) => {
                    endpoint.rustls.store(rustls);
                    endpoint.zone.store(zone);
                }
                Err(error) => tracing::error!(%error, "new TLS files cannot be used"),
            }
        }
    }
}

impl Endpoint {
    fn material(&self) -> std::sync::MutexGuard<'_, Material> {
        // Nothing is half done when something panics: slots are replaced whole.
        self.material.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Material {
    /// Reads the files. What is `in_use` of the same section, and still has the same content, goes on.
    fn load(config: &config::Tls, in_use: Option<&Self>, now: Timestamp) -> Result<Self, Vec<Error>> {
        let (mut certificates, mut errors) = (Vec::new(), Vec::new());
        for (at, one) in config.certificates.iter().enumerate() {
            let in_use = in_use.and_then(|material| material.certificates.get(at));
            match Slot::<Certificate>::read(one, in_use, now) {
                Ok(slot) => certificates.push(slot),
                Err(error) => errors.push(Error::File(error)),
            }
        }
        let read = |ca: &config::ClientCa| Slot::<Arc<RootCertStore>>::read(&ca.path, &ca.place);
        let authorities = config.client_auth.authorities().map(read).transpose();
        let authorities = authorities.map_err(|error| errors.push(Error::File(error)));
        let known = in_use.map(|material| (&material.tickets, material.authorities.as_ref()));
        let tickets = match (known, &authorities) {
            (Some((tickets, None)), Ok(None)) => Ok(Arc::clone(tickets)),
            (Some((tickets, Some(known))), Ok(Some(new))) if new.is_same(known) => Ok(Arc::clone(tickets)),
            // A ticket stands for a certificate that the old authorities vouched for.
            _ => tickets(),
        };
        match (authorities, tickets) {
            (Ok(authorities), Ok(tickets)) if errors.is_empty() => Ok(Self { certificates, authorities, tickets }),
            (_, tickets) => {
                errors.extend(tickets.err());
                Err(errors)
            }
        }
    }

    /// Reads the files again. Whether something is different now.
    fn refresh(&mut self, config: &config::Tls, now: Timestamp) -> bool {
        let mut changed = false;
        for (one, slot) in config.certificates.iter().zip(&mut self.certificates) {
            changed |= slot.look(one, now);
        }
        if let (Some(ca), Some(slot)) = (config.client_auth.authorities(), &mut self.authorities)
            && slot.look(&ca.path, &ca.place)
        {
            changed = true;
            match tickets() {
                // As above.
                Ok(tickets) => self.tickets = tickets,
                Err(error) => tracing::error!(%error, "no new ticket keys: old sessions can still be resumed"),
            }
        }
        changed
    }

    fn names(&self) -> Vec<String> {
        self.certificates.iter().flat_map(|slot| slot.good.names.iter().cloned()).collect()
    }

    fn rustls(&self, config: &config::Tls) -> Result<Arc<ServerConfig>, Error> {
        let setup = |error: rustls::Error| Error::Setup(error.into());
        let provider = Arc::new(provider());
        let versions: &[_] = match config.min_version {
            TlsVersion::V1_2 => &[&TLS12, &TLS13],
            TlsVersion::V1_3 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(setup)?;
        let builder = match &self.authorities {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&authorities.good), provider);
                let verifier = match config.client_auth {
                    ClientAuth::Required(_) => verifier,
                    ClientAuth::Optional(_) | ClientAuth::Off => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(verifier.build().map_err(|error| Error::Setup(error.into()))?)
            }
        };
        let choice = Choice::new(self.certificates.iter().map(|slot| &slot.good));
        let mut rustls = builder.with_cert_resolver(Arc::new(choice));
        // The best first (RFC 7301 §3.2).
        rustls.alpn_protocols = [HTTP2, b"http/1.1", b"http/1.0"].map(<[u8]>::to_vec).to_vec();
        // Tickets hold the session, so that nothing is kept here; 0-RTT stays off: it can be replayed.
        rustls.ticketer = Arc::clone(&self.tickets);
        rustls.session_storage = Arc::new(NoServerSessionStorage {});
        rustls.send_tls13_tickets = 1;
        Ok(Arc::new(rustls))
    }
}

/// The zone of each listener: listeners that ask the same of clients are in one.
fn zones(listeners: &[(&config::Tls, Vec<String>)]) -> Vec<Arc<Zone>> {
    let names_where = |wanted: &dyn Fn(&ClientAuth) -> bool| -> HostNames {
        let listeners = listeners.iter().filter(|(config, _)| wanted(&config.client_auth));
        listeners.flat_map(|(_, names)| names.iter().map(String::as_str)).collect()
    };
    let zone =
        |own: &ClientAuth| Arc::new(Zone::new(names_where(&|auth| auth == own), names_where(&|auth| auth != own)));
    listeners.iter().map(|(config, _)| zone(&config.client_auth)).collect()
}

fn tickets() -> Result<Arc<dyn ProducesTickets>, Error> {
    aws_lc_rs::Ticketer::new().map_err(|error| Error::Setup(error.into()))
}

#[cfg(test)]
mod tests;
