//! `[listener.tls]`, and certificates with their keys wherever they are named. The files that it
//! names are read when the gateway starts, and by `check`.

use std::net::SocketAddr;

use toml::Spanned;

use crate::config::diagnostic::Diagnostic;
use crate::config::file::{CERTIFICATE, TLS};
use crate::config::section::Section;
use crate::config::validate::Bound;
use crate::config::{CertificateFiles, ClientAuth, ClientCa, Place, Tls, TlsVersion, values};

/// The words of `client_auth`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    Off,
    Optional,
    Required,
}

/// How a listener speaks TLS, if it does, and the plaintext address that sends clients there.
pub(super) fn tls(listener: &Section<'_>, h2c: bool, bound: &mut Vec<Bound>) -> Option<(Tls, Option<SocketAddr>)> {
    let section = listener.child("tls", &TLS);
    if !section.is_present() {
        return None;
    }
    if h2c {
        let unused = Diagnostic::warning("`h2c` has no effect on a listener with TLS");
        let unused = unused.at(listener.place_of("h2c"), "is for plaintext");
        section.reader.note(unused.help("leave it out: over TLS clients choose HTTP/2 by ALPN"));
    }
    let redirect_http_from = section.parsed("redirect_http_from", "an address to listen on", values::address);
    if let Some(address) = &redirect_http_from {
        let what = "the redirect to https".to_owned();
        bound.push(Bound { address: (*address.get_ref()).into(), span: address.span(), what });
    }
    let tls = Tls {
        certificates: certificates(&section),
        client_auth: client_auth(&section),
        min_version: section.choice(
            "min_version",
            TlsVersion::V1_2,
            &[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)],
        ),
    };
    Some((tls, redirect_http_from.map(Spanned::into_inner)))
}

/// A certificate and its key. The example is of the name of both.
pub(super) fn certificate(section: &Section<'_>, example: &str) -> Option<CertificateFiles> {
    section.require("chain", &format!("\"tls/{example}.pem\""));
    section.require("key", &format!("\"tls/{example}.key\""));
    let (chain, key) = section.path("chain").zip(section.path("key"))?;
    Some(CertificateFiles { chain, key, place: Place(section.place.clone()) })
}

fn certificates(section: &Section<'_>) -> Vec<CertificateFiles> {
    section.require("certificates", "[{ chain = \"tls/site.pem\", key = \"tls/site.key\" }]");
    if let Some(value) = section.value("certificates")
        && value.get_ref().as_array().is_some_and(|array| array.is_empty())
    {
        let empty = Diagnostic::error("`certificates` is empty").at(value.span(), "there is no TLS without one");
        section.reader.note(empty.help("for a plaintext listener leave out [listener.tls]"));
    }
    let mut certificates: Vec<CertificateFiles> = Vec::new();
    for one in section.children("certificates", &CERTIFICATE) {
        let Some(files) = certificate(&one, "site") else { continue };
        if let Some(earlier) = certificates.iter().find(|earlier| earlier.chain == files.chain) {
            let twice = Diagnostic::error("the certificate is there twice");
            let twice = twice.at(one.place_of("chain"), "the second time");
            section.reader.note(twice.at(earlier.place.0.clone(), "the first one"));
        }
        certificates.push(files);
    }
    certificates
}

fn client_auth(section: &Section<'_>) -> ClientAuth {
    let words = [("off", Ask::Off), ("optional", Ask::Optional), ("required", Ask::Required)];
    let ask = section.choice("client_auth", Ask::Off, &words);
    let place = section.place_of("client_ca");
    let ca = section.path("client_ca").map(|path| ClientCa { path, place: Place(place.clone()) });
    match (ask, ca) {
        (Ask::Optional, Some(ca)) => ClientAuth::Optional(ca),
        (Ask::Required, Some(ca)) => ClientAuth::Required(ca),
        (Ask::Off, Some(_)) => {
            // Whoever writes "off" beside it knows.
            if section.value("client_auth").is_none() {
                let unused = Diagnostic::warning("clients are not asked for certificates");
                let help = "add client_auth = \"required\" or \"optional\", or say client_auth = \"off\"";
                section.reader.note(unused.at(place, "is not used").help(help));
            }
            ClientAuth::Off
        }
        (Ask::Off, None) => ClientAuth::Off,
        (Ask::Optional | Ask::Required, None) => {
            if section.value("client_ca").is_none() {
                let nobody = Diagnostic::error("nobody vouches for clients' certificates");
                let nobody = nobody.at(section.place_of("client_auth"), "asks for certificates");
                section.reader.note(nobody.help("add client_ca = \"tls/clients.pem\""));
            }
            ClientAuth::Off
        }
    }
}
