//! What tests of the formats of a registry share: the registry, and Python that writes with Confluent's own serializers.

use std::sync::Arc;

use townlake_tests::kafka::Kafka;
use townlake_tests::registry::Registry;

use super::{Bus, connections};

/// What scripts begin with, after `R`: the registry's URL.
const PRELUDE: &str = r#"
import datetime, decimal, json, os, subprocess, tempfile, uuid
from confluent_kafka.schema_registry import SchemaRegistryClient, Schema, SchemaReference
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import SerializationContext, MessageField
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
registry = SchemaRegistryClient({'url': R})
decimal.getcontext().prec = 100
def of(name):
    return SerializationContext(name, MessageField.VALUE)
def write(name, values, **more):
    p = producer()
    for value in values:
        p.produce(name, value=value, **more)
    p.flush()
def record(name, *fields):
    return {'type': 'record', 'name': name, 'fields': [dict(zip(('name', 'type', 'default'), field)) for field in fields]}
def avro(name, schema, values, **config):
    schema = schema if isinstance(schema, Schema) else json.dumps(schema)
    serialize = AvroSerializer(registry, schema, conf={k.replace('_', '.'): v for k, v in config.items()})
    write(name, [serialize(value, of(name)) for value in values])
def protos(files):
    """Message classes of .proto files, compiled by protoc and by nothing of ours."""
    pool = descriptor_pool.DescriptorPool()
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            open(os.path.join(folder, name), 'w').write(text)
        command = ['protoc', '-I', folder, '--include_imports', '--descriptor_set_out', os.path.join(folder, 'set'), *files]
        subprocess.run(command, check=True, cwd=folder)
        found = descriptor_pb2.FileDescriptorSet.FromString(open(os.path.join(folder, 'set'), 'rb').read())
    for file in found.file:
        pool.Add(file)
    return lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
def protobuf(name, kind, values, **config):
    config = {'use.deprecated.format': False, **{k.replace('_', '.'): v for k, v in config.items()}}
    serialize = ProtobufSerializer(kind, registry, config)
    write(name, [None if value is None else serialize(value, of(name)) for value in values])
"#;

/// The shared broker and the shared registry.
pub struct Servers {
    pub kafka: Arc<Kafka>,
    pub registry: Arc<Registry>,
}

impl Servers {
    pub fn shared(test: &str) -> Option<Self> {
        Some(Self { kafka: Kafka::shared(test)?, registry: Registry::shared(test)? })
    }

    /// Runs Python with [`PRELUDE`]; gives what it prints.
    pub fn python(&self, script: &str) -> String {
        self.kafka.python(&format!("R = '{}'\n{PRELUDE}\n{script}", self.registry.url()))
    }

    /// The catalog, with further keys and `[[catalogs.bus.tables]]`.
    pub fn bus(&self, keys: &str) -> Bus {
        let keys = format!("schema_registry = \"{}\"\n{keys}", self.registry.url());
        Bus { server: Arc::clone(&self.kafka), connections: connections(&self.kafka.broker(), &keys) }
    }
}

/// A table of a topic of its name, with further keys.
pub fn table(topic: &str, keys: &str) -> String {
    format!("[[catalogs.bus.tables]]\ntopic = \"{topic}\"\n{keys}\n")
}
