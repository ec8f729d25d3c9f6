//! Black-box tests: real sockets, the real gateway, scripted neighbors. See [`support`].

#[cfg(test)]
mod docs;
#[cfg(test)]
mod support;
