//! Secrets that do not print.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// A secret of the configuration: given as text, as `{ env = "NAME" }` or as `{ file = "PATH" }`.
///
/// It shows as `***` in logs and debug output and is wiped from memory when dropped. The variable or file is read when
/// the configuration is loaded, so that a missing secret is a start-up error.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// A secret of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The text itself. Give it to a driver, never to a log, a plan or an error.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Env { env: String },
    File { file: std::path::PathBuf },
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Apart, so that a key that is not there is told as such.
        let value = serde_json::Value::deserialize(deserializer)?;
        let form = Form::deserialize(value).map_err(|_| {
            D::Error::custom("a secret (`url`, for one) is no text, { env = \"NAME\" } or { file = \"PATH\" }")
        })?;
        let text = match form {
            Form::Text(text) => text,
            Form::Env { env } => std::env::var(&env)
                .map_err(|_| D::Error::custom(format!("the environment variable {env} of a secret is not set")))?,
            Form::File { file } => std::fs::read_to_string(&file)
                .map_err(|e| D::Error::custom(format!("the secret file {} cannot be read: {e}", file.display())))?
                .trim_end_matches(['\r', '\n'])
                .to_string(),
        };
        Ok(Self::new(text))
    }
}
