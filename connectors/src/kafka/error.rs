//! What brokers answer and what happens on the way to them, as our typed errors: catalog, broker and topic are named, logins
//! and data are not.

use std::io;

use townlake_common::{Error, ErrorCode};

use super::wire::codes::{Code, Kind};

/// Which cluster an error is about.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// The catalog's name.
    pub catalog: String,
}

impl Server {
    /// The typed error of a code that a broker answered; `doing` says what we were about, for example `read topic orders`.
    pub fn answered(&self, doing: &str, code: Code) -> Error {
        let catalog = &self.catalog;
        let message = format!("catalog {catalog}: Kafka refused to {doing} ({})", code.name());
        match code.kind() {
            Kind::Transient => Error::new(ErrorCode::SourceUnavailable, message).retryable(),
            Kind::Gone => Error::new(ErrorCode::TableNotFound, message)
                .with_hint("the topic was deleted, or deleted and created again"),
            Kind::OutOfRange => {
                let message =
                    format!("catalog {catalog}: offsets that the query pinned are gone: Kafka refused to {doing}");
                Error::new(ErrorCode::SourceError, message)
                    .with_hint("retention or a deletion removed them while the query ran: run it again")
                    .moment_lost()
            }
            Kind::Denied => Error::new(ErrorCode::SourceDenied, message).with_hint(format!(
                "see `sasl`, `username` and `password` in [catalogs.{catalog}], and the ACLs in Kafka"
            )),
            Kind::Unsupported => Error::new(ErrorCode::NotSupported, message),
            Kind::Corrupt => Error::new(ErrorCode::DataCorrupt, message),
            Kind::Other => Error::new(ErrorCode::SourceError, message),
        }
    }

    /// A broker could not be reached, or the connection broke.
    pub fn unreachable(&self, broker: &str, doing: &str, error: io::Error) -> Error {
        let catalog = &self.catalog;
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            // rustls names certificates and alerts, never secrets.
            let message = format!("catalog {catalog}: TLS with Kafka at {broker} failed: {tls}");
            return Error::new(ErrorCode::SourceDenied, message)
                .with_hint(format!("see `tls` and `tls_ca` in [catalogs.{catalog}]"));
        }
        let reason = error.kind().to_string();
        let message = format!("catalog {catalog}: Kafka at {broker} cannot be reached to {doing}: {reason}");
        Error::new(ErrorCode::SourceUnavailable, message)
            .with_hint(
                "check that the broker runs, accepts connections from here, and with or without TLS as configured",
            )
            .with_source(error)
            .retryable()
    }

    /// A broker did not answer within the time of a setting.
    pub fn timed_out(&self, broker: &str, doing: &str, setting: &str) -> Error {
        let catalog = &self.catalog;
        let message = format!("catalog {catalog}: Kafka at {broker} did not answer in time: {doing}");
        Error::new(ErrorCode::SourceUnavailable, message)
            .with_hint(format!("the limit is `{setting}` in [catalogs.{catalog}]"))
            .retryable()
    }

    /// The login failed before a code said so.
    pub fn denied(&self, broker: &str, what: &str) -> Error {
        let catalog = &self.catalog;
        let message = format!("catalog {catalog}: Kafka at {broker} did not let us in: {what}");
        Error::new(ErrorCode::SourceDenied, message)
            .with_hint(format!("see `sasl`, `username` and `password` in [catalogs.{catalog}]"))
    }

    /// The listener speaks TLS, and we do not.
    pub fn speaks_tls(&self, broker: &str) -> Error {
        let catalog = &self.catalog;
        Error::new(ErrorCode::SourceDenied, format!("catalog {catalog}: Kafka at {broker} speaks TLS only"))
            .with_hint(format!("set `tls` in [catalogs.{catalog}]"))
    }

    /// What came is no answer of a broker.
    pub fn corrupt(&self, doing: &str, what: &str) -> Error {
        let message = format!("catalog {}: Kafka sent what cannot be decoded to {doing}: {what}", self.catalog);
        Error::new(ErrorCode::DataCorrupt, message)
    }

    /// The broker is too old for us.
    pub fn too_old(&self, broker: &str) -> Error {
        let message =
            format!("catalog {}: Kafka at {broker} is older than 2.3 and does not speak our protocol", self.catalog);
        Error::new(ErrorCode::NotSupported, message)
    }
}
