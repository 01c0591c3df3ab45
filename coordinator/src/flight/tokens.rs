//! What we sign and hand to clients: session tokens, session cookies, statement handles and result tickets.
//!
//! All are opaque to the client, name their principal, and are worth nothing to another. Only a session token is a proof
//! of identity; a cookie, a handle or a ticket is looked at after the call is authenticated.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Utc;
use townlake_common::{Error, ErrorCode, Principal, QueryId, Result};
use townlake_governance::{Claims, Purpose, Signer};

use crate::session::Session;

/// Tells a session token of ours from the bearer tokens of the configuration.
const SESSION_PREFIX: &str = "townlake-session.";

/// What the subject of a session claim begins with: a cookie must never pass for a token, which proves an identity.
const TOKEN: &str = "token:";
const COOKIE_KEPT: &str = "kept:";
const COOKIE_OFFERED: &str = "offered:";

/// Session tokens and cookies end with their session; this only bounds how long a leaked one could matter.
const SESSION_CLAIM_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// A session that a cookie names.
#[derive(Debug, PartialEq, Eq)]
pub struct CookieSession {
    /// The session's id.
    pub id: String,
    /// Whether the session had something to remember when the cookie was made: then it must still be there.
    pub kept: bool,
}

/// Signs and checks. Clones share the key.
#[derive(Clone)]
pub struct Tokens {
    signer: Arc<Signer>,
}

impl Tokens {
    /// Tokens under the key of `signer`.
    pub fn new(signer: Arc<Signer>) -> Self {
        Self { signer }
    }

    /// The bearer token of a session, as Handshake returns it.
    pub fn session_token(&self, session: &Session) -> String {
        let subject = format!("{TOKEN}{}", session.id);
        let signed = self.sign(Purpose::Session, subject, &session.principal, SESSION_CLAIM_TTL);
        format!("{SESSION_PREFIX}{}", URL_SAFE_NO_PAD.encode(signed))
    }

    /// The session id and the principal's name of a session token; `None` for a bearer token that is not of this form.
    ///
    /// Errors: `SESSION_NOT_FOUND` for one that we did not sign or whose time is over.
    pub fn check_session_token(&self, token: &str) -> Result<Option<(String, String)>> {
        let Some(encoded) = token.strip_prefix(SESSION_PREFIX) else { return Ok(None) };
        let signed = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| no_session())?;
        let claims = self.verify(&signed, Purpose::Session, None).map_err(|_| no_session())?;
        let id = claims.subject.strip_prefix(TOKEN).ok_or_else(no_session)?;
        Ok(Some((id.to_string(), claims.principal.clone())))
    }

    /// The value of the session cookie.
    pub fn cookie(&self, session: &Session) -> String {
        let mark = if session.is_kept() { COOKIE_KEPT } else { COOKIE_OFFERED };
        let signed =
            self.sign(Purpose::Session, format!("{mark}{}", session.id), &session.principal, SESSION_CLAIM_TTL);
        URL_SAFE_NO_PAD.encode(signed)
    }

    /// The session that a cookie of `principal` names.
    ///
    /// Errors: `SESSION_NOT_FOUND` for one that we did not sign, or not for this principal.
    pub fn check_cookie(&self, cookie: &str, principal: &Principal) -> Result<CookieSession> {
        let signed = URL_SAFE_NO_PAD.decode(cookie).map_err(|_| no_session())?;
        let claims = self.verify(&signed, Purpose::Session, Some(principal)).map_err(|_| no_session())?;
        let (id, kept) = match claims.subject.strip_prefix(COOKIE_KEPT) {
            Some(id) => (id, true),
            None => (claims.subject.strip_prefix(COOKIE_OFFERED).ok_or_else(no_session)?, false),
        };
        Ok(CookieSession { id: id.to_string(), kept })
    }

    /// The ticket for the result of one query.
    pub fn result_ticket(&self, id: &QueryId, principal: &Principal, ttl: Duration) -> Vec<u8> {
        self.sign(Purpose::Result, id.to_string(), principal, ttl)
    }

    /// The query whose result a ticket lets `principal` read.
    ///
    /// Errors: `TICKET_INVALID`, `TICKET_EXPIRED`.
    pub fn check_result_ticket(&self, ticket: &[u8], principal: &Principal) -> Result<QueryId> {
        let claims = self.verify(ticket, Purpose::Result, Some(principal))?;
        QueryId::parse(&claims.subject).map_err(|_| Error::new(ErrorCode::TicketInvalid, "the ticket names no query"))
    }

    /// The handle of a prepared statement.
    pub fn statement_handle(&self, id: &str, principal: &Principal, ttl: Duration) -> Vec<u8> {
        self.sign(Purpose::Statement, id.to_string(), principal, ttl)
    }

    /// The id of the prepared statement that a handle of `principal` names.
    ///
    /// Errors: `TICKET_INVALID`, `TICKET_EXPIRED`.
    pub fn check_statement_handle(&self, handle: &[u8], principal: &Principal) -> Result<String> {
        Ok(self.verify(handle, Purpose::Statement, Some(principal))?.subject)
    }

    fn sign(&self, purpose: Purpose, subject: String, principal: &Principal, ttl: Duration) -> Vec<u8> {
        let expires = Utc::now() + ttl.min(SESSION_CLAIM_TTL);
        self.signer.sign(&Claims {
            purpose: purpose.into(),
            subject,
            principal: principal.name.clone(),
            expires_at_ms: expires.timestamp_millis(),
        })
    }

    fn verify(&self, signed: &[u8], purpose: Purpose, principal: Option<&Principal>) -> Result<Claims> {
        self.signer.verify(signed, purpose, principal.map(|p| p.name.as_str()), Utc::now())
    }
}

fn no_session() -> Error {
    Error::new(ErrorCode::SessionNotFound, "this session is unknown, closed or was silent for too long")
        .with_hint("connect again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        Tokens::new(Arc::new(Signer::new(None).unwrap()))
    }

    fn ann() -> Principal {
        Principal::new("ann", vec![])
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_ticket_is_for_its_principal_and_purpose_only() {
        let tokens = tokens();
        let id = QueryId::generate();
        let ticket = tokens.result_ticket(&id, &ann(), HOUR);
        assert_eq!(tokens.check_result_ticket(&ticket, &ann()).unwrap(), id);
        let code = |error: Error| error.code();
        let bob = Principal::new("bob", vec![]);
        assert_eq!(tokens.check_result_ticket(&ticket, &bob).map_err(code), Err(ErrorCode::TicketInvalid));
        assert_eq!(tokens.check_statement_handle(&ticket, &ann()).map_err(code), Err(ErrorCode::TicketInvalid));
        let other_key = Tokens::new(Arc::new(Signer::new(None).unwrap()));
        assert_eq!(other_key.check_result_ticket(&ticket, &ann()).map_err(code), Err(ErrorCode::TicketInvalid));
    }

    #[test]
    fn forged_tickets_are_refused() {
        let tokens = tokens();
        let ticket = tokens.result_ticket(&QueryId::generate(), &ann(), HOUR);
        for position in 0..ticket.len() {
            let mut forged = ticket.clone();
            forged[position] ^= 1;
            assert!(tokens.check_result_ticket(&forged, &ann()).is_err(), "byte {position}");
            assert!(tokens.check_result_ticket(&ticket[..position], &ann()).is_err(), "cut at {position}");
        }
        assert!(tokens.check_result_ticket(&vec![0; 1 << 20], &ann()).is_err());
    }

    #[test]
    fn a_ticket_expires() {
        let tokens = tokens();
        let ticket = tokens.result_ticket(&QueryId::generate(), &ann(), Duration::ZERO);
        std::thread::sleep(Duration::from_millis(5));
        let error = tokens.check_result_ticket(&ticket, &ann()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::TicketExpired);
    }

    #[test]
    fn a_cookie_is_no_token() {
        let tokens = tokens();
        let session = Session::detached(ann());
        let token = tokens.session_token(&session);
        assert_eq!(tokens.check_session_token(&token).unwrap(), Some((session.id.clone(), "ann".to_string())));
        assert_eq!(tokens.check_session_token("a token of the configuration").unwrap(), None);
        let cookie = tokens.cookie(&session);
        let posing = format!("{SESSION_PREFIX}{cookie}");
        assert_eq!(tokens.check_session_token(&posing).unwrap_err().code(), ErrorCode::SessionNotFound);
        let token_as_cookie = token.strip_prefix(SESSION_PREFIX).unwrap();
        assert!(tokens.check_cookie(token_as_cookie, &ann()).is_err());
        let found = tokens.check_cookie(&cookie, &ann()).unwrap();
        assert_eq!(found, CookieSession { id: session.id.clone(), kept: false });
        assert!(tokens.check_cookie(&cookie, &Principal::new("bob", vec![])).is_err());
        assert!(tokens.check_cookie("%%%", &ann()).is_err());
    }
}
