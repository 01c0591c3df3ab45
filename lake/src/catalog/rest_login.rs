//! How we show a REST catalog who we are: a bearer token, or one that our credentials are exchanged for (OAuth2 client credentials,
//! RFC 6749 §4.4).

use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::Mutex;
use townlake_common::config::IcebergCatalog;
use townlake_common::{Error, ErrorCode, Result, Secret};
use url::Url;

use super::rest_client::{Answer, http_url};

/// A token is renewed this long before it expires.
const TOKEN_MARGIN: Duration = Duration::from_secs(60);
const DEFAULT_TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// A server that tells a longer life is asked again by then.
const LONGEST_TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);
/// What the REST specification names where nothing is configured.
const DEFAULT_SCOPE: &str = "catalog";

pub(super) enum Login {
    None,
    Bearer(Secret),
    ClientCredentials(Box<ClientCredentials>),
}

pub(super) struct ClientCredentials {
    id: String,
    secret: Secret,
    scope: Option<String>,
    /// Who gives tokens, if not the catalog itself.
    server: Option<Url>,
    /// Locked while it is renewed: many calls wait for one answer.
    pub held: Mutex<Option<Token>>,
}

pub(super) struct Token {
    pub text: Secret,
    renew_at: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: Option<u64>,
}

impl Login {
    /// Errors: `CONFIG_INVALID`.
    pub fn from_config(catalog: &str, config: &IcebergCatalog) -> Result<Self> {
        if let Some(token) = &config.token {
            return Ok(Self::Bearer(token.clone()));
        }
        let Some(credential) = &config.credential else { return Ok(Self::None) };
        let wrong = |what: &str| Err(Error::new(ErrorCode::ConfigInvalid, format!("catalogs.{catalog}: {what}")));
        let Some((id, secret)) = credential.expose().split_once(':') else {
            return wrong("`credential` must be `id:secret`");
        };
        let server = match &config.oauth2_server_uri {
            None => None,
            Some(uri) => match http_url(uri) {
                Some(url) => Some(url),
                None => return wrong("`oauth2_server_uri` must be http(s)://…"),
            },
        };
        let scope = config.scope.clone().unwrap_or_else(|| DEFAULT_SCOPE.to_string());
        Ok(Self::ClientCredentials(Box::new(ClientCredentials {
            id: id.to_string(),
            secret: Secret::new(secret),
            scope: Some(scope).filter(|scope| !scope.is_empty()),
            server,
            held: Mutex::default(),
        })))
    }

    /// Whether another token can be had for one that is refused.
    pub fn can_renew(&self) -> bool {
        matches!(self, Self::ClientCredentials(_))
    }
}

impl ClientCredentials {
    /// Who gives tokens; `own` is where the catalog itself does.
    pub fn server(&self, own: Url) -> Url {
        self.server.clone().unwrap_or(own)
    }

    /// The fields of a request for a token.
    pub fn form(&self) -> Vec<(&'static str, &str)> {
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", self.id.as_str()),
            ("client_secret", self.secret.expose()),
        ];
        form.extend(self.scope.as_deref().map(|scope| ("scope", scope)));
        form
    }
}

impl Token {
    /// Whether it can be used now: it is not about to expire, and it is not the one that was `refused`.
    pub fn is_good(&self, refused: Option<&Secret>) -> bool {
        let is_refused = refused.is_some_and(|refused| refused.expose() == self.text.expose());
        !is_refused && Instant::now() < self.renew_at
    }

    /// Errors: `SOURCE_UNAVAILABLE` for a server that is busy or down, which says nothing of our credentials; else
    /// `SOURCE_DENIED`.
    pub fn of_answer(catalog: &str, answer: Answer) -> Result<Self> {
        let denied = || {
            let message = format!("the REST server of catalog {catalog} gives no token for our credentials");
            Error::new(ErrorCode::SourceDenied, message).with_hint("check `credential` and `scope` of the catalog")
        };
        match answer.status.as_u16() {
            200..=299 => {}
            429 | 500..=599 => return Err(answer.error(catalog)),
            _ => return Err(denied()),
        }
        let answer: TokenAnswer = serde_json::from_value(answer.body).map_err(|e| denied().with_source(e))?;
        let life = answer.expires_in.map_or(DEFAULT_TOKEN_LIFE, Duration::from_secs).min(LONGEST_TOKEN_LIFE);
        // A short life too is used for the most part of it.
        let margin = TOKEN_MARGIN.min(life / 4);
        Ok(Self { text: Secret::new(answer.access_token), renew_at: Instant::now() + (life - margin) })
    }
}
