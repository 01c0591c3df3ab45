//! The wire contracts of Town Lake, generated from `townlake/*.proto`. Nothing else lives here.

#![allow(missing_docs, clippy::all)]

/// Executors to coordinator, beside Ballista's protocol.
pub mod control {
    tonic::include_proto!("townlake.control");
}
/// Records of the member list.
pub mod membership {
    tonic::include_proto!("townlake.membership");
}
/// Claims of tickets and session tokens.
pub mod ticket {
    tonic::include_proto!("townlake.ticket");
}
/// Scan and write recipes of the lake.
pub mod lake {
    tonic::include_proto!("townlake.lake");
}
/// Scans of sources.
pub mod source {
    tonic::include_proto!("townlake.source");
}
/// Scan recipes of the Postgres connector.
pub mod postgres {
    tonic::include_proto!("townlake.postgres");
}
/// Scan recipes of the Kafka connector.
pub mod kafka {
    tonic::include_proto!("townlake.kafka");
}
/// Scan recipes of the ClickHouse connector.
pub mod clickhouse {
    tonic::include_proto!("townlake.clickhouse");
}
/// Scan recipes of the BigQuery connector.
pub mod bigquery {
    tonic::include_proto!("townlake.bigquery");
}
/// Scan recipes of plain files.
pub mod files {
    tonic::include_proto!("townlake.files");
}
/// What we speak of Google's BigQuery Storage Read API.
pub mod bigquery_storage {
    tonic::include_proto!("google.cloud.bigquery.storage.v1");
}
/// The session actions of Arrow Flight.
pub mod flight_session {
    tonic::include_proto!("townlake.flight_session");
}
