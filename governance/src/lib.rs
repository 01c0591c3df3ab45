//! Who may come in and who may see what: authentication of users and services, signatures of tickets and session tokens, and
//! access to catalogs. Everything is closed by default: a name, a token or a catalog that the configuration does not list
//! gets nothing.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod access;
mod authentication;
mod passwords;
mod random;
mod signing;

pub use access::Access;
pub use authentication::{Authenticator, hash_token};
pub use passwords::hash_password;
pub use signing::Signer;
pub use townlake_proto::ticket::Claims;
pub use townlake_proto::ticket::claims::Purpose;
