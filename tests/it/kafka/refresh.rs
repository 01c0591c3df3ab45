//! Columns that were guessed from a sample, or that the newest schema of a subject had, stay for a while, and are new after a refresh.

use super::Bus;
use super::registered::{Servers, table};

/// Those of the values of `growing`.
async fn columns(bus: &Bus) -> Vec<String> {
    let schema = bus.table(&super::query(), "growing").await.schema();
    let names = schema.fields().iter().map(|field| field.name().clone());
    names.filter(|name| !name.starts_with('_')).collect()
}

#[tokio::test]
async fn guessed_columns_are_forgotten_by_a_refresh() {
    let script = "topic('growing')\np = producer()\np.produce('growing', value='{\"a\": 1}')\np.flush()";
    let tables = "[[catalogs.bus.tables]]\ntopic = \"growing\"\nformat = \"json\"";
    let Some(bus) = Bus::of("growing", script, tables) else { return };
    assert_eq!(bus.lines(&["growing"], "SELECT a FROM growing").await, ["1"]);
    bus.server.python("p = producer()\np.produce('growing', value='{\"a\": 2, \"b\": \"x\"}')\np.flush()");
    assert_eq!(columns(&bus).await, ["a"], "the guess stays");
    bus.source().refresh();
    assert_eq!(columns(&bus).await, ["a", "b"]);
    assert_eq!(bus.lines(&["growing"], "SELECT a, b FROM growing ORDER BY a").await, ["1 ", "2 x"]);
}

#[tokio::test]
async fn the_newest_schema_is_asked_for_anew_after_a_refresh() {
    let Some(servers) = Servers::shared("the_newest_schema") else { return };
    let script =
        |fields: &str, value: &str| format!("avro('registered_growing', record('Growing', {fields}), [{value}])");
    servers.python(&format!("topic('registered_growing')\n{}", script("('a', 'int')", "{'a': 1}")));
    let bus = servers.bus(&table("registered_growing", "format = \"avro\"\ntable = \"growing\""));
    assert_eq!(columns(&bus).await, ["a"]);
    servers.python(&script("('a', 'int'), ('b', ['null', 'string'], None)", "{'a': 2, 'b': 'x'}"));
    assert_eq!(columns(&bus).await, ["a"], "the newest schema stays");
    bus.source().refresh();
    assert_eq!(columns(&bus).await, ["a", "b"]);
    assert_eq!(bus.lines(&["growing"], "SELECT a, b FROM growing ORDER BY a").await, ["1 ", "2 x"]);
}
