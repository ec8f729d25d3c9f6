//! A request that asks for a WebSocket (RFC 6455 §4, RFC 8441), from its head to the answer.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as HttpBody;

use super::refusals::no_connect;
use crate::access::{Denial, Refusal};
use crate::auth::cors::is_own;
use crate::config;
use crate::http::{Body, single};
use crate::problem::{Code, Problem};
use crate::upstream::Tunnel;
use crate::websocket::{is_key, names_upgrade, random_key};

/// What a browser writes in front of a token among the subprotocols: its WebSockets can have no header.
const BEARER: &str = "portcullis.bearer.";

/// A handshake that keeps to the protocol.
#[derive(Debug)]
pub(super) struct Handshake {
    /// The key for the upstream.
    pub(super) key: HeaderValue,
    /// The token among the subprotocols, as if it stood where it belongs.
    pub(super) credential: Option<HeaderMap>,
    /// That subprotocol, as it was offered.
    bearer: Option<HeaderValue>,
    /// The other subprotocols, in their order.
    offered: Vec<String>,
    extended: bool,
}

impl Handshake {
    /// Reads the request's head. `None`: it asks for no WebSocket, or for one where none are, which
    /// makes it an ordinary request. `extended` CONNECT is a handshake or nothing.
    ///
    /// # Errors
    /// When it is none that RFC 6455 §4.2.1 knows, has more than one credential, or comes from a page of
    /// an origin that may not send it.
    pub(super) fn read<B: HttpBody>(
        request: &Request<B>,
        extended: bool,
        config: Option<&config::WebSocket>,
        host: Option<&HeaderValue>,
        has_certificate: bool,
    ) -> Result<Option<Self>, Problem> {
        let Some(config) = config else {
            return if extended { Err(no_connect()) } else { Ok(None) };
        };
        let headers = request.headers();
        if !extended && !asks(request.version(), headers) {
            return Ok(None);
        }
        let malformed = |reason| Problem::from(Code::RequestMalformed).because(reason);
        if !extended && (request.method() != Method::GET || !request.body().is_end_stream()) {
            // What follows could be frames as well as a body.
            return Err(Problem { close: true, ..malformed("websocket_method") });
        }
        if !single(headers, &header::UPGRADE).is_ok_and(|value| extended || value.is_some_and(is_websocket)) {
            return Err(malformed("websocket_upgrade"));
        }
        let version = single(headers, &header::SEC_WEBSOCKET_VERSION);
        if !version.is_ok_and(|version| version.is_some_and(|version| version == "13")) {
            return Err(malformed(VERSION));
        }
        let key = match single(headers, &header::SEC_WEBSOCKET_KEY) {
            // RFC 8441 §5: there is none.
            Ok(None) if extended => random_key(),
            Ok(Some(key)) if !extended && is_key(key) => key.clone(),
            _ => return Err(malformed("websocket_key")),
        };
        let mut handshake = Self { key, credential: None, bearer: None, offered: Vec::new(), extended };
        handshake.read_protocols(headers)?;
        // Any page can bring a token as a subprotocol, and a browser brings its certificate for any page.
        let asked = handshake.bearer.is_some() || has_certificate || !config.origins.is_empty();
        if asked && !may_come_from(headers, config, host) {
            return Err(Problem::from(Code::OriginDenied).because("origin"));
        }
        Ok(Some(handshake))
    }

    /// Takes the token from among the subprotocols (RFC 6455 §11.3.4).
    fn read_protocols(&mut self, headers: &HeaderMap) -> Result<(), Problem> {
        let ambiguous = || Problem::from(Denial::Refused(Refusal::Ambiguous));
        for line in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
            let malformed = |_| Problem::from(Code::RequestMalformed).because("websocket_protocol");
            for offer in line.to_str().map_err(malformed)?.split(',').map(str::trim) {
                let (prefix, token) = offer.split_at_checked(BEARER.len()).unwrap_or((offer, ""));
                // Any spelling of it: a token is not for the upstream to see.
                if !prefix.eq_ignore_ascii_case(BEARER) {
                    self.offered.push(offer.to_owned());
                    continue;
                }
                let mut bearer = HeaderValue::from_str(offer).map_err(|_| ambiguous())?;
                let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| ambiguous())?;
                bearer.set_sensitive(true);
                value.set_sensitive(true);
                if self.bearer.replace(bearer).is_some() || headers.contains_key(header::AUTHORIZATION) {
                    return Err(ambiguous());
                }
                self.credential = Some(HeaderMap::from_iter([(header::AUTHORIZATION, value)]));
            }
        }
        Ok(())
    }

    /// Makes it the request that goes upstream, as far as it differs from any other.
    pub(super) fn prepare<B>(mut self, request: &mut Request<B>) -> Self {
        *request.method_mut() = Method::GET;
        let headers = request.headers_mut();
        if let Some(credential) = self.credential.take() {
            headers.extend(credential);
            match HeaderValue::from_str(&self.offered.join(", ")) {
                Ok(others) if !others.is_empty() => drop(headers.insert(header::SEC_WEBSOCKET_PROTOCOL, others)),
                _ => drop(headers.remove(header::SEC_WEBSOCKET_PROTOCOL)),
            }
        }
        self
    }

    /// What the upstream's answer comes to: a WebSocket over this tunnel, or an answer like any other.
    ///
    /// # Errors
    /// When the client could take it for what it is not.
    pub(super) fn conclude(
        self,
        response: &mut Response<Body>,
        tunnel: Option<Tunnel>,
    ) -> Result<Option<Tunnel>, Problem> {
        match &tunnel {
            Some(_) => self.accept(response)?,
            None => self.declined(response)?,
        }
        Ok(tunnel)
    }

    /// Makes the upstream's 101 the answer for the client. A subprotocol that the upstream was not
    /// offered makes it invalid (RFC 6455 §4.1).
    fn accept(self, response: &mut Response<Body>) -> Result<(), Problem> {
        let invalid = || Problem::from(Code::UpstreamInvalid).because("websocket_protocol");
        let headers = response.headers_mut();
        match (single(headers, &header::SEC_WEBSOCKET_PROTOCOL), self.bearer) {
            (Err(_repeated), _) => return Err(invalid()),
            (Ok(Some(chosen)), _) if !self.offered.iter().any(|offer| chosen == offer.as_str()) => {
                return Err(invalid());
            }
            // Browsers give up where none of their subprotocols is chosen (WebSockets standard, §3.1).
            (Ok(None), Some(bearer)) => drop(headers.insert(header::SEC_WEBSOCKET_PROTOCOL, bearer)),
            (Ok(_), _) => {}
        }
        if self.extended {
            headers.remove(header::SEC_WEBSOCKET_ACCEPT);
            *response.status_mut() = StatusCode::OK;
        } else {
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        Ok(())
    }

    /// An answer that is no 101 goes to the client like any other, unless it would be read as one: to an
    /// extended CONNECT every 2xx is (RFC 8441 §4).
    fn declined(&self, response: &Response<Body>) -> Result<(), Problem> {
        if self.extended && response.status().is_success() {
            return Err(Problem::from(Code::UpstreamInvalid).because("invalid_handshake"));
        }
        Ok(())
    }
}

/// The reason for a 400 that has to name the version that would do (RFC 6455 §4.4).
const VERSION: &str = "websocket_version";

/// Says so in the answer.
pub(super) fn name_version(problem: &Problem, headers: &mut HeaderMap) {
    if problem.reason == VERSION {
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
}

/// Whether the request asks for a WebSocket, well or badly. HTTP/1.0 cannot (RFC 9110 §7.8).
fn asks(version: Version, headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::UPGRADE).iter();
    version == Version::HTTP_11 && lines.any(is_websocket) && names_upgrade(headers)
}

fn is_websocket(value: &HeaderValue) -> bool {
    value.as_bytes().eq_ignore_ascii_case(b"websocket")
}

/// Whether the page that sends it may: one of the host's own, or of the origins of the route. Browsers
/// always say which page it is; whoever says nothing is none.
fn may_come_from(headers: &HeaderMap, config: &config::WebSocket, host: Option<&HeaderValue>) -> bool {
    match single(headers, &header::ORIGIN) {
        Ok(None) => true,
        Ok(Some(origin)) => config.origins.contains(origin) || is_own(origin, host),
        Err(_repeated) => false,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};

    use super::*;

    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    const LINES: [(&str, &str); 4] =
        [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13"), KEY];

    fn request(lines: &[(&str, &str)]) -> Request<Empty<&'static [u8]>> {
        let mut builder = Request::builder().uri("/ws");
        for (name, value) in lines {
            builder = builder.header(*name, *value);
        }
        builder.body(Empty::new()).unwrap()
    }

    fn config() -> config::WebSocket {
        config::WebSocket { origins: Vec::new(), idle: std::time::Duration::from_secs(1) }
    }

    fn read(lines: &[(&str, &str)]) -> Result<Option<Handshake>, (Code, String)> {
        let (request, host) = (request(lines), HeaderValue::from_static("gw"));
        Handshake::read(&request, false, Some(&config()), Some(&host), false)
            .map_err(|problem| (problem.code, problem.reason.into()))
    }

    /// The handshake with these lines in place of those of the same name.
    fn with(lines: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
        let kept = LINES.into_iter().filter(|(name, _)| !lines.iter().any(|(other, _)| other == name));
        kept.chain(lines.iter().copied()).filter(|(_, value)| !value.is_empty()).collect()
    }

    #[test]
    fn what_does_not_ask_is_an_ordinary_request() {
        assert!(read(&LINES).unwrap().is_some());
        for lines in [
            &[][..],
            &with(&[("upgrade", "")]),
            &with(&[("upgrade", "h2c")]),
            &with(&[("connection", "keep-alive")]),
            &with(&[("connection", "")]),
        ] {
            assert!(read(lines).unwrap().is_none(), "{lines:?}");
        }
        let mut old = request(&LINES);
        *old.version_mut() = Version::HTTP_10;
        assert!(Handshake::read(&old, false, Some(&config()), None, false).unwrap().is_none());
        assert!(Handshake::read(&request(&LINES), false, None, None, false).unwrap().is_none(), "the route has none");
        assert_eq!(Handshake::read(&old, true, None, None, false).unwrap_err().code, Code::MethodNotAllowed);
    }

    #[test]
    fn what_asks_badly_is_refused() {
        for (lines, reason) in [
            (with(&[("sec-websocket-version", "8")]), "websocket_version"),
            (with(&[("sec-websocket-version", "")]), "websocket_version"),
            (with(&[("sec-websocket-version", "13"), ("sec-websocket-version", "13")]), "websocket_version"),
            (with(&[("sec-websocket-key", "")]), "websocket_key"),
            (with(&[("sec-websocket-key", "c2hvcnQ=")]), "websocket_key"),
            (with(&[KEY, KEY]), "websocket_key"),
            (with(&[("upgrade", "websocket"), ("upgrade", "h2c")]), "websocket_upgrade"),
        ] {
            assert_eq!(read(&lines).unwrap_err(), (Code::RequestMalformed, reason.to_owned()), "{lines:?}");
        }
        let body = request(&LINES).map(|_| Full::new(&b"x"[..]));
        let problem = Handshake::read(&body, false, Some(&config()), None, false).unwrap_err();
        assert_eq!((&*problem.reason, problem.close), ("websocket_method", true));
        let mut post = request(&LINES);
        *post.method_mut() = Method::POST;
        assert_eq!(Handshake::read(&post, false, Some(&config()), None, false).unwrap_err().reason, "websocket_method");
    }

    #[test]
    fn what_a_browser_adds_by_itself_is_for_the_pages_of_the_host() {
        let host = HeaderValue::from_static("gw");
        let read = |origin, has_certificate| {
            let request = request(&with(&[("origin", origin)]));
            let read = Handshake::read(&request, false, Some(&config()), Some(&host), has_certificate);
            read.map(|_| ()).map_err(|problem| problem.code)
        };
        assert_eq!(read("https://evil.example", true), Err(Code::OriginDenied));
        assert_eq!(read("https://gw", true), Ok(()));
        assert_eq!(read("https://evil.example", false), Ok(()), "there is nothing to abuse");
    }

    #[test]
    fn the_token_leaves_the_subprotocols() {
        let shouted = read(&with(&[("sec-websocket-protocol", "Portcullis.BEARER.a.b.c")])).unwrap().unwrap();
        assert!(shouted.credential.is_some() && shouted.offered.is_empty(), "in any spelling");

        let lines =
            with(&[("sec-websocket-protocol", "chat, portcullis.bearer.a.b.c"), ("sec-websocket-protocol", "v2")]);
        let handshake = read(&lines).unwrap().unwrap();
        assert_eq!(handshake.credential.as_ref().unwrap()[header::AUTHORIZATION], "Bearer a.b.c");
        let mut sent = request(&lines);
        handshake.prepare(&mut sent);
        let protocols: Vec<_> = sent.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().collect();
        assert_eq!(protocols, ["chat, v2"]);
        assert_eq!(sent.headers()[header::AUTHORIZATION], "Bearer a.b.c");

        let answer = |chosen: &[&'static str], lines: &[(&'static str, &'static str)]| {
            let mut response = Response::new(Body::Empty);
            for chosen in chosen {
                response.headers_mut().append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen));
            }
            read(&with(lines)).unwrap().unwrap().accept(&mut response).map_err(|problem| problem.code)?;
            Ok(single(response.headers(), &header::SEC_WEBSOCKET_PROTOCOL).unwrap().cloned())
        };
        let both = [("sec-websocket-protocol", "portcullis.bearer.a.b.c, chat")];
        let only = [("sec-websocket-protocol", "portcullis.bearer.a.b.c")];
        let value = |text: &'static str| Ok(Some(HeaderValue::from_static(text)));
        assert_eq!(answer(&["chat"], &both), value("chat"));
        assert_eq!(answer(&[], &both), value("portcullis.bearer.a.b.c"), "browsers want one of theirs");
        assert_eq!(answer(&[], &only), value("portcullis.bearer.a.b.c"));
        assert_eq!(answer(&["chat"], &only), Err(Code::UpstreamInvalid), "nobody offered it");
        assert_eq!(answer(&["chat", "chat"], &both), Err(Code::UpstreamInvalid));
        assert_eq!(answer(&[], &[]), Ok(None));
    }

    #[test]
    fn two_credentials_are_one_too_many() {
        for lines in [
            with(&[("sec-websocket-protocol", "portcullis.bearer.a, portcullis.bearer.a")]),
            with(&[("sec-websocket-protocol", "portcullis.bearer.a"), ("authorization", "Bearer a")]),
            with(&[
                ("sec-websocket-protocol", "portcullis.bearer.a"),
                ("sec-websocket-protocol", "portcullis.bearer.b"),
            ]),
        ] {
            assert_eq!(read(&lines).unwrap_err().0, Code::HeaderAmbiguous, "{lines:?}");
        }
    }

    #[test]
    fn a_page_of_another_origin_may_not_bring_a_token() {
        let token = ("sec-websocket-protocol", "portcullis.bearer.a");
        let judge = |lines: &[(&'static str, &'static str)], origins: &[&'static str]| {
            let origins = origins.iter().map(|origin| HeaderValue::from_static(origin)).collect();
            let (config, host) = (config::WebSocket { origins, ..config() }, HeaderValue::from_static("gw:8080"));
            Handshake::read(&request(&with(lines)), false, Some(&config), Some(&host), false)
                .map(drop)
                .map_err(|problem| problem.code)
        };
        let app = "https://app.example";
        assert_eq!(judge(&[token, ("origin", "http://gw:8080")], &[]), Ok(()), "its own");
        assert_eq!(judge(&[token, ("origin", "http://gw")], &[]), Err(Code::OriginDenied));
        assert_eq!(judge(&[token, ("origin", app)], &[]), Err(Code::OriginDenied));
        assert_eq!(judge(&[token, ("origin", "null")], &[app]), Err(Code::OriginDenied));
        assert_eq!(judge(&[token, ("origin", app), ("origin", app)], &[app]), Err(Code::OriginDenied));
        assert_eq!(judge(&[token, ("origin", app)], &[app]), Ok(()));
        assert_eq!(judge(&[token], &[app]), Ok(()), "no page");
        assert_eq!(judge(&[("origin", app)], &[]), Ok(()), "nothing that a browser adds by itself lets anybody in");
        assert_eq!(judge(&[("origin", "https://evil.example")], &[app]), Err(Code::OriginDenied));
    }

    #[test]
    fn an_extended_connect_is_answered_with_200() {
        let lines = with(&[("connection", ""), ("upgrade", ""), ("sec-websocket-key", "")]);
        let read = || Handshake::read(&request(&lines), true, Some(&config()), None, false).unwrap().unwrap();
        assert!(is_key(&read().key));
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static("x"));
        read().accept(&mut response).unwrap();
        assert_eq!((response.status(), response.headers().len()), (StatusCode::OK, 0));
        assert!(read().declined(&response).is_err(), "a 200 that is none");
        *response.status_mut() = StatusCode::NOT_FOUND;
        assert!(read().declined(&response).is_ok());
        let with_key = Handshake::read(&request(&LINES), true, Some(&config()), None, false);
        assert_eq!(with_key.unwrap_err().reason, "websocket_key");
    }
}
