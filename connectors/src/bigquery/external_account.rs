//! Workload identity federation: the token of a workload elsewhere (Kubernetes, Azure, any OpenID provider) is exchanged for Google's at its
//! Security Token Service, and that for a service account's where one is to be impersonated.
//!
//! Source: Google's `external_account` credentials (AIP-4117). Subjects of files and URLs; AWS's signed requests and programs to be run are
//! refused by name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use townlake_common::{Error, ErrorCode, Result, Secret};
use url::Url;

use super::auth::{SCOPE, answer_of};
use super::error::Server;

/// What a federated token is asked for that is to impersonate.
const CLOUD_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// The largest subject token, in bytes.
const SUBJECT_LIMIT: u64 = 64 << 10;
/// How long an impersonated token holds.
const LIFETIME: u64 = 3600;

/// Where the subject's token is, and what it is exchanged at.
pub(crate) struct ExternalAccount {
    audience: String,
    subject_token_type: String,
    token_url: Url,
    impersonation: Option<Url>,
    subject: Subject,
    /// The member of a JSON answer that holds the token; `None`: all of the text is it.
    field: Option<String>,
}

enum Subject {
    File(PathBuf),
    Url(Url, BTreeMap<String, String>),
}

/// The file, as Google gives it.
#[derive(Deserialize)]
pub(crate) struct Written {
    audience: String,
    subject_token_type: String,
    token_url: String,
    service_account_impersonation_url: Option<String>,
    credential_source: Source,
}

#[derive(Deserialize)]
struct Source {
    file: Option<PathBuf>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    format: Format,
    environment_id: Option<Value>,
    executable: Option<Value>,
}

#[derive(Default, Deserialize)]
struct Format {
    #[serde(default)]
    r#type: String,
    subject_token_field_name: Option<String>,
}

#[derive(Deserialize)]
struct Exchanged {
    access_token: Secret,
    #[serde(default)]
    expires_in: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Impersonated {
    access_token: Secret,
}

impl ExternalAccount {
    /// What a file says, or why it is of no use, without a word of it.
    pub fn of(written: Written) -> std::result::Result<Self, String> {
        let Written { audience, subject_token_type, token_url, service_account_impersonation_url, credential_source } =
            written;
        let Source { file, url, headers, format, environment_id, executable } = credential_source;
        if environment_id.is_some() {
            return Err("takes its subject from AWS, which is not supported".to_string());
        }
        if executable.is_some() {
            return Err("takes its subject from a program, and none is run".to_string());
        }
        let subject = match (file, url) {
            (Some(path), None) => Subject::File(path),
            // the metadata server of another cloud speaks http
            (None, Some(url)) => {
                Subject::Url(url.parse().map_err(|_| "has a credential_source.url that is no URL")?, headers)
            }
            _ => return Err("names neither a file nor a URL of the subject".to_string()),
        };
        let field = match (format.r#type.as_str(), format.subject_token_field_name) {
            ("" | "text", _) => None,
            ("json", Some(field)) => Some(field),
            _ => {
                return Err(
                    "has a credential_source.format that is neither text nor JSON with a field's name".to_string()
                );
            }
        };
        Ok(Self {
            audience,
            subject_token_type,
            token_url: trusted("token_url", &token_url)?,
            impersonation: match service_account_impersonation_url {
                Some(url) => Some(trusted("service_account_impersonation_url", &url)?),
                None => None,
            },
            subject,
            field,
        })
    }

    /// A token, and for how many seconds it holds.
    pub async fn token(&self, http: &reqwest::Client, server: &Server) -> Result<(Secret, u64)> {
        let subject = self.subject_token(http, server).await?;
        let scope = if self.impersonation.is_some() { CLOUD_SCOPE } else { SCOPE };
        let form = [
            ("grant_type", EXCHANGE),
            ("audience", &self.audience),
            ("scope", scope),
            ("requested_token_type", ACCESS_TOKEN),
            ("subject_token", &subject),
            ("subject_token_type", &self.subject_token_type),
        ];
        let request = http.post(self.token_url.clone()).form(&form);
        let answer = answer_of(request, &at(server, &self.token_url)).await?;
        let Exchanged { access_token, expires_in } =
            serde_json::from_slice(&answer).map_err(|_| server.corrupt("an answer without an access token"))?;
        let Some(url) = &self.impersonation else { return Ok((access_token, expires_in)) };
        let body = serde_json::json!({"scope": [SCOPE], "lifetime": format!("{LIFETIME}s")});
        let request = http.post(url.clone()).bearer_auth(access_token.expose()).json(&body);
        let answer = answer_of(request, &at(server, url)).await?;
        let Impersonated { access_token } =
            serde_json::from_slice(&answer).map_err(|_| server.corrupt("an answer without an access token"))?;
        Ok((access_token, LIFETIME))
    }

    async fn subject_token(&self, http: &reqwest::Client, server: &Server) -> Result<String> {
        let unread = |what: String| {
            let message = format!("catalog {}: the subject's token of `key_file` {what}", server.catalog);
            Error::new(ErrorCode::SourceDenied, message)
        };
        let text = match &self.subject {
            Subject::File(path) => {
                let length = tokio::fs::metadata(path).await.map(|metadata| metadata.len());
                if length.is_ok_and(|length| length > SUBJECT_LIMIT) {
                    return Err(unread("is too large".to_string()));
                }
                let text = tokio::fs::read(path).await;
                text.map_err(|error| unread(format!("cannot be read ({}): {}", path.display(), error.kind())))?
            }
            Subject::Url(url, headers) => {
                let request =
                    headers.iter().fold(http.get(url.clone()), |request, (name, value)| request.header(name, value));
                answer_of(request, &at(server, url)).await?
            }
        };
        let text = String::from_utf8(text).map_err(|_| unread("is no text".to_string()))?;
        let Some(field) = &self.field else { return Ok(text.trim().to_string()) };
        let found =
            serde_json::from_str::<Value>(&text).ok().and_then(|value| Some(value.get(field)?.as_str()?.to_string()));
        found.ok_or_else(|| unread(format!("is not in the member {field} of what holds it")))
    }
}

/// The server that is asked, for errors.
fn at(server: &Server, url: &Url) -> Server {
    Server { host: url.host_str().unwrap_or_default().to_string(), ..server.clone() }
}

/// A URL that tokens may go to: https, or of this machine.
pub(crate) fn trusted(what: &str, text: &str) -> std::result::Result<Url, String> {
    let url: Url = text.parse().map_err(|_| format!("has a {what} that is no URL"))?;
    let is_own = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    match url.scheme() == "https" || (url.scheme() == "http" && is_own) {
        true => Ok(url),
        false => Err(format!("has a {what} that is not https")),
    }
}
