//! The messages of a schema: compiled from its text, or from a descriptor in base64, which some clients register.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
use protox::Compiler;
use protox::file::{File, FileResolver, GoogleFileResolver};

use super::super::registry::{Definition, Refused};

/// The name that a schema has for the compiler; its own is not told.
const MAIN: &str = "townlake/schema.proto";
/// Braces and brackets in a text may be so deep: the compiler recurses.
const DEEPEST_TEXT: usize = 100;
/// The longest text.
const LONGEST_TEXT: usize = 4 << 20;

/// A schema's messages.
#[derive(Debug, Clone)]
pub(crate) struct Messages {
    pool: DescriptorPool,
}

impl Messages {
    /// Compiles a schema with all that it imports.
    ///
    /// Errors: why it is none.
    pub fn new(definition: &Definition) -> Result<Self, Refused> {
        let mut files = HashMap::new();
        for reference in &definition.references {
            files.insert(reference.name.clone(), file(&reference.name, &reference.text)?);
        }
        files.insert(MAIN.to_string(), file(MAIN, &definition.text)?);
        let mut compiler = Compiler::with_file_resolver(Files { files, google: GoogleFileResolver::new() });
        compiler.open_file(MAIN).map_err(|error| Refused(error.to_string()))?;
        let pool = compiler.descriptor_pool();
        check(&pool)?;
        Ok(Self { pool })
    }

    /// A message by its full name.
    pub fn named(&self, name: &str) -> Option<MessageDescriptor> {
        self.pool.get_message_by_name(name)
    }

    /// A message by its place: which of the schema's, which of that one's, and so on.
    pub fn at(&self, indexes: &[usize]) -> Option<MessageDescriptor> {
        let (first, rest) = indexes.split_first()?;
        let main = self.pool.get_file_by_name(MAIN)?;
        let mut message = main.messages().nth(*first)?;
        for index in rest {
            let next = message.child_messages().nth(*index)?;
            message = next;
        }
        Some(message)
    }
}

/// What the compiler opens.
struct Files {
    files: HashMap<String, File>,
    google: GoogleFileResolver,
}

impl FileResolver for Files {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        self.files.get(name).cloned().map_or_else(|| self.google.open_file(name), Ok)
    }
}

fn file(name: &str, text: &str) -> Result<File, Refused> {
    if text.len() > LONGEST_TEXT {
        return Err(Refused("it is too long".to_string()));
    }
    let in_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    let trimmed = text.trim();
    if !trimmed.is_empty() && trimmed.bytes().all(in_base64) {
        let bytes = STANDARD.decode(trimmed).map_err(|_| Refused("it is neither text nor base64".to_string()))?;
        let mut descriptor = prost_types::FileDescriptorProto::default();
        prost::Message::merge(&mut descriptor, bytes.as_slice())
            .map_err(|_| Refused("it is no descriptor of a file".to_string()))?;
        descriptor.name = Some(name.to_string());
        return Ok(File::from_file_descriptor_proto(descriptor));
    }
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in text.bytes() {
        match byte {
            b'{' | b'[' | b'(' | b'<' => depth += 1,
            b'}' | b']' | b')' | b'>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > DEEPEST_TEXT {
        return Err(Refused("it is too deep".to_string()));
    }
    File::from_source(name, text).map_err(|error| Refused(error.to_string()))
}

/// What a text always has, and a descriptor need not: prost-reflect takes it for granted.
fn check(pool: &DescriptorPool) -> Result<(), Refused> {
    for message in pool.all_messages().filter(MessageDescriptor::is_map_entry) {
        let key = message.get_field(1).filter(|key| !key.is_list());
        let is_key =
            |kind: Kind| !matches!(kind, Kind::Double | Kind::Float | Kind::Bytes | Kind::Message(_) | Kind::Enum(_));
        let value = message.get_field(2).filter(|value| !value.is_list() && !value.is_map());
        if !key.is_some_and(|key| is_key(key.kind())) || value.is_none() {
            return Err(Refused(format!("{} is no entry of a map", message.full_name())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::super::super::registry::Reference;
    use super::*;

    fn definition(text: &str) -> Definition {
        Definition { text: text.to_string(), ..Definition::default() }
    }

    #[test]
    fn texts_and_descriptors_are_compiled() {
        let text = r#"syntax = "proto3"; package p; import "other/a.proto"; import "google/protobuf/timestamp.proto";
            message First { other.A a = 1; google.protobuf.Timestamp at = 2; message In { message Deep {} } }
            message Second { map<string, int32> m = 1; message In {} }"#;
        let other = r#"syntax = "proto3"; package other; message A { int32 x = 1; }"#;
        let references = vec![Reference { name: "other/a.proto".into(), text: other.into() }];
        let messages = Messages::new(&Definition { text: text.into(), references, message: None }).unwrap();
        let name = |indexes: &[usize]| messages.at(indexes).map(|message| message.full_name().to_string());
        assert_eq!(name(&[0]).as_deref(), Some("p.First"));
        assert_eq!(name(&[0, 0, 0]).as_deref(), Some("p.First.In.Deep"));
        assert_eq!((name(&[2]), name(&[]), name(&[0, 9])), (None, None, None));
        assert!(messages.named("p.Second").is_some());
        let plain = prost_types::FileDescriptorProto {
            name: Some("x.proto".into()),
            message_type: vec![prost_types::DescriptorProto { name: Some("M".into()), ..Default::default() }],
            ..Default::default()
        };
        let encoded = STANDARD.encode(plain.encode_to_vec());
        assert_eq!(Messages::new(&definition(&encoded)).unwrap().at(&[0]).unwrap().full_name(), "M");
    }

    #[test]
    fn what_is_no_schema_is_told() {
        let deep = format!("syntax = \"proto3\"; {} {}", "message M {".repeat(10_000), "}".repeat(10_000));
        for text in
            ["", "message", "syntax = \"proto3\"; import \"nowhere.proto\";", "AAAA", "syntax = \"proto9\";", &deep]
        {
            let refused = Messages::new(&definition(text));
            assert!(refused.is_err() || text.is_empty(), "{text:.40}");
        }
        // Entries of maps that are none.
        let options = prost_types::MessageOptions { map_entry: Some(true), ..Default::default() };
        let entry =
            prost_types::DescriptorProto { name: Some("MEntry".into()), options: Some(options), ..Default::default() };
        let file = prost_types::FileDescriptorProto { message_type: vec![entry], ..Default::default() };
        assert!(Messages::new(&definition(&STANDARD.encode(file.encode_to_vec()))).is_err());
    }
}
