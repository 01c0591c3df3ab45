//! Bad days of sources, through a real door: each of the four is reached over a line that the test cuts or stops. What runs in a source is
//! told by its own list: `pg_stat_activity`, `system.processes`, the connections of Kafka's broker, the open streams of the MOCK of BigQuery
//! (the emulator has no such list). docs/sources-failures.md has the table of cases.

mod changes;
mod killed;
mod limits;
mod outage;
mod refused;
mod running;
mod scene;
