//! Access tokens: of a service account's key, of the machine's metadata server (workload identity), of a workload elsewhere
//! ([`super::external_account`]), or none for an emulator.
//!
//! One signature and one POST: our own, because the crate that does it (`gcp_auth`) tells a refusal from an outage nowhere, logs what the
//! token endpoint answers, and has no time-outs.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::timeout;
use townlake_common::{Error, ErrorCode, Result, Secret};
use url::Url;

use super::error::Server;
use super::external_account::{ExternalAccount, trusted};

/// What tokens are asked for.
pub(crate) const SCOPE: &str = "https://www.googleapis.com/auth/bigquery";
/// The metadata server; `GCE_METADATA_HOST` names another.
const METADATA_HOST: &str = "metadata.google.internal";
/// How long a token may take.
const TOKEN_TIME: Duration = Duration::from_secs(30);
/// A token is not used in its last moments.
const MARGIN: Duration = Duration::from_secs(120);
/// An assertion holds as long.
const ASSERTION_SECONDS: u64 = 3600;
/// The largest answer, and the largest key file, in bytes.
const ANSWER_LIMIT: usize = 64 << 10;

/// Where tokens come from.
pub(crate) struct Tokens {
    from: From,
    http: reqwest::Client,
    server: Server,
    cached: Mutex<Option<(Arc<Secret>, Instant)>>,
}

enum From {
    Nobody,
    Metadata(String),
    Account(Account),
    External(Box<ExternalAccount>),
}

/// A service account's key.
struct Account {
    email: String,
    key_id: String,
    token_uri: Url,
    key: Arc<dyn SigningKey>,
}

#[derive(Deserialize)]
struct Kind {
    r#type: String,
}

#[derive(Deserialize)]
struct KeyFile {
    client_email: String,
    #[serde(default)]
    private_key_id: String,
    private_key: Secret,
    token_uri: String,
}

#[derive(Deserialize)]
struct Granted {
    access_token: Secret,
    #[serde(default)]
    expires_in: u64,
}

impl Tokens {
    /// No token at all: for emulators.
    pub fn nobody(server: Server, http: reqwest::Client) -> Self {
        Self::new(From::Nobody, server, http)
    }

    /// Those of the machine.
    pub fn of_machine(server: Server, http: reqwest::Client) -> Self {
        let host = std::env::var("GCE_METADATA_HOST").unwrap_or_else(|_| METADATA_HOST.to_string());
        Self::new(From::Metadata(host), server, http)
    }

    /// Those of a service account's key file.
    ///
    /// Errors: `CONFIG_INVALID`, which names the file and nothing in it.
    pub fn of_key_file(path: &Path, server: Server, http: reqwest::Client) -> Result<Self> {
        let from = read(path).map_err(|what| {
            let message = format!("catalogs.{}.key_file: {} {what}", server.catalog, path.display());
            Error::new(ErrorCode::ConfigInvalid, message)
                .with_hint("a JSON key of a service account, or of workload identity federation (external_account), as Google gives it")
        })?;
        Ok(Self::new(from, server, http))
    }

    fn new(from: From, server: Server, http: reqwest::Client) -> Self {
        Self { from, http, server, cached: Mutex::default() }
    }

    /// A token that holds; `None` where none is needed.
    ///
    /// Errors: `SOURCE_DENIED`, `SOURCE_UNAVAILABLE` (retryable).
    pub async fn token(&self) -> Result<Option<Arc<Secret>>> {
        if matches!(self.from, From::Nobody) {
            return Ok(None);
        }
        let mut cached = self.cached.lock().await;
        if let Some((token, until)) = cached.as_ref()
            && Instant::now() < *until
        {
            return Ok(Some(Arc::clone(token)));
        }
        let asked = Instant::now();
        let Granted { access_token, expires_in } = timeout(TOKEN_TIME, self.ask())
            .await
            .map_err(|_| self.server.timed_out("get an access token", TOKEN_TIME.as_secs(), None))??;
        let holds = Duration::from_secs(expires_in.min(86_400)).saturating_sub(MARGIN);
        let token = Arc::new(access_token);
        *cached = Some((Arc::clone(&token), asked + holds));
        Ok(Some(token))
    }

    /// Forgets the token: it was refused.
    pub async fn forget(&self) {
        *self.cached.lock().await = None;
    }

    async fn ask(&self) -> Result<Granted> {
        let request = match &self.from {
            From::Nobody => return Err(Error::internal("an emulator needs no token")),
            From::Metadata(host) => {
                let url = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/token");
                self.http.get(url).header("Metadata-Flavor", "Google").query(&[("scopes", SCOPE)])
            }
            From::External(account) => {
                let (access_token, expires_in) = account.token(&self.http, &self.server).await?;
                return Ok(Granted { access_token, expires_in });
            }
            From::Account(account) => {
                let assertion = account.assertion()?;
                let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &assertion)];
                self.http.post(account.token_uri.clone()).form(&form)
            }
        };
        let host = match &self.from {
            From::Metadata(host) => host.clone(),
            From::Account(account) => account.token_uri.host_str().unwrap_or_default().to_string(),
            From::Nobody | From::External(_) => String::new(),
        };
        let server = Server { host, ..self.server.clone() };
        let body = answer_of(request, &server).await?;
        serde_json::from_slice(&body).map_err(|_| server.corrupt("an answer without an access token"))
    }
}

/// The body of a good answer to a question for a token.
///
/// Errors: `SOURCE_DENIED`, `SOURCE_UNAVAILABLE` (retryable), `DATA_CORRUPT`.
pub(crate) async fn answer_of(request: reqwest::RequestBuilder, server: &Server) -> Result<Vec<u8>> {
    let doing = "give an access token";
    let mut answer = request.send().await.map_err(|error| server.unreachable(doing, error))?;
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| server.unreachable(doing, error))? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_LIMIT {
            return Err(server.corrupt("an access token of more than 64 KiB"));
        }
    }
    if status.is_success() { Ok(body) } else { Err(refused(server, status.as_u16(), &body)) }
}

/// OAuth has errors of its own: `{"error": "invalid_grant", "error_description": …}`, of which only the first is told.
fn refused(server: &Server, status: u16, body: &[u8]) -> Error {
    #[derive(Deserialize)]
    struct Refused {
        error: String,
    }
    let Server { catalog, host } = server;
    let word = serde_json::from_slice::<Refused>(body).map(|refused| refused.error).unwrap_or_default();
    let word: String = word.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(40).collect();
    let message = format!("catalog {catalog}: {host} refused to give an access token (HTTP {status} {word})");
    match status {
        429 | 500..=599 => Error::new(ErrorCode::SourceUnavailable, message).retryable(),
        _ => Error::new(ErrorCode::SourceDenied, message)
            .with_hint(format!("check `key_file` in [catalogs.{catalog}], and the clock of this node")),
    }
}

/// What a key file says, or why it is of no use, without a word of it.
fn read(path: &Path) -> std::result::Result<From, String> {
    let length = std::fs::metadata(path).map_err(|error| format!("cannot be read: {}", error.kind()))?.len();
    if length > ANSWER_LIMIT as u64 {
        return Err("is too large".to_string());
    }
    let text = std::fs::read(path).map_err(|error| format!("cannot be read: {}", error.kind()))?;
    let none = |_| "is no key of a service account".to_string();
    let Kind { r#type } = serde_json::from_slice(&text).map_err(none)?;
    match r#type.as_str() {
        "service_account" => Ok(From::Account(Account::of(serde_json::from_slice(&text).map_err(none)?)?)),
        "external_account" => {
            let written = serde_json::from_slice(&text).map_err(|_| "is no whole external_account".to_string())?;
            Ok(From::External(Box::new(ExternalAccount::of(written)?)))
        }
        _ => Err("is of a type other than service_account and external_account".to_string()),
    }
}

impl Account {
    fn of(file: KeyFile) -> std::result::Result<Self, String> {
        let token_uri = trusted("token_uri", &file.token_uri)?;
        let mut pem = file.private_key.expose().as_bytes();
        let key = rustls_pemfile::private_key(&mut pem).ok().flatten().ok_or("has no private key in PEM")?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|_| "has a private key of no use")?;
        if key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]).is_none() {
            return Err("has a private key that is not RSA".to_string());
        }
        Ok(Self { email: file.client_email, key_id: file.private_key_id, token_uri, key })
    }

    /// A JWT signed with RS256, which is exchanged for a token.
    fn assertion(&self) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|now| now.as_secs()).unwrap_or_default();
        let header = serde_json::json!({"alg": "RS256", "typ": "JWT", "kid": self.key_id});
        let claims = serde_json::json!({
            "iss": self.email, "scope": SCOPE, "aud": self.token_uri.as_str(), "iat": now, "exp": now + ASSERTION_SECONDS,
        });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&header), part(&claims));
        let signer = self.key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]);
        let signed = signer.and_then(|signer| signer.sign(text.as_bytes()).ok());
        let signed = signed.ok_or_else(|| Error::internal("a service account's key does not sign"))?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signed)))
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}
