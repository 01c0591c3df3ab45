//! Passwords: argon2id hashes, checked off the async threads, at one price for every guess.
//!
//! Flight clients send user and password with every call, and an argon2 check costs tens of milliseconds and 19 MiB by
//! design. So a check that succeeded is remembered for a while, under an HMAC of user and password with a key that this
//! process made at random and tells nobody: the memory holds neither passwords nor anything that could be tested offline
//! without the key. Only successes are remembered; each wrong guess pays the full price.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use argon2::password_hash::{PasswordHash, PasswordHashString, SaltString};
use argon2::{Argon2, Params, PasswordHasher, PasswordVerifier};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::{Hmac, Mac};
use moka::sync::Cache;
use sha2::Sha256;
use tokio::sync::Semaphore;
use townlake_common::{Error, ErrorCode, Result, Secret};

use crate::random::random_bytes;

/// The longest password in bytes: hashing a longer one is work that anyone could make us do.
const LONGEST: usize = 1024;
/// How many successful checks are remembered, and for how long.
const REMEMBERED: u64 = 1024;
const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// How long a check may wait for its turn.
const TURN: Duration = Duration::from_secs(10);

/// The argon2id hash of a password, for `password_hash` in the configuration. Takes tens of milliseconds of CPU.
///
/// Errors: `INVALID_ARGUMENT` for an empty password or one of more than 1024 bytes.
pub fn hash_password(password: &str) -> Result<String> {
    if password.is_empty() || password.len() > LONGEST {
        return Err(Error::new(ErrorCode::InvalidArgument, format!("a password has between 1 and {LONGEST} bytes")));
    }
    let failed = |error| Error::internal("the password cannot be hashed").with_source(error);
    let salt = SaltString::encode_b64(&random_bytes::<16>()?).map_err(failed)?;
    Ok(Argon2::default().hash_password(password.as_bytes(), &salt).map_err(failed)?.to_string())
}

/// The password hashes of all users.
pub(crate) struct Passwords {
    users: HashMap<String, Arc<PasswordHashString>>,
    /// What the password of an unknown user is checked against: no password fits, and it costs what the costliest user's does.
    decoy: Arc<PasswordHashString>,
    remembered: Cache<[u8; 32], ()>,
    key: Hmac<Sha256>,
    turns: Arc<Semaphore>,
}

impl Passwords {
    /// Checks the hashes of the configuration. Errors: `CONFIG_INVALID`, naming the user and never the hash.
    pub fn new<'a>(users: impl Iterator<Item = (&'a str, &'a Secret)>) -> Result<Self> {
        let mut costliest = Params::default();
        let mut hashes = HashMap::new();
        for (name, hash) in users {
            let Some((hash, params)) = parse(hash.expose()) else {
                let message = format!("auth.users: the password_hash of `{name}` is not an argon2id hash");
                return Err(
                    Error::new(ErrorCode::ConfigInvalid, message).with_hint("make one with `townlake hash-password`")
                );
            };
            if hashes.is_empty() || cost(&params) > cost(&costliest) {
                costliest = params;
            }
            if hashes.insert(name.to_string(), Arc::new(hash)).is_some() {
                let message = format!("auth.users: `{name}` is listed twice");
                return Err(Error::new(ErrorCode::ConfigInvalid, message));
            }
        }
        let turns = available_parallelism().map_or(2, usize::from);
        Ok(Self {
            users: hashes,
            decoy: Arc::new(decoy(&costliest)?),
            remembered: Cache::builder().max_capacity(REMEMBERED).time_to_live(REMEMBERED_FOR).build(),
            key: keyed(&random_bytes::<32>()?)?,
            turns: Arc::new(Semaphore::new(turns)),
        })
    }

    /// Whether this is the user's password.
    ///
    /// Errors: `RESOURCE_EXHAUSTED` (retryable) when too many checks are waiting.
    pub async fn fits(&self, user: &str, password: &str) -> Result<bool> {
        if password.len() > LONGEST {
            return Ok(false);
        }
        let fingerprint = self.fingerprint(user, password);
        if self.remembered.contains_key(&fingerprint) {
            return Ok(true);
        }
        let known = self.users.get(user);
        let fits = self.check(Arc::clone(known.unwrap_or(&self.decoy)), password).await? && known.is_some();
        if fits {
            self.remembered.insert(fingerprint, ());
        }
        Ok(fits)
    }

    /// One argon2 computation on a blocking thread. As many run at once as there are cores; their memory stays bounded.
    async fn check(&self, hash: Arc<PasswordHashString>, password: &str) -> Result<bool> {
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(Error::new(ErrorCode::ResourceExhausted, "too many passwords are being checked").retryable());
        };
        let password = Secret::new(password);
        let check = tokio::task::spawn_blocking(move || {
            let fits = Argon2::default().verify_password(password.expose().as_bytes(), &hash.password_hash()).is_ok();
            drop(turn); // also when the caller went away in the meantime: the turn lasts as long as the work
            fits
        });
        check.await.map_err(|error| Error::internal("the check of a password did not end").with_source(error))
    }

    fn fingerprint(&self, user: &str, password: &str) -> [u8; 32] {
        let mut mac = self.key.clone();
        mac.update(&user.len().to_le_bytes()); // else ("ab", "c") would be ("a", "bc")
        mac.update(user.as_bytes());
        mac.update(password.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// An HMAC of this key.
pub(crate) fn keyed(key: &[u8]) -> Result<Hmac<Sha256>> {
    Hmac::new_from_slice(key).map_err(|error| Error::internal("the key cannot be used").with_source(error))
}

fn parse(text: &str) -> Option<(PasswordHashString, Params)> {
    let hash = PasswordHash::new(text).ok()?;
    let whole = hash.algorithm == argon2::ARGON2ID_IDENT && hash.salt.is_some() && hash.hash.is_some();
    let params = Params::try_from(&hash).ok()?;
    whole.then(|| (hash.serialize(), params))
}

fn cost(params: &Params) -> u64 {
    u64::from(params.m_cost()) * u64::from(params.t_cost())
}

/// A well-formed hash that no password is known for.
fn decoy(params: &Params) -> Result<PasswordHashString> {
    let (salt, hash) = (STANDARD_NO_PAD.encode(random_bytes::<16>()?), STANDARD_NO_PAD.encode(random_bytes::<32>()?));
    let (memory, time, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
    let text = format!("$argon2id$v=19$m={memory},t={time},p={lanes}${salt}${hash}");
    PasswordHashString::new(&text).map_err(|error| Error::internal("no decoy hash can be made").with_source(error))
}

#[cfg(test)]
mod tests {

    use super::*;

    fn of(users: &[(&str, &str)]) -> Result<Passwords> {
        let users: Vec<_> = users.iter().map(|(name, hash)| (*name, Secret::new(*hash))).collect();
        Passwords::new(users.iter().map(|(name, hash)| (*name, hash)))
    }

    #[tokio::test]
    async fn lets_in_with_the_right_password_only() {
        let hash = hash_password("pässword").unwrap();
        let passwords = of(&[("ann", &hash), ("ab", &hash_password("c").unwrap())]).unwrap();
        for _ in 0..2 {
            assert!(passwords.fits("ann", "pässword").await.unwrap());
            assert!(!passwords.fits("ann", "password").await.unwrap());
            assert!(!passwords.fits("ann", "").await.unwrap());
            assert!(!passwords.fits("bob", "pässword").await.unwrap());
        }
        assert!(passwords.fits("ab", "c").await.unwrap());
        assert!(!passwords.fits("a", "bc").await.unwrap(), "what is remembered is one user's");
        assert!(!passwords.fits("ann", &"x".repeat(LONGEST + 1)).await.unwrap());
        assert_ne!(hash, hash_password("pässword").unwrap(), "each hash has a salt of its own");
    }

    #[tokio::test]
    async fn a_guess_costs_the_same_for_known_and_unknown_users() {
        let salt = SaltString::encode_b64(&[7; 16]).unwrap();
        let params = Params::new(32 * 1024, 4, 1, None).unwrap();
        let argon = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let hash = argon.hash_password(b"secret", &salt).unwrap().to_string();
        let passwords = of(&[("ann", &hash)]).unwrap();
        assert_eq!(Params::try_from(&passwords.decoy.password_hash()).unwrap().m_cost(), 32 * 1024);
        // same work, by the same parameters, with the same outcome; a timed test would only measure the machine
        assert_eq!(Params::try_from(&passwords.decoy.password_hash()).unwrap().t_cost(), 4);
        for user in ["ann", "nobody"] {
            assert!(!passwords.fits(user, "guess").await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_good_password_is_checked_once() {
        let passwords = of(&[("ann", &hash_password("secret").unwrap())]).unwrap();
        assert!(passwords.fits("ann", "secret").await.unwrap());
        // Without a turn nothing can be computed any more.
        let _all =
            passwords.turns.acquire_many(u32::try_from(passwords.turns.available_permits()).unwrap()).await.unwrap();
        assert!(passwords.fits("ann", "secret").await.unwrap());
    }

    #[test]
    fn wrong_hashes_are_refused_and_not_quoted() {
        let weak = "$argon2i$v=19$m=65536,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$+r0d29hqEB0yasKr55ZgICsQGSkl0v0kgwhd+U3wyRo";
        for wrong in ["", "hunter2", "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ", weak] {
            let error = of(&[("ann", wrong)]).err().unwrap();
            assert_eq!(error.code(), ErrorCode::ConfigInvalid, "{wrong}");
            assert!(error.message().contains("`ann`") && !format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let hash = hash_password("x").unwrap();
        assert!(of(&[("ann", &hash), ("ann", &hash)]).err().unwrap().message().contains("twice"));
        assert!(hash_password("").is_err());
    }
}
