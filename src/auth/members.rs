//! Bodies of the identity routes: JSON or a form, read in one way only.
//!
//! Types that a browser sends across origins without asking (`text/plain`, none at all) are refused,
//! and so is whatever a route does not know: a misspelled member must not be ignored.

use std::collections::BTreeMap;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use serde_json::{Map, Value};

use crate::http::{BodyError, single};
use crate::json::{JsonError, strict_parse};
use crate::problem::{Code, Problem};
use crate::secret::Secret;

/// The largest body, in bytes.
const LIMIT: usize = 16 * 1024;
/// Objects and arrays inside each other: a passkey's credential has the most.
const DEPTH: usize = 8;
/// How much of a name that a stranger chose is repeated to them.
const SHOWN: usize = 64;

/// The members of a body; whoever takes the last one calls [`Members::finish`].
pub(super) struct Members {
    values: Map<String, Value>,
    is_form: bool,
}

impl Members {
    /// Reads a body. One without bytes has no members where the route says so.
    pub(super) async fn read<B>(headers: &HeaderMap, body: B, may_be_empty: bool) -> Result<Self, Problem>
    where
        B: HttpBody<Data = Bytes, Error = BodyError>,
    {
        if may_be_empty && body.is_end_stream() {
            return Ok(Self { values: Map::new(), is_form: false });
        }
        let media_type = media_type(headers)?;
        if media_type == MediaType::Absent && !may_be_empty {
            return Err(Code::MediaTypeUnsupported.into());
        }
        // An early look at the announced length; the bytes are counted as they come in any case.
        if body.size_hint().lower() > LIMIT as u64 {
            return Err(too_large());
        }
        let bytes = collect(body).await?;
        if may_be_empty && bytes.is_empty() {
            return Ok(Self { values: Map::new(), is_form: false });
        }
        match media_type {
            MediaType::Json => Self::from_json(&bytes),
            MediaType::Form => Self::from_form(&bytes),
            MediaType::Absent => Err(Code::MediaTypeUnsupported.into()),
        }
    }

    fn from_json(bytes: &[u8]) -> Result<Self, Problem> {
        match strict_parse(bytes, DEPTH) {
            Ok(Value::Object(values)) => Ok(Self { values, is_form: false }),
            Ok(_) => Err(invalid("the body is not a JSON object")),
            Err(error @ (JsonError::Syntax | JsonError::Duplicate | JsonError::TooDeep)) => {
                Err(invalid(error.to_string()))
            }
        }
    }

    fn from_form(bytes: &[u8]) -> Result<Self, Problem> {
        let mut values = Map::new();
        for (name, value) in form_urlencoded::parse(bytes) {
            // Bytes that are not UTF-8 come out as this: a password would be another one.
            if name.contains('\u{fffd}') || value.contains('\u{fffd}') {
                return Err(invalid("the form is not UTF-8"));
            }
            if values.insert(name.clone().into_owned(), Value::String(value.into_owned())).is_some() {
                return Err(invalid(format!("`{}` is there twice", shown(&name))));
            }
        }
        Ok(Self { values, is_form: true })
    }

    /// A text that must be there and not be empty.
    pub(super) fn text(&mut self, name: &'static str) -> Result<String, Problem> {
        self.optional_text(name)?.ok_or_else(|| invalid(format!("`{name}` is missing")))
    }

    /// A text that may be absent or `null`, but not empty.
    pub(super) fn optional_text(&mut self, name: &'static str) -> Result<Option<String>, Problem> {
        match self.values.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Err(invalid(format!("`{name}` is empty"))),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(invalid(format!("`{name}` is not a text"))),
        }
    }

    /// The same for what must never be shown.
    pub(super) fn secret(&mut self, name: &'static str) -> Result<Secret<String>, Problem> {
        self.text(name).map(Secret::from)
    }

    /// The same for what must never be shown.
    pub(super) fn optional_secret(&mut self, name: &'static str) -> Result<Option<Secret<String>>, Problem> {
        Ok(self.optional_text(name)?.map(Secret::from))
    }

    /// `username`, or `name`, which means the same.
    pub(super) fn username(&mut self) -> Result<String, Problem> {
        match (self.optional_text("username")?, self.optional_text("name")?) {
            (Some(name), None) | (None, Some(name)) => Ok(name),
            (Some(_), Some(_)) => Err(invalid("`username` and `name` are the same member")),
            (None, None) => Err(invalid("`username` is missing")),
        }
    }

    /// A truth value; absent is false. A form says `true` or `false`.
    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool, Problem> {
        match self.values.remove(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(Value::String(text)) if self.is_form && text == "true" => Ok(true),
            Some(Value::String(text)) if self.is_form && text == "false" => Ok(false),
            Some(_) => Err(invalid(format!("`{name}` is neither true nor false"))),
        }
    }

    /// An object of texts; absent is empty. Forms cannot have one.
    pub(super) fn texts(&mut self, name: &'static str) -> Result<BTreeMap<String, String>, Problem> {
        let values = match self.values.remove(name) {
            None | Some(Value::Null) => return Ok(BTreeMap::new()),
            Some(Value::Object(values)) => values,
            Some(_) => return Err(invalid(format!("`{name}` is not an object"))),
        };
        let text = |(key, value): (String, Value)| match value {
            Value::String(value) => Ok((key, value)),
            _ => Err(invalid(format!("`{name}.{}` is not a text", shown(&key)))),
        };
        values.into_iter().map(text).collect()
    }

    /// A value of any type, whose presence is all that matters; `null` is absent.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Value> {
        self.values.remove(name).filter(|value| !value.is_null())
    }

    /// Refuses what nobody took.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.values.keys().next() {
            None => Ok(()),
            Some(name) => Err(invalid(format!("`{}` is not a member of this body", shown(name)))),
        }
    }
}

/// A body that is not what the route takes; the detail never repeats a value.
pub(super) fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(Code::BodyInvalid, detail)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum MediaType {
    Json,
    Form,
    Absent,
}

fn media_type(headers: &HeaderMap) -> Result<MediaType, Problem> {
    let ambiguous = |error: crate::http::Ambiguous| Problem::new(Code::HeaderAmbiguous, error.to_string());
    let content_type = single(headers, &header::CONTENT_TYPE).map_err(ambiguous)?;
    let essence = content_type.and_then(|value| value.to_str().ok()).and_then(|value| value.split(';').next());
    let is_encoded = headers.contains_key(header::CONTENT_ENCODING);
    match essence.unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" if !is_encoded => Ok(MediaType::Json),
        "application/x-www-form-urlencoded" if !is_encoded => Ok(MediaType::Form),
        "" if content_type.is_none() => Ok(MediaType::Absent),
        _ => Err(Code::MediaTypeUnsupported.into()),
    }
}

async fn collect<B>(body: B) -> Result<Bytes, Problem>
where
    B: HttpBody<Data = Bytes, Error = BodyError>,
{
    let mut body = pin!(body);
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if bytes.len() + data.len() > LIMIT {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// The rest of the body stays unread, so that the connection is of no further use.
fn too_large() -> Problem {
    Problem { close: true, ..Problem::new(Code::BodyTooLarge, format!("more than {LIMIT} bytes")) }
}

fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http_body_util::Full;

    use super::*;
    use crate::token::testing::now_or_never;

    fn read_as(content_type: Option<&'static str>, body: &str, may_be_empty: bool) -> Result<Members, Problem> {
        let mut headers = HeaderMap::new();
        if let Some(value) = content_type {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
        }
        let body = Full::new(Bytes::copy_from_slice(body.as_bytes())).map_err(BodyError::from);
        now_or_never(Members::read(&headers, body, may_be_empty))
    }

    fn json(body: &str) -> Result<Members, Problem> {
        read_as(Some("application/json; charset=utf-8"), body, false)
    }

    fn form(body: &str) -> Result<Members, Problem> {
        read_as(Some("Application/X-WWW-Form-Urlencoded"), body, false)
    }

    fn code<T>(outcome: Result<T, Problem>) -> Option<Code> {
        outcome.err().map(|problem| problem.code)
    }

    #[test]
    fn json_and_forms_say_the_same() {
        for members in [json(r#"{"name":"a b","everywhere":true}"#), form("name=a+b&everywhere=true")] {
            let mut members = members.ok().unwrap();
            assert_eq!(
                (members.username().ok().as_deref(), members.flag("everywhere").ok()),
                (Some("a b"), Some(true))
            );
            assert!(members.finish().is_ok());
        }
    }

    #[test]
    fn types_that_browsers_send_without_asking_are_refused() {
        for content_type in [None, Some("text/plain"), Some("multipart/form-data"), Some("application/jsonp"), Some("")]
        {
            assert_eq!(code(read_as(content_type, "{}", false)), Some(Code::MediaTypeUnsupported), "{content_type:?}");
        }
        assert_eq!(code(read_as(None, "{}", true)), Some(Code::MediaTypeUnsupported));
        assert!(read_as(None, "", true).is_ok());
        assert_eq!(code(read_as(None, "", false)), Some(Code::MediaTypeUnsupported));
    }

    #[test]
    fn a_compressed_body_and_two_content_types_are_refused() {
        let mut headers = HeaderMap::new();
        headers.append(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let read = |headers: &HeaderMap| {
            now_or_never(Members::read(headers, Full::new(Bytes::from("{}")).map_err(BodyError::from), false))
        };
        assert_eq!(code(read(&headers)), Some(Code::MediaTypeUnsupported));
        headers.append(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        assert_eq!(code(read(&headers)), Some(Code::HeaderAmbiguous));
    }

    #[test]
    fn what_is_not_exactly_the_body_is_named() {
        let detail = |outcome: Result<Members, Problem>| {
            let mut members = match outcome {
                Ok(members) => members,
                Err(problem) => return problem.detail.into_owned(),
            };
            let problem = members.username().and_then(|_| members.secret("password")).and_then(|_| members.finish());
            problem.unwrap_err().detail.into_owned()
        };
        for (body, expected) in [
            ("[]", "the body is not a JSON object"),
            ("{", "not valid JSON"),
            (r#"{"username":"a","username":"b"}"#, "a member of a JSON object is there twice"),
            (r#"{"username":"a","name":"b"}"#, "`username` and `name` are the same member"),
            (r#"{"username":7}"#, "`username` is not a text"),
            (r#"{"username":""}"#, "`username` is empty"),
            (r#"{"username":"a","password":null}"#, "`password` is missing"),
            (r#"{"username":"a","password":"b","pasword":"c"}"#, "`pasword` is not a member of this body"),
            (r#"{"username":[[[[[[[[1]]]]]]]]}"#, "JSON nested too deeply"),
        ] {
            assert_eq!(detail(json(body)), expected, "{body}");
        }
        assert_eq!(detail(form("username=a&username=b")), "`username` is there twice");
        assert_eq!(detail(form("username=%ff")), "the form is not UTF-8");
    }

    #[test]
    fn details_never_repeat_a_value_and_little_of_a_name() {
        let mut members = json(r#"{"attributes":{"a\nb":["hunter2"]}}"#).ok().unwrap();
        assert_eq!(members.texts("attributes").unwrap_err().detail, "`attributes.ab` is not a text");
        let long = format!(r#"{{"{}":1}}"#, "n".repeat(1000));
        assert!(json(&long).ok().unwrap().finish().unwrap_err().detail.len() < 120);
    }

    #[test]
    fn bodies_are_counted_as_they_come() {
        let fits = format!("{{}}{}", " ".repeat(LIMIT - 2));
        assert!(json(&fits).is_ok());
        assert_eq!(code(json(&(fits.clone() + " "))), Some(Code::BodyTooLarge));
        // Without an announced length.
        let frames = [Bytes::from(fits), Bytes::from_static(b" ")].map(|data| Ok(http_body::Frame::data(data)));
        let mut frames = frames.into_iter();
        let body = http_body_util::combinators::UnsyncBoxBody::new(Chunks(Box::new(move || frames.next())));
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let problem = now_or_never(Members::read(&headers, body, false)).err().unwrap();
        assert_eq!((problem.code, problem.close), (Code::BodyTooLarge, true));
    }

    /// A body without a length.
    struct Chunks(Box<dyn FnMut() -> Option<Result<http_body::Frame<Bytes>, BodyError>> + Send>);

    impl HttpBody for Chunks {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
            std::task::Poll::Ready((self.0)())
        }
    }
}
