//! `[pool.NAME]`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::config::diagnostic::Diagnostic;
use crate::config::file::{EMBEDDED, KEYS, POOL, USER};
use crate::config::section::{Section, one_of};
use crate::config::validate::Bound;
use crate::config::values::{self, Invalid};
use crate::config::{Embedded, Flow, JWKS_PATH, Keys, Pool, PoolId, SeedUser, TokenUse};
use crate::secret::Secret;

/// More would accept tokens long after they expired.
const MOST_LEEWAY: Duration = Duration::from_secs(300);

/// The words of `token_use`.
pub(super) const TOKEN_USES: &[(&str, TokenUse)] = &[("access", TokenUse::Access), ("id", TokenUse::Id)];

/// Every pool, sorted by name; also those with mistakes, so that routes may name them.
pub(super) fn all(root: &Section<'_>, bound: &mut Vec<Bound>) -> Vec<Pool> {
    let sections = root.named("pool", &POOL);
    let pools: Vec<Pool> = sections.iter().map(|(name, section)| one(name, section, bound)).collect();
    for (index, (pool, (_, section))) in pools.iter().zip(&sections).enumerate() {
        // Port 0 stands for an address that nobody has yet.
        let is_shared = |issuer: &String| pool.issuers.contains(issuer) && !issuer.contains(":0/");
        let earlier = pools.iter().zip(&sections).take(index).find(|(other, _)| other.issuers.iter().any(is_shared));
        if let Some((other, (_, place))) = earlier {
            let title = format!("the pools `{}` and `{}` accept the same issuer", other.name, pool.name);
            let twice = Diagnostic::error(title).at(section.place_of("id"), "which pool is a token from?");
            root.reader.note(twice.at(place.place_of("id"), "this one, or the other?"));
        }
    }
    pools
}

fn one(name: &str, section: &Section<'_>, bound: &mut Vec<Bound>) -> Pool {
    section.require("id", "\"eu-west-1_AbC123xyz\"");
    section.require("client_id", "\"4hrtnexample\"");
    let id = section.parsed("id", "a user pool id", pool_id);
    let client_id =
        section.parsed("client_id", "an app client id", client_id).map_or_else(String::new, Spanned::into_inner);
    let mut clients = vec![client_id.clone()];
    for client in section.list("clients", "an app client id", self::client_id).unwrap_or_default() {
        if !clients.contains(client.get_ref()) {
            clients.push(client.into_inner());
        }
    }
    let embedded = embedded(name, section, bound);
    let written_id = id.unwrap_or_else(|| {
        // A mistake was noted: nobody sees this value.
        Spanned::new(section.place.clone(), PoolId { region: String::new(), suffix: String::new() })
    });
    let (endpoint, issuers, jwks) = addresses(section, &written_id, embedded.as_ref().map(|pool| pool.address));
    Pool {
        name: Arc::from(name),
        id: written_id.into_inner(),
        client_id,
        client_secret: section.secret("client_secret", true),
        flow: section.choice("flow", Flow::Srp, &[("srp", Flow::Srp), ("password", Flow::Password)]),
        clients,
        token_use: token_use(section).unwrap_or_else(|| vec![TokenUse::Access]),
        leeway: leeway(section),
        endpoint,
        issuers,
        jwks,
        keys: keys(&section.child("keys", &KEYS)),
        embedded,
    }
}

/// Reads `<region>_<suffix>` (`UserPoolId` in the Cognito API reference). Whether the region is one is another question.
fn pool_id(text: &str) -> Result<PoolId, Invalid> {
    let example = "a pool id looks like \"eu-west-1_AbC123xyz\"";
    let (region, suffix) =
        text.rsplit_once('_').ok_or_else(|| Invalid::new("the underscore is missing").help(example))?;
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if region.is_empty() || !region.bytes().all(word) {
        return Err(Invalid::new("the region in front of the underscore is not one").help(example));
    }
    if suffix.is_empty() || !suffix.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Invalid::new("behind the underscore belong letters and digits").help(example));
    }
    if text.len() > 55 {
        return Err(Invalid::new("longer than 55 characters").help(example));
    }
    Ok(PoolId { region: region.to_owned(), suffix: suffix.to_owned() })
}

/// Reads an app client id (ClientIdType of the API: `[\w+]+`, at most 128).
pub(super) fn client_id(text: &str) -> Result<String, Invalid> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'+';
    if text.is_empty() || text.len() > 128 || !text.bytes().all(fits) {
        return Err(Invalid::new("1 to 128 letters and digits"));
    }
    Ok(text.to_owned())
}

/// `token_use`, in a pool or in a rule; `None` when it does not stand there.
pub(super) fn token_use(section: &Section<'_>) -> Option<Vec<TokenUse>> {
    section.refuse_empty("token_use", "no token would be accepted");
    let uses = section.list("token_use", "a kind of token", |text| one_of(text, TOKEN_USES))?;
    Some(uses.into_iter().map(Spanned::into_inner).collect())
}

fn leeway(section: &Section<'_>) -> Duration {
    let leeway = section.duration("leeway", Duration::from_secs(10));
    if leeway > MOST_LEEWAY {
        let long = Diagnostic::error("`leeway` is too long").at(section.place_of("leeway"), "at most \"5m\"");
        section.reader.note(long.help("tokens are accepted for that long after they expired"));
    }
    leeway
}

/// Endpoint, issuers and key set: what the file says, or what follows from the id.
fn addresses(
    section: &Section<'_>,
    id: &Spanned<PoolId>,
    embedded: Option<SocketAddr>,
) -> (String, Vec<String>, String) {
    for key in ["endpoint", "issuer", "jwks"] {
        if section.value("embedded").is_some()
            && let Some(value) = section.value(key)
        {
            let both = Diagnostic::error(format!("`{key}` of an embedded pool follows from its address"));
            let both = both.at(value.span(), "not the embedded pool's").at(section.place_of("embedded"), "embedded");
            section.reader.note(both.help(format!("leave out `{key}`, or leave out [pool.NAME.embedded]")));
        }
    }
    let (span, id) = (id.span(), id.get_ref());
    let written = section.parsed("endpoint", "an https:// URL", values::web_url).map(Spanned::into_inner);
    let local = embedded.map(|address| format!("http://{address}"));
    let own = local.or(written);
    let region_matters = embedded.is_some() || section.value("endpoint").is_none();
    if region_matters && !id.region.is_empty() && !is_region(&id.region) {
        let bad = Diagnostic::error(format!("`{}` is not an AWS region", id.region));
        let help = "the address of a pool follows from its region; an emulator's pool needs `endpoint`";
        section.reader.note(bad.at(span, "the part in front of the underscore").help(help));
    }
    let suffix = match id.region.split('-').next() {
        Some("cn") => "amazonaws.com.cn",
        Some("eusc") => "amazonaws.eu",
        _ => "amazonaws.com",
    };
    let derived = match &own {
        // A mistake was noted, and what follows from the id would only repeat it.
        _ if id.region.is_empty() => Vec::new(),
        Some(own) => vec![format!("{own}/{id}")],
        None => {
            ["cognito-idp", "issuer-cognito-idp"].map(|api| format!("https://{api}.{}.{suffix}/{id}", id.region)).into()
        }
    };
    section.refuse_empty("issuer", "no token would be accepted");
    // What is compared with `iss` stays exactly as it was written.
    let issuer = |text: &str| values::web_url(text).map(|_| text.to_owned());
    let issuers = match section.value("issuer").map(Spanned::get_ref) {
        Some(DeValue::String(_)) => section.parsed("issuer", "an https:// URL", issuer).map(|one| vec![one]),
        _ => section.list("issuer", "an https:// URL", issuer),
    };
    let issuers = issuers.map(|list| list.into_iter().map(Spanned::into_inner).collect()).unwrap_or(derived);
    let jwks = section.parsed("jwks", "an https:// URL", values::web_url).map(Spanned::into_inner);
    let jwks = jwks.unwrap_or_else(|| {
        issuers.first().map(|issuer| format!("{}{JWKS_PATH}", issuer.trim_end_matches('/'))).unwrap_or_default()
    });
    (own.unwrap_or_else(|| format!("https://cognito-idp.{}.{suffix}", id.region)), issuers, jwks)
}

/// Whether a text has the shape of a region: `us-gov-west-1`.
fn is_region(text: &str) -> bool {
    let Some((words, number)) = text.rsplit_once('-') else { return false };
    let mut words = words.split('-');
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
    words.clone().count() >= 2 && words.all(is_word) && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
}

/// `[pool.NAME.keys]`.
fn keys(section: &Section<'_>) -> Keys {
    let keys = Keys {
        refresh: section.positive_duration("refresh", Duration::from_secs(600)),
        stale: section.positive_duration("stale", Duration::from_secs(86_400)),
        cooldown: section.positive_duration("cooldown", Duration::from_secs(10)),
        cache: section.path("cache"),
    };
    if keys.stale < keys.refresh {
        let short = Diagnostic::error("keys would expire before they are fetched again");
        let short = short.at(section.place_of("stale"), "`stale` is shorter");
        section
            .reader
            .note(short.at(section.place_of("refresh"), "than `refresh`").help("`stale` is at least `refresh`"));
    }
    keys
}

/// `[pool.NAME.embedded]`.
fn embedded(pool: &str, parent: &Section<'_>, bound: &mut Vec<Bound>) -> Option<Embedded> {
    let section = parent.child("embedded", &EMBEDDED);
    if !section.is_present() {
        return None;
    }
    if cfg!(not(feature = "devpool")) {
        let absent = Diagnostic::error("this build has no embedded user pool");
        section.reader.note(absent.at(section.place.clone(), "needs the feature `devpool`"));
    }
    let address = |text: &str| {
        let address = values::address(text)?;
        if !address.ip().is_loopback() {
            return Err(Invalid::new("not a loopback address").help("it is for development: use 127.0.0.1"));
        }
        Ok(address)
    };
    let address = section.parsed("address", "a loopback address", address);
    let span = section.place_of("address");
    let address = address.map_or(SocketAddr::from(([127, 0, 0, 1], 9229)), Spanned::into_inner);
    bound.push(Bound { address: address.into(), span, what: format!("the embedded pool `{pool}`") });
    Some(Embedded { address, data: section.path("data"), users: users(&section) })
}

/// The users that exist from the start.
fn users(section: &Section<'_>) -> Vec<SeedUser> {
    let mut users: Vec<SeedUser> = Vec::new();
    for user in section.children("users", &USER) {
        user.require("username", "\"demo\"");
        user.require("password", "\"Portcullis-1\"");
        let username = user.text("username");
        let known = username.as_ref().and_then(|name| users.iter().find(|user| user.username == **name.get_ref()));
        match (&username, known) {
            (Some(name), Some(_)) => {
                let twice = Diagnostic::error(format!("the user `{}` is there twice", name.get_ref()));
                user.reader.note(twice.at(name.span(), "the second one"));
            }
            (Some(name), None) if name.get_ref().is_empty() => {
                user.reader.note(Diagnostic::error("`username` is empty").at(name.span(), "no characters"));
            }
            _ => {}
        }
        // A password for development may stand in the file: no warning.
        let password = user.secret("password", false).unwrap_or_else(|| Secret::from(String::new()));
        let is_email = |text: &str| match text.split_once('@') {
            Some((name, host)) if !name.is_empty() && !host.is_empty() && !host.contains('@') => Ok(text.to_owned()),
            _ => Err(Invalid::new("no @ between a name and a host")),
        };
        users.push(SeedUser {
            username: username.map_or_else(String::new, |name| (*name.get_ref()).to_owned()),
            password,
            email: user.parsed("email", "an e-mail address", is_email).map(Spanned::into_inner),
            groups: user
                .list("groups", "a group", values::claim_name)
                .map(|groups| groups.into_iter().map(Spanned::into_inner).collect())
                .unwrap_or_default(),
        });
    }
    users
}
