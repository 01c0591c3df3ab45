//! Who calls, and in which session: asked of every call before anything else happens.

use std::sync::Arc;
use std::time::Duration;

use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};
use townlake_common::{Error, ErrorCode, Principal, Result};
use townlake_governance::Authenticator;

use super::credentials::{Credentials, SESSION_COOKIE, session_cookie};
use super::tokens::Tokens;
use crate::session::{Session, SessionStore};

/// An authenticated call.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The session that the call acts in, with its principal.
    pub session: Arc<Session>,
    /// The session's cookie if the call came with one, and whether it said that the session is kept.
    cookie: Cookie,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cookie {
    /// The session has a token: no cookie is needed.
    NotNeeded,
    /// The call carried none.
    Absent,
    Offered,
    Kept,
}

/// Checks credentials and finds sessions.
pub struct Admission {
    authenticator: Arc<Authenticator>,
    sessions: SessionStore,
    tokens: Tokens,
}

impl Admission {
    /// Admission by `authenticator` into `sessions`.
    pub fn new(authenticator: Arc<Authenticator>, sessions: SessionStore, tokens: Tokens) -> Self {
        Self { authenticator, sessions, tokens }
    }

    /// The caller behind the headers of a call.
    ///
    /// Errors: `UNAUTHENTICATED`; `SESSION_NOT_FOUND` for a session that is gone.
    pub async fn admit(&self, headers: &MetadataMap) -> Result<Caller> {
        let credentials = Credentials::from_headers(headers)?;
        if let Credentials::Bearer(token) = &credentials
            && let Some((id, principal)) = self.tokens.check_session_token(token.expose())?
        {
            let session = self.sessions.find(&id, &principal)?;
            return Ok(Caller { session, cookie: Cookie::NotNeeded });
        }
        let principal = self.authenticate(credentials).await?;
        self.session_of_cookie(session_cookie(headers), principal)
    }

    /// Opens a session for whoever the credentials are: what Handshake does. Gives the session and its token.
    ///
    /// Errors: as [`Admission::admit`].
    pub async fn open_session(&self, credentials: Credentials) -> Result<(Arc<Session>, String)> {
        let principal = match &credentials {
            // A client that shakes hands again is given a session of its own, not its old one.
            Credentials::Bearer(token) => match self.tokens.check_session_token(token.expose())? {
                Some((id, principal)) => self.sessions.find(&id, &principal)?.principal.clone(),
                None => self.authenticate(credentials).await?,
            },
            _ => self.authenticate(credentials).await?,
        };
        let session = self.sessions.open(principal);
        let token = self.tokens.session_token(&session);
        Ok((session, token))
    }

    async fn authenticate(&self, credentials: Credentials) -> Result<Principal> {
        match credentials {
            Credentials::Basic { user, password } => self.authenticator.password(&user, password.expose()).await,
            Credentials::Bearer(token) => self.authenticator.bearer(token.expose()),
            Credentials::None => self.authenticator.anonymous().ok_or_else(|| {
                Error::new(ErrorCode::Unauthenticated, "this server asks for credentials and the call has none")
                    .with_hint("give a user and password, or a token")
            }),
        }
    }

    fn session_of_cookie(&self, cookie: Option<&str>, principal: Principal) -> Result<Caller> {
        let Some(cookie) = cookie else {
            return Ok(Caller { session: self.sessions.ephemeral(principal), cookie: Cookie::Absent });
        };
        let named = self.tokens.check_cookie(cookie, &principal)?;
        if named.kept {
            let session = self.sessions.find(&named.id, &principal.name)?;
            return Ok(Caller { session, cookie: Cookie::Kept });
        }
        let session = self.sessions.find_or_resume(&named.id, &principal)?;
        Ok(Caller { session, cookie: Cookie::Offered })
    }

    /// Puts the session's cookie into the answer to a call, where the client does not have it as it is now.
    pub fn put_cookie(&self, caller: &Caller, answer: &mut MetadataMap) {
        let wanted = match caller.cookie {
            Cookie::NotNeeded | Cookie::Kept => false,
            Cookie::Absent => true,
            Cookie::Offered => caller.session.is_kept(),
        };
        if wanted {
            put_set_cookie(answer, &self.tokens.cookie(&caller.session), self.sessions.ttl());
        }
    }
}

/// The status of a refused call. A session that is gone takes its cookie with it, so that the client's next call starts anew.
pub fn refusal(error: Error) -> Status {
    let gone = error.code() == ErrorCode::SessionNotFound;
    let mut status = Status::from(error);
    if gone {
        put_set_cookie(status.metadata_mut(), "", Duration::ZERO);
    }
    status
}

/// Takes the session's cookie away from the client: it closed the session.
pub fn clear_cookie(answer: &mut MetadataMap) {
    put_set_cookie(answer, "", Duration::ZERO);
}

fn put_set_cookie(answer: &mut MetadataMap, value: &str, max_age: Duration) {
    let text = format!("{SESSION_COOKIE}={value}; Path=/; HttpOnly; Max-Age={}", max_age.as_secs());
    if let Ok(value) = MetadataValue::try_from(text) {
        answer.insert("set-cookie", value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionLimits;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use townlake_common::Secret;
    use townlake_common::config::{AuthConfig, TokenConfig, UserConfig};
    use townlake_governance::{Signer, hash_password, hash_token};

    fn user(name: &str, password: &str) -> UserConfig {
        let password_hash = Secret::new(hash_password(password).unwrap());
        UserConfig { name: name.to_string(), password_hash, groups: vec![] }
    }

    fn admission(anonymous: bool) -> Admission {
        let config = AuthConfig {
            anonymous,
            users: vec![user("ann", "right"), user("bob", "other")],
            tokens: vec![TokenConfig {
                name: "ci".to_string(),
                token_hash: Secret::new(hash_token("ci token")),
                groups: vec![],
            }],
            ..AuthConfig::default()
        };
        let sessions = SessionStore::new(SessionLimits::with_ttl(Duration::from_secs(60)));
        let tokens = Tokens::new(Arc::new(Signer::new(None).unwrap()));
        Admission::new(Arc::new(Authenticator::new(&config).unwrap()), sessions, tokens)
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    fn headers(authorization: &str, cookie: Option<&str>) -> MetadataMap {
        let mut headers = MetadataMap::new();
        if !authorization.is_empty() {
            headers.insert("authorization", authorization.parse().unwrap());
        }
        if let Some(cookie) = cookie {
            headers.insert("cookie", format!("{SESSION_COOKIE}={cookie}").parse().unwrap());
        }
        headers
    }

    async fn code(admission: &Admission, headers: &MetadataMap) -> Option<ErrorCode> {
        admission.admit(headers).await.err().map(|error| error.code())
    }

    /// The cookie that an answer gives the client.
    fn given_cookie(admission: &Admission, caller: &Caller) -> Option<String> {
        let mut answer = MetadataMap::new();
        admission.put_cookie(caller, &mut answer);
        let text = answer.get("set-cookie")?.to_str().unwrap().to_string();
        Some(text.split_once('=').unwrap().1.split_once(';').unwrap().0.to_string())
    }

    #[tokio::test]
    async fn every_way_in_and_no_other() {
        let admission = admission(false);
        for (authorization, name) in [(basic("ann:right"), "ann"), ("Bearer ci token".to_string(), "ci")] {
            let caller = admission.admit(&headers(&authorization, None)).await.unwrap();
            assert_eq!(caller.session.principal.name, name);
        }
        for wrong in ["", "Bearer nonsense", &basic("ann:wrong"), &basic("nobody:right"), &basic("ann:other")] {
            assert_eq!(code(&admission, &headers(wrong, None)).await, Some(ErrorCode::Unauthenticated), "{wrong}");
        }
        let forged = "Bearer townlake-session.AAAA";
        assert_eq!(code(&admission, &headers(forged, None)).await, Some(ErrorCode::SessionNotFound));
    }

    #[tokio::test]
    async fn a_token_finds_its_session_until_it_is_closed() {
        let admission = admission(true);
        let credentials = Credentials::from_headers(&headers(&basic("ann:right"), None)).unwrap();
        let (session, token) = admission.open_session(credentials).await.unwrap();
        session.use_catalog(Some("lake".into()), None);
        let with_token = headers(&format!("Bearer {token}"), None);
        let caller = admission.admit(&with_token).await.unwrap();
        assert_eq!(caller.session.current().0.as_deref(), Some("lake"));
        assert_eq!(given_cookie(&admission, &caller), None);
        admission.sessions.close(&session);
        assert_eq!(code(&admission, &with_token).await, Some(ErrorCode::SessionNotFound));
    }

    #[tokio::test]
    async fn a_cookie_finds_its_session_and_tells_when_it_is_gone() {
        let admission = admission(true);
        let ann = basic("ann:right");
        let first = admission.admit(&headers(&ann, None)).await.unwrap();
        let offered = given_cookie(&admission, &first).unwrap();
        // The session has nothing to remember, so it is made again under its id, and then changes.
        let second = admission.admit(&headers(&ann, Some(&offered))).await.unwrap();
        assert_eq!(second.session.id, first.session.id);
        assert_eq!(given_cookie(&admission, &second), None);
        second.session.use_catalog(Some("lake".into()), None);
        let kept = given_cookie(&admission, &second).unwrap();
        for cookie in [&offered, &kept] {
            let again = admission.admit(&headers(&ann, Some(cookie))).await.unwrap();
            assert_eq!(again.session.current().0.as_deref(), Some("lake"));
        }
        for (authorization, cookie) in
            [(basic("bob:other"), &kept), (basic("bob:other"), &offered), (String::new(), &kept)]
        {
            let refused = code(&admission, &headers(&authorization, Some(cookie))).await;
            assert_eq!(refused, Some(ErrorCode::SessionNotFound));
        }
        admission.sessions.close(&second.session);
        let error = admission.admit(&headers(&ann, Some(&kept))).await.unwrap_err();
        let status = refusal(error);
        assert!(status.metadata().get("set-cookie").unwrap().to_str().unwrap().contains("Max-Age=0"));
    }

    #[tokio::test]
    async fn anonymous_only_where_the_configuration_says_so() {
        assert_eq!(code(&admission(false), &headers("", None)).await, Some(ErrorCode::Unauthenticated));
        let caller = admission(true).admit(&headers("", None)).await.unwrap();
        assert_eq!(caller.session.principal, Principal::anonymous());
    }
}
