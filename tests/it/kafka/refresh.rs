//! Columns that were guessed from a sample stay for a while, and are guessed anew after a refresh.

use super::Bus;

#[tokio::test]
async fn guessed_columns_are_forgotten_by_a_refresh() {
    let script = "topic('growing')\np = producer()\np.produce('growing', value='{\"a\": 1}')\np.flush()";
    let tables = "[[catalogs.bus.tables]]\ntopic = \"growing\"\nformat = \"json\"";
    let Some(bus) = Bus::of("growing", script, tables) else { return };
    assert_eq!(bus.lines(&["growing"], "SELECT a FROM growing").await, ["1"]);
    bus.server.python("p = producer()\np.produce('growing', value='{\"a\": 2, \"b\": \"x\"}')\np.flush()");
    let columns = async || {
        let schema = bus.table(&super::query(), "growing").await.schema();
        let names = schema.fields().iter().map(|field| field.name().clone());
        names.filter(|name| !name.starts_with('_')).collect::<Vec<_>>()
    };
    assert_eq!(columns().await, ["a"], "the guess stays");
    bus.source().refresh();
    assert_eq!(columns().await, ["a", "b"]);
    assert_eq!(bus.lines(&["growing"], "SELECT a, b FROM growing ORDER BY a").await, ["1 ", "2 x"]);
}
