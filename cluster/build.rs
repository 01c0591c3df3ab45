//! Gives the crate the build id that nodes compare before they exchange plans.
//!
//! Plans are protobuf of an unstable schema, so what matters is what defines that schema: the locked versions of the
//! engine and our own contracts. No git is needed and the same sources give the same id everywhere.

use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files: Vec<PathBuf> = vec![PathBuf::from("../Cargo.lock")];
    for entry in std::fs::read_dir("../proto/townlake")? {
        files.push(entry?.path());
    }
    files.sort();
    println!("cargo:rerun-if-changed=../Cargo.lock");
    println!("cargo:rerun-if-changed=../proto/townlake");
    println!("cargo:rustc-env=TOWNLAKE_BUILD_ID={:016x}", fingerprint(&files)?);
    Ok(())
}

/// FNV-1a over the files' bytes: short, and stable over versions of Rust, which the standard hasher is not.
fn fingerprint(files: &[PathBuf]) -> std::io::Result<u64> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in files {
        for byte in std::fs::read(Path::new(file))? {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok(hash)
}
