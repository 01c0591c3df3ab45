//! Decoding one manifest, also one of version 1.
//!
//! The crate that decodes wants a snapshot id in every entry of version 1, and gives all of them the sequence number 0. Iceberg's
//! Java library leaves the id out where it imports files, and lets entries of version 1 take over the id and the sequence number
//! of their place in the manifest list as those of version 2 do (`InheritableMetadataFactory`): with the number 0, older equality
//! deletes would take rows from newer files. So a manifest of version 1 is decoded as one of version 2, whose additional fields
//! are all optional.

use iceberg::spec::Manifest;

use super::avro_guard::Header;

/// One block of an Avro map with one entry, `format-version` → `2`: the count, then key and value behind their lengths.
/// What a later block of the header says is what counts.
const AS_VERSION_2: &[u8] = b"\x02\x1cformat-version\x022";

/// Decodes a manifest. Entries have what the file says of them: what they inherit is the caller's to add.
pub(crate) fn parse(file: &[u8]) -> Result<Manifest, iceberg::Error> {
    let damaged = |why| iceberg::Error::new(iceberg::ErrorKind::DataInvalid, why);
    let header = Header::read(file).map_err(damaged)?;
    if header.manifest_version.as_deref().is_some_and(|version| version.trim_ascii() != b"1") {
        return Manifest::parse_avro(file);
    }
    let (head, rest) = file.split_at(header.end_of_map);
    Manifest::parse_avro(&[head, AS_VERSION_2, rest].concat())
}
