//! Random bytes for keys and salts, from the operating system.

use rand::TryRngCore;
use rand::rngs::OsRng;
use townlake_common::{Error, Result};

/// `N` random bytes. Errors: `INTERNAL` when the operating system gives none.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| Error::internal("the operating system gives no random bytes").with_source(error))?;
    Ok(bytes)
}
