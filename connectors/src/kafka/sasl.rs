//! Logging in: SASL PLAIN (RFC 4616) and SCRAM (RFC 5802, 7677) as Kafka does it, without channel binding.
//!
//! The server proves in turn that it knows the password; without that proof nothing is sent to it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use rand::Rng;
use sha2::digest::Digest;
use sha2::{Sha256, Sha512};
use subtle::ConstantTimeEq;
use townlake_common::Secret;
use townlake_common::config::{KafkaCatalog, SaslMechanism};

/// More rounds than any server asks for (Kafka: at most 16384): a hostile one could keep us busy.
const MOST_ROUNDS: u32 = 100_000;
/// Fewer are refused, as RFC 7677 wants it.
const FEWEST_ROUNDS: u32 = 4096;

/// Name and password, and how they are shown.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub mechanism: SaslMechanism,
    username: Secret,
    password: Secret,
}

/// Why a login went wrong, without anything secret.
pub(crate) type Refused = &'static str;

impl Login {
    /// The login of a catalog, if it has one.
    pub fn new(config: &KafkaCatalog) -> Option<Self> {
        let (username, password) = (config.username.clone()?, config.password.clone()?);
        Some(Self { mechanism: config.sasl?, username, password })
    }

    /// The mechanism's name on the wire.
    pub fn name(&self) -> &'static str {
        match self.mechanism {
            SaslMechanism::Plain => "PLAIN",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }

    /// The one message of PLAIN.
    pub fn plain(&self) -> Vec<u8> {
        format!("\0{}\0{}", self.username.expose(), self.password.expose()).into_bytes()
    }

    /// A conversation of SCRAM with a fresh nonce.
    pub fn scram(&self) -> Scram<'_> {
        let nonce: [u8; 24] = rand::rng().random();
        Scram::new(self, STANDARD.encode(nonce))
    }
}

/// A conversation of SCRAM.
pub(crate) struct Scram<'a> {
    login: &'a Login,
    nonce: String,
    first_bare: String,
    /// What the server must answer at last.
    signature: Vec<u8>,
}

impl<'a> Scram<'a> {
    fn new(login: &'a Login, nonce: String) -> Self {
        let name = login.username.expose().replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={name},r={nonce}");
        Self { login, nonce, first_bare, signature: Vec::new() }
    }

    /// Our first message.
    pub fn first(&self) -> Vec<u8> {
        format!("n,,{}", self.first_bare).into_bytes()
    }

    /// Our proof, in answer to the server's first message.
    pub fn last(&mut self, server_first: &[u8]) -> Result<Vec<u8>, Refused> {
        let server_first = std::str::from_utf8(server_first).map_err(|_| "its first message is no text")?;
        let mut parts = server_first.split(',');
        let mut part = |key: &str| parts.next().and_then(|part| part.strip_prefix(key));
        let nonce = part("r=").filter(|nonce| nonce.len() > self.nonce.len() && nonce.starts_with(&self.nonce));
        let nonce = nonce.ok_or("its nonce does not continue ours")?;
        let salt = part("s=").and_then(|salt| STANDARD.decode(salt).ok()).ok_or("it sent no salt")?;
        let rounds = part("i=").and_then(|rounds| rounds.parse().ok()).ok_or("it sent no number of rounds")?;
        if !(FEWEST_ROUNDS..=MOST_ROUNDS).contains(&rounds) {
            return Err("it wants too few or too many rounds");
        }
        let without_proof = format!("c=biws,r={nonce}");
        let message = format!("{},{server_first},{without_proof}", self.first_bare);
        let password = self.login.password.expose().as_bytes();
        let (proof, signature) = match self.login.mechanism {
            SaslMechanism::ScramSha512 => prove::<Sha512Kind>(password, &salt, rounds, message.as_bytes()),
            _ => prove::<Sha256Kind>(password, &salt, rounds, message.as_bytes()),
        };
        self.signature = signature;
        Ok(format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes())
    }

    /// Checks the server's last message.
    pub fn check(&self, server_last: &[u8]) -> Result<(), Refused> {
        let text = std::str::from_utf8(server_last).unwrap_or_default();
        let proof = text.split(',').next().and_then(|part| part.strip_prefix("v="));
        let proof = proof.and_then(|proof| STANDARD.decode(proof).ok()).unwrap_or_default();
        match !self.signature.is_empty() && bool::from(proof.ct_eq(&self.signature)) {
            true => Ok(()),
            false => Err("it does not know the password itself"),
        }
    }
}

/// A hash function with its HMAC.
trait Kind {
    fn hash(bytes: &[u8]) -> Vec<u8>;
    fn hmac(key: &[u8], parts: &[&[u8]]) -> Vec<u8>;
}

struct Sha256Kind;
struct Sha512Kind;

macro_rules! kind {
    ($name:ident, $digest:ty) => {
        impl Kind for $name {
            fn hash(bytes: &[u8]) -> Vec<u8> {
                <$digest>::digest(bytes).to_vec()
            }

            fn hmac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
                // A key of any length is taken.
                let Ok(mut mac) = Hmac::<$digest>::new_from_slice(key) else { return Vec::new() };
                parts.iter().for_each(|part| mac.update(part));
                mac.finalize().into_bytes().to_vec()
            }
        }
    };
}

kind!(Sha256Kind, Sha256);
kind!(Sha512Kind, Sha512);

/// The client's proof and the signature that the server must show.
fn prove<K: Kind>(password: &[u8], salt: &[u8], rounds: u32, message: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut block = K::hmac(password, &[salt, &1u32.to_be_bytes()]);
    let mut salted = block.clone();
    for _ in 1..rounds {
        block = K::hmac(password, &[&block]);
        salted.iter_mut().zip(&block).for_each(|(sum, byte)| *sum ^= byte);
    }
    let client_key = K::hmac(&salted, &[b"Client Key"]);
    let client_signature = K::hmac(&K::hash(&client_key), &[message]);
    let proof = client_key.iter().zip(&client_signature).map(|(key, signature)| key ^ signature).collect();
    let server_key = K::hmac(&salted, &[b"Server Key"]);
    (proof, K::hmac(&server_key, &[message]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    #[test]
    fn the_example_of_the_rfc() {
        let login = Login {
            mechanism: SaslMechanism::ScramSha256,
            username: Secret::new("user"),
            password: Secret::new("pencil"),
        };
        let mut scram = Scram::new(&login, "rOprNGfwEbeRWgbNEkqO".to_string());
        assert_eq!(scram.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let server = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let last = scram.last(server).unwrap();
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(String::from_utf8(last).unwrap(), expected);
        assert_eq!(scram.check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
        assert!(scram.check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=").is_err());
        assert!(scram.check(b"").is_err() && scram.check(b"e=other-error").is_err());
    }

    #[test]
    fn a_server_that_cheats_is_refused() {
        let login =
            Login { mechanism: SaslMechanism::ScramSha512, username: Secret::new("a,b=c"), password: Secret::new("x") };
        assert!(Scram::new(&login, "n".into()).check(b"v=").is_err(), "before there was a proof");
        assert_eq!(Scram::new(&login, "n".into()).first(), b"n,,n=a=2Cb=3Dc,r=n");
        for cheat in
            ["r=other,s=AAAA,i=4096", "r=n,s=AAAA,i=4096", "r=nx,s=AAAA,i=1", "r=nx,s=AAAA,i=4000000000", "", "\u{0}"]
        {
            assert!(Scram::new(&login, "n".into()).last(cheat.as_bytes()).is_err(), "{cheat}");
        }
        assert!(!format!("{login:?}").contains("a,b"));
    }
}
