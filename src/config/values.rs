//! The texts that stand in values, as pure functions: durations, sizes, addresses, names, paths.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Uri};
use ipnet::IpNet;

use crate::config::HostPattern;

/// Why a text is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Invalid {
    /// A few words that stand beside the text.
    pub why: Cow<'static, str>,
    /// What to write instead.
    pub help: Option<String>,
}

impl Invalid {
    pub(super) fn new(why: impl Into<Cow<'static, str>>) -> Self {
        Self { why: why.into(), help: None }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// Longer than this is a mistake, and some clocks cannot add it.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// Reads `"30s"`, `"1h30m"` or `"0"`. Units: ms, s, m, h, d, each at most once and larger ones first.
///
/// # Errors
/// When it is not of that form, or longer than 366 days.
pub fn duration(text: &str) -> Result<Duration, Invalid> {
    let help = "write a number and a unit (ms, s, m, h, d), for instance \"30s\", or \"0\"";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut last_unit = u64::MAX;
    while !rest.is_empty() {
        let (number, behind) = number(rest).ok_or_else(|| Invalid::new("not a duration").help(help))?;
        let end = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, next) = behind.split_at_checked(end).unwrap_or((behind, ""));
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" => return Err(Invalid::new("the unit is missing").help(help)),
            _ => return Err(Invalid::new("not a unit of time").help(help)),
        };
        if millis >= last_unit {
            return Err(Invalid::new("larger units come first, and each once").help(help));
        }
        last_unit = millis;
        total = number
            .checked_mul(millis)
            .and_then(|part| total.checked_add(Duration::from_millis(part)))
            .filter(|total| *total <= LONGEST)
            .ok_or_else(|| Invalid::new("longer than a year"))?;
        rest = next;
    }
    if text.is_empty() {
        return Err(Invalid::new("not a duration").help(help));
    }
    Ok(total)
}

/// Reads `"32KiB"`, `"10MB"`, `"512B"` or `"0"`, in bytes. KiB, MiB and GiB count in 1024s, KB, MB and GB in 1000s.
///
/// # Errors
/// When it is not of that form, or more than 2⁶³ bytes.
pub fn size(text: &str) -> Result<u64, Invalid> {
    let help = "write a number and a unit (B, KiB, MiB, GiB, KB, MB, GB), for instance \"32KiB\", or \"0\"";
    let (number, unit) = number(text).ok_or_else(|| Invalid::new("not a size").help(help))?;
    let factor: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "" if number == 0 => 1,
        "" => return Err(Invalid::new("the unit is missing").help(help)),
        _ => return Err(Invalid::new("not a unit of size").help(help)),
    };
    let bytes = number.checked_mul(factor).filter(|bytes| *bytes <= 1 << 63);
    bytes.ok_or_else(|| Invalid::new("too large"))
}

/// Reads `"10/5m"`: how many, in which time.
///
/// # Errors
/// When it is not of that form, or either half is zero.
pub fn rate(text: &str) -> Result<(u32, Duration), Invalid> {
    let help = "write a number, a slash and a duration, for instance \"10/5m\"";
    let (count, per) = text.split_once('/').ok_or_else(|| Invalid::new("the slash is missing").help(help))?;
    let count = match number(count) {
        Some((count, "")) => u32::try_from(count).map_err(|_| Invalid::new("too large"))?,
        _ => return Err(Invalid::new("the slash stands behind a whole number").help(help)),
    };
    let per = duration(per)?;
    if count == 0 || per.is_zero() {
        return Err(Invalid::new("neither half may be zero").help(help));
    }
    Ok((count, per))
}

/// The digits at the start, as a number, and what follows. `None` without digits or above 2⁶⁴.
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, rest))
}

/// Reads `"127.0.0.1:8080"` or `"[::1]:8080"`.
///
/// # Errors
/// When it is not an IP address with a port. Names are not looked up: a listener must not depend on DNS.
pub fn address(text: &str) -> Result<SocketAddr, Invalid> {
    let example = "write an IP address and a port, for instance \"127.0.0.1:8080\"";
    text.parse().map_err(|_| match (text.strip_prefix(':'), text.parse::<IpAddr>()) {
        (Some(port), _) if port.parse::<u16>().is_ok() => {
            Invalid::new("the address is missing").help(format!("for every interface write \"0.0.0.0:{port}\""))
        }
        (_, Ok(_)) => Invalid::new("the port is missing").help(example),
        _ if text.starts_with("localhost:") => {
            Invalid::new("a name, not an address").help(text.replacen("localhost", "write \"127.0.0.1", 1) + "\"")
        }
        _ => Invalid::new("not an IP address with a port").help(example),
    })
}

/// Reads the path of a unix socket, which a relative one has within `folder`.
///
/// # Errors
/// When there is none, or one that does not fit into the kernel's address (unix(7)).
pub fn socket_path(path: &str, folder: &Path) -> Result<PathBuf, Invalid> {
    const LONGEST: usize = 107;
    if path.is_empty() {
        return Err(Invalid::new("the path is missing").help("write unix:/run/app.sock"));
    }
    let path = folder.join(path);
    if path.as_os_str().len() > LONGEST {
        return Err(Invalid::new("a path of a socket has at most 107 bytes"));
    }
    Ok(path)
}

/// Reads what systemd takes for the name of a descriptor (`FileDescriptorName=` in systemd.socket(5)).
///
/// # Errors
/// When it is something else.
pub fn descriptor_name(name: &str) -> Result<String, Invalid> {
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b':' || byte == b' ';
    if name.is_empty() || name.len() > 255 || !name.bytes().all(fits) {
        let help = "write what FileDescriptorName= of the socket's unit says, for instance \"systemd:web\"";
        return Err(Invalid::new("not the name of a descriptor").help(help));
    }
    Ok(name.to_owned())
}

/// Reads `"10.0.0.0/8"`, or a single address.
///
/// # Errors
/// When it is neither, or when bits behind the prefix are set: one of both halves is a mistake then.
pub fn network(text: &str) -> Result<IpNet, Invalid> {
    if let Ok(single) = text.parse::<IpAddr>() {
        return Ok(single.into());
    }
    let network: IpNet =
        text.parse().map_err(|_| Invalid::new("not a network").help("write for instance \"10.0.0.0/8\""))?;
    if network.trunc() != network {
        let help = format!("the network is \"{}\"", network.trunc());
        return Err(Invalid::new("bits behind the prefix are set").help(help));
    }
    Ok(network)
}

/// Reads a method (RFC 9110 §9.1): case counts, and all registered ones are upper case.
///
/// # Errors
/// When it is not a token, or not upper case.
pub fn method(text: &str) -> Result<Method, Invalid> {
    if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        let upper = text.to_ascii_uppercase();
        return Err(Invalid::new("methods are upper case").help(format!("write \"{upper}\"")));
    }
    if text == "CONNECT" {
        return Err(Invalid::new("tunnels are not proxied"));
    }
    Method::from_bytes(text.as_bytes()).map_err(|_| Invalid::new("not a method name"))
}

/// Reads a host pattern: a name, or `*.` and a name. Lower case and without a trailing dot afterwards.
///
/// # Errors
/// When it has a port, a star elsewhere, or is not a host name in ASCII (IDNA names are written as `xn--…`).
pub fn host_pattern(text: &str) -> Result<HostPattern, Invalid> {
    match text.strip_prefix("*.") {
        Some(parent) => Ok(HostPattern::Wildcard(host_name(parent)?)),
        None => Ok(HostPattern::Exact(host_name(text)?)),
    }
}

/// Reads a host name or an address literal, without a port. Lower case and without a trailing dot afterwards.
///
/// # Errors
/// When it is not one.
pub fn host_name(text: &str) -> Result<String, Invalid> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    if literal.is_some_and(|literal| literal.parse::<std::net::Ipv6Addr>().is_ok()) {
        return Ok(name);
    }
    if !name.is_ascii() {
        return Err(Invalid::new("not ASCII").help("write the name in its `xn--` form"));
    }
    if name.contains("://") {
        return Err(Invalid::new("a URL, not a host name").help("leave out the scheme"));
    }
    if let Some((host, port)) = name.split_once(':')
        && port.parse::<u16>().is_ok()
    {
        let help = format!("routes do not look at the port: write \"{host}\"");
        return Err(Invalid::new("it has a port").help(help));
    }
    if name.contains('*') {
        return Err(Invalid::new("the star is in the wrong place")
            .help("a star stands only for whole labels in front: \"*.example.com\""));
    }
    let label_is_fine = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() > 253 || !name.split('.').all(label_is_fine) {
        return Err(Invalid::new("not a host name"));
    }
    Ok(name)
}

/// Reads a header name (RFC 9110 §5.1).
///
/// # Errors
/// When it is not a token.
pub fn header_name(text: &str) -> Result<HeaderName, Invalid> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| Invalid::new("not a header name"))
}

/// Reads a claim name: any text without control characters.
///
/// # Errors
/// When it is empty, has control characters or more than 256 bytes.
pub fn claim_name(text: &str) -> Result<String, Invalid> {
    if text.is_empty() {
        return Err(Invalid::new("empty"));
    }
    if text.len() > 256 || text.chars().any(char::is_control) {
        return Err(Invalid::new("not a claim name"));
    }
    Ok(text.to_owned())
}

/// Reads an absolute `http` or `https` URL that this process will connect to or compare with, without
/// its trailing slashes.
///
/// # Errors
/// When it is something else, has credentials, a query or a fragment, or is plaintext to another
/// machine: keys and passwords would cross the network unprotected.
pub fn web_url(text: &str) -> Result<String, Invalid> {
    let example = "write for instance \"https://cognito-idp.eu-west-1.amazonaws.com\"";
    let uri: Uri = text.parse().map_err(|_| Invalid::new("not a URL").help(example))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(Invalid::new("not an absolute URL").help(example));
    };
    if authority.as_str().contains('@') {
        return Err(Invalid::new("it has a user name"));
    }
    if uri.query().is_some() || text.contains('#') {
        return Err(Invalid::new("it has a query or a fragment"));
    }
    match scheme {
        "https" => {}
        "http" if is_loopback(authority.host()) => {}
        "http" => {
            return Err(Invalid::new("plaintext to another machine")
                .help("use https://: whoever sits in between could replace the keys"));
        }
        _ => return Err(Invalid::new("neither http:// nor https://").help(example)),
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// Reads an origin as browsers write it (RFC 6454 §6.2): `https://app.example.com`, or with a port that
/// is not the scheme's own.
///
/// # Errors
/// When no browser would send it so, or when it stands for more than one origin.
pub fn origin(text: &str) -> Result<HeaderValue, Invalid> {
    let example = "write for instance \"https://app.example.com\"";
    if text.contains('*') || text == "null" {
        return Err(Invalid::new("not one origin").help("name each origin whose pages may use this"));
    }
    let Some((scheme, authority)) = text.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"))
    else {
        return Err(Invalid::new("it does not start with https:// or http://").help(example));
    };
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(Invalid::new("not in lower case").help(format!("write \"{}\"", text.to_ascii_lowercase())));
    }
    if let Some((host, _)) = authority.split_once('/') {
        return Err(Invalid::new("it has a path").help(format!("write \"{scheme}://{host}\"")));
    }
    let default = if scheme == "https" { ":443" } else { ":80" };
    if let Some(host) = authority.strip_suffix(default) {
        return Err(Invalid::new("browsers leave this port out").help(format!("write \"{scheme}://{host}\"")));
    }
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => authority,
    };
    host_name(name)?;
    HeaderValue::from_str(text).map_err(|_invalid| Invalid::new("not an origin").help(example))
}

/// Whether a URL's host is this machine.
fn is_loopback(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    literal
        .parse::<IpAddr>()
        .map_or(host == "localhost" || host.ends_with(".localhost"), |address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_that_are_not_quite_right_are_refused() {
        for text in [
            "",
            "s",
            "30",
            "1.5s",
            "-1s",
            "1 s",
            "1s1m",
            "1s1s",
            "1S",
            "1w",
            "367d",
            "99999999999999999999s",
            "1m30",
            "0x1s",
            "é",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["", "B", "32", "1.5KiB", "-1B", "1 KiB", "1kib", "99999999999GiB", "99999999999999999999B"] {
            assert!(size(text).is_err(), "{text}");
        }
        for text in ["", "10", "/5m", "10/", "0/5m", "10/0", "10/5", "1/1m/1", "99999999999/1s"] {
            assert!(rate(text).is_err(), "{text}");
        }
        for text in ["", "*", "*.", "a*", "*.*.a", ".", "a..b", "a b", "a:b", "[::1", "[1.2.3.4]", &"a".repeat(64)] {
            assert!(host_pattern(text).is_err(), "{text}");
        }
        for text in [
            "",
            "//a",
            "a",
            "https:",
            "https://",
            "https://u@a",
            "http://127.0.0.1.evil.test",
            "http://localhost.evil.test",
            "https://a#b",
        ] {
            assert!(web_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn texts_mean_what_they_say() {
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(rate("10/5m"), Ok((10, Duration::from_secs(300))));
        assert_eq!(network("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert_eq!(host_pattern("*.Example.COM."), Ok(HostPattern::Wildcard("example.com".to_owned())));
        assert_eq!(host_pattern("[::1]"), Ok(HostPattern::Exact("[::1]".to_owned())));
        assert_eq!(web_url("http://[::1]:9229/").as_deref(), Ok("http://[::1]:9229"));
        assert_eq!(web_url("http://localhost:9229/x").as_deref(), Ok("http://localhost:9229/x"));
    }

    proptest! {
        #[test]
        fn durations_are_read_as_they_are_written(days in 0_u64..300, hours in 0_u64..48, seconds in 0_u64..9999, millis in 1_u64..9999) {
            let text = format!("{days}d{hours}h{seconds}s{millis}ms");
            let expected = ((days * 24 + hours) * 3600 + seconds) * 1000 + millis;
            prop_assert_eq!(duration(&text), Ok(Duration::from_millis(expected)));
        }

        #[test]
        fn sizes_are_read_as_they_are_written(number in 0_u64..1 << 30, unit in 0_usize..7) {
            let (name, factor) = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("KB", 1000), ("MB", 1_000_000), ("GB", 1_000_000_000)][unit];
            prop_assert_eq!(size(&format!("{number}{name}")), Ok(number * factor));
        }

        #[test]
        fn rates_are_read_as_they_are_written(count in 1_u32.., seconds in 1_u64..100_000) {
            prop_assert_eq!(rate(&format!("{count}/{seconds}s")), Ok((count, Duration::from_secs(seconds))));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in r"(\PC|[0-9smhKiB/.:*%\[\]-]){0,20}") {
            let _results = (duration(&text), size(&text), rate(&text), address(&text), network(&text), method(&text));
            let _results = (host_pattern(&text), header_name(&text), claim_name(&text), web_url(&text), origin(&text));
        }
    }
}
