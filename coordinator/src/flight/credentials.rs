//! What a call's headers say about who calls, parsed and nothing more. The bytes come from anyone who can reach the port.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use tonic::metadata::MetadataMap;
use townlake_common::{Error, ErrorCode, Result, Secret};

/// The name of the Flight session cookie, as the Arrow clients know it.
pub const SESSION_COOKIE: &str = "arrow_flight_session_id";

/// No honest credential or cookie is longer, in bytes.
const MAX_HEADER: usize = 8 * 1024;

/// Clients pad, or do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What the `authorization` header holds.
#[derive(Debug)]
pub enum Credentials {
    /// No header.
    None,
    /// `Basic base64(user:password)`.
    Basic {
        /// The user's name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// `Bearer token`.
    Bearer(Secret),
}

impl Credentials {
    /// Reads the `authorization` header.
    ///
    /// Errors: `UNAUTHENTICATED` when there are several, or one that cannot be read. The message quotes none of it.
    pub fn from_headers(headers: &MetadataMap) -> Result<Self> {
        let mut values = headers.get_all("authorization").iter();
        let Some(value) = values.next() else { return Ok(Self::None) };
        if values.next().is_some() {
            return Err(refused("there are several authorization headers"));
        }
        let text = value.to_str().map_err(|_| refused("the authorization header is not ASCII text"))?;
        if text.len() > MAX_HEADER {
            return Err(refused("the authorization header is too long"));
        }
        let Some((scheme, rest)) = text.trim().split_once(' ') else {
            return Err(refused("the authorization header has no credentials"));
        };
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("basic") {
            Self::basic(rest)
        } else if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() {
            Ok(Self::Bearer(Secret::new(rest)))
        } else {
            Err(refused("the authorization header is neither Basic nor Bearer"))
        }
    }

    /// A user and password that came in the payload of Handshake, as older Flight clients send them.
    ///
    /// Errors: `UNAUTHENTICATED` for a name that cannot be one.
    pub fn from_user(user: String, password: String) -> Result<Self> {
        if user.is_empty() || user.len() > 256 || user.chars().any(char::is_control) {
            return Err(refused("the user name is empty, too long or not plain text"));
        }
        Ok(Self::Basic { user, password: Secret::new(password) })
    }

    fn basic(encoded: &str) -> Result<Self> {
        let decoded = BASE64.decode(encoded).map_err(|_| refused("the Basic credentials are not base64"))?;
        let decoded = String::from_utf8(decoded).map_err(|_| refused("the Basic credentials are not UTF-8"))?;
        let Some((user, password)) = decoded.split_once(':') else {
            return Err(refused("the Basic credentials have no colon"));
        };
        Self::from_user(user.to_string(), password.to_string())
    }
}

/// The value of the session cookie, if the call carries one of a sensible length.
pub fn session_cookie(headers: &MetadataMap) -> Option<&str> {
    headers
        .get_all("cookie")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .filter(|text| text.len() <= MAX_HEADER)
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.split_once('='))
        .find(|(name, _)| name.trim() == SESSION_COOKIE)
        .map(|(_, value)| value.trim().trim_matches('"'))
        .filter(|value| !value.is_empty())
}

fn refused(message: &str) -> Error {
    Error::new(ErrorCode::Unauthenticated, message).with_hint("give a user and password, or a token")
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;

    fn headers(values: &[&[u8]]) -> MetadataMap {
        let mut map = tonic::codegen::http::HeaderMap::new();
        for value in values {
            map.append("authorization", tonic::codegen::http::HeaderValue::from_bytes(value).unwrap());
        }
        MetadataMap::from_headers(map)
    }

    fn basic(text: &[u8]) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(text)).into_bytes()
    }

    #[test]
    fn reads_what_clients_send() {
        assert!(matches!(Credentials::from_headers(&headers(&[])).unwrap(), Credentials::None));
        let unpadded = basic(b"ann:se:cret").into_iter().filter(|b| *b != b'=').collect::<Vec<_>>();
        for value in [basic(b"ann:se:cret"), unpadded] {
            match Credentials::from_headers(&headers(&[&value])).unwrap() {
                Credentials::Basic { user, password } => {
                    assert_eq!((user.as_str(), password.expose()), ("ann", "se:cret"));
                }
                other => panic!("{other:?}"),
            }
        }
        match Credentials::from_headers(&headers(&[b"bearer  abc.def "])).unwrap() {
            Credentials::Bearer(token) => assert_eq!(token.expose(), "abc.def"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn hostile_headers_are_refused_and_not_quoted() {
        let long = [b"Bearer ".as_slice(), &[b'x'; MAX_HEADER]].concat();
        let hostile: Vec<Vec<u8>> = vec![
            b"".to_vec(),
            b" ".to_vec(),
            b"Basic".to_vec(),
            b"Basic ".to_vec(),
            b"Basic !!!!".to_vec(),
            b"Bearer ".to_vec(),
            b"Digest hunter2".to_vec(),
            b"Basic \xff\xfe".to_vec(),
            basic(b"hunter2"),
            basic(b":hunter2"),
            basic(b"\xc3\x28:hunter2"),
            basic(b"an\nn:hunter2"),
            basic(&[b"a".repeat(300).as_slice(), b":hunter2"].concat()),
            long,
        ];
        for value in hostile {
            let error = Credentials::from_headers(&headers(&[&value])).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Unauthenticated);
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let two = headers(&[&basic(b"ann:a"), &basic(b"bob:b")]);
        assert!(Credentials::from_headers(&two).is_err());
    }

    #[test]
    fn finds_the_cookie_among_others() {
        let mut map = MetadataMap::new();
        assert_eq!(session_cookie(&map), None);
        map.append("cookie", "a=b; ;=; arrow_flight_session_id".parse().unwrap());
        assert_eq!(session_cookie(&map), None);
        map.append("cookie", "x=y; arrow_flight_session_id=\"abc=\" ; z".parse().unwrap());
        assert_eq!(session_cookie(&map), Some("abc="));
    }
}
