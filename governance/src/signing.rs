//! Signed claims: tickets, prepared statement handles and session tokens. `docs/tickets.md` is the protocol page.

use chrono::{DateTime, Utc};
use hmac::{Hmac, Mac};
use prost::Message;
use sha2::Sha256;
use townlake_common::{Error, ErrorCode, Result, Secret};
use townlake_proto::ticket::{Claims, Signed, claims::Purpose};

use crate::passwords::keyed;
use crate::random::random_bytes;

/// The shortest signing key in bytes.
const SHORTEST_KEY: usize = 32;
/// The longest signed message in bytes: a name of 256 bytes, an id and the signature fit many times over.
const LONGEST: usize = 2048;
/// Goes into every signature, so that a key that is also used elsewhere signs nothing of ours there.
const CONTEXT: &[u8] = b"townlake claims v1\0";

/// Signs claims and checks signatures, with HMAC-SHA-256.
pub struct Signer {
    key: Hmac<Sha256>,
}

impl Signer {
    /// A signer with the configured key (`auth.signing_key`), which coordinators of one cluster share, or with a fresh random
    /// one, whose signatures end with this process.
    ///
    /// Errors: `CONFIG_INVALID` for a key of less than 32 bytes.
    pub fn new(key: Option<&Secret>) -> Result<Self> {
        match key {
            Some(key) if key.expose().len() < SHORTEST_KEY => {
                let message = format!("auth.signing_key has less than {SHORTEST_KEY} bytes");
                Err(Error::new(ErrorCode::ConfigInvalid, message).with_hint("make one with `openssl rand -base64 48`"))
            }
            Some(key) => Ok(Self { key: keyed(key.expose().as_bytes())? }),
            None => Ok(Self { key: keyed(&random_bytes::<32>()?)? }),
        }
    }

    /// The claims with their signature: the bytes of a Flight ticket or statement handle; tokens and cookies carry them as base64url.
    pub fn sign(&self, claims: &Claims) -> Vec<u8> {
        let claims = claims.encode_to_vec();
        let signature = self.mac(&claims).finalize().into_bytes().to_vec();
        Signed { claims, signature }.encode_to_vec()
    }

    /// The claims of a message that this key signed for `purpose`, and for `principal` where one is given; without one the
    /// caller takes the principal from the claims.
    ///
    /// Errors: `TICKET_INVALID`, the same for every way in which a message can be wrong; `TICKET_EXPIRED` for one that was good
    /// until its time was over.
    pub fn verify(
        &self,
        signed: &[u8],
        purpose: Purpose,
        principal: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Claims> {
        let claims = self.authentic(signed).ok_or_else(invalid)?;
        let fits = claims.purpose() == purpose && purpose != Purpose::Unspecified;
        if !fits || principal.is_some_and(|principal| principal != claims.principal) {
            return Err(invalid());
        }
        if claims.expires_at_ms <= now.timestamp_millis() {
            return Err(
                Error::new(ErrorCode::TicketExpired, "the ticket's time is over").with_hint("ask for a new one")
            );
        }
        Ok(claims)
    }

    /// The claims, if this key signed them. Nothing inside is looked at before the signature is checked.
    fn authentic(&self, signed: &[u8]) -> Option<Claims> {
        if signed.len() > LONGEST {
            return None;
        }
        let message = Signed::decode(signed).ok()?;
        self.mac(&message.claims).verify_slice(&message.signature).ok()?; // constant time
        // Protobuf has many spellings of one message; only ours is good, so that a ticket is its bytes.
        (message.encode_to_vec() == signed).then_some(())?;
        Claims::decode(message.claims.as_slice()).ok()
    }

    fn mac(&self, claims: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.key.clone();
        mac.update(CONTEXT);
        mac.update(claims);
        mac
    }
}

fn invalid() -> Error {
    Error::new(ErrorCode::TicketInvalid, "the ticket is not valid here")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(ms).unwrap()
    }

    fn claims(purpose: Purpose) -> Claims {
        Claims { purpose: purpose.into(), subject: "q1".into(), principal: "ann".into(), expires_at_ms: 1000 }
    }

    fn code(result: Result<Claims>) -> Option<ErrorCode> {
        result.err().map(|error| error.code())
    }

    #[test]
    fn gives_back_what_it_signed() {
        let signer = Signer::new(None).unwrap();
        let result = claims(Purpose::Result);
        let bytes = signer.sign(&result);
        assert_eq!(signer.verify(&bytes, Purpose::Result, Some("ann"), at(999)).unwrap(), result);
        assert_eq!(signer.verify(&bytes, Purpose::Result, None, at(0)).unwrap(), result);
    }

    #[test]
    fn refuses_other_purposes_principals_times_and_keys() {
        let key = Secret::new("0123456789abcdef0123456789abcdef");
        let signer = Signer::new(Some(&key)).unwrap();
        let bytes = signer.sign(&claims(Purpose::Result));
        let invalid = Some(ErrorCode::TicketInvalid);
        assert_eq!(code(signer.verify(&bytes, Purpose::Session, Some("ann"), at(0))), invalid);
        assert_eq!(code(signer.verify(&bytes, Purpose::Result, Some("bob"), at(0))), invalid);
        assert_eq!(
            code(signer.verify(&bytes, Purpose::Result, Some("bob"), at(5000))),
            invalid,
            "not even that it expired"
        );
        assert_eq!(code(signer.verify(&bytes, Purpose::Result, Some("ann"), at(1000))), Some(ErrorCode::TicketExpired));
        assert_eq!(code(Signer::new(None).unwrap().verify(&bytes, Purpose::Result, Some("ann"), at(0))), invalid);
        assert_eq!(code(Signer::new(Some(&key)).unwrap().verify(&bytes, Purpose::Result, Some("ann"), at(0))), None);
        let open = signer.sign(&claims(Purpose::Unspecified));
        assert_eq!(code(signer.verify(&open, Purpose::Unspecified, Some("ann"), at(0))), invalid);
        assert_eq!(Signer::new(Some(&Secret::new("short"))).err().unwrap().code(), ErrorCode::ConfigInvalid);
    }

    #[test]
    fn refuses_every_damaged_message() {
        let signer = Signer::new(None).unwrap();
        let good = signer.sign(&claims(Purpose::Result));
        for position in 0..good.len() {
            for flip in [1, 0x80] {
                let mut bad = good.clone();
                bad[position] ^= flip;
                // A flip in a tag can turn a field into an unknown one, never a message into a signed one.
                assert!(signer.verify(&bad, Purpose::Result, Some("ann"), at(0)).is_err(), "byte {position}");
            }
            assert!(signer.verify(&good[..position], Purpose::Result, Some("ann"), at(0)).is_err());
        }
        let bare = Signed { claims: claims(Purpose::Result).encode_to_vec(), signature: vec![] }.encode_to_vec();
        for bad in [vec![], bare, vec![0xff; 100], vec![0; LONGEST + 1]] {
            assert!(signer.verify(&bad, Purpose::Result, None, at(0)).is_err());
        }
    }
}
