//! Black-box tests: real sockets, the real gateway, scripted neighbors. See [`support`].

#[cfg(test)]
mod assertion;
#[cfg(test)]
mod balancing;
#[cfg(test)]
mod caps;
#[cfg(test)]
mod check;
#[cfg(test)]
mod config;
#[cfg(test)]
mod docs;
#[cfg(test)]
mod edits;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod framing;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod health;
#[cfg(test)]
mod http2;
#[cfg(test)]
mod http2_upstreams;
#[cfg(test)]
mod identity_routes;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod layers;
#[cfg(test)]
mod lessons;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod matrix;
#[cfg(test)]
mod process;
#[cfg(test)]
mod proxy_protocol;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod slow_clients;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod support;
#[cfg(test)]
mod systemd;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod unix_listeners;
#[cfg(test)]
mod websocket;
