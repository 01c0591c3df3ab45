//! The database under an SQL catalog: SQLite or Postgres behind two calls, with the same `$n` placeholders.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};
use townlake_common::{Error, ErrorCode, Result, Secret};

const CONNECTIONS: u32 = 4;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long SQLite waits for another process's write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// A pool of connections.
pub(super) enum Database {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Database {
    /// Connects, and makes the SQLite file where it is missing.
    ///
    /// Errors: `CONFIG_INVALID` for a URI of another kind, `SOURCE_UNAVAILABLE`; they hold no part of the URI.
    pub async fn connect(catalog: &str, uri: &Secret) -> Result<Self> {
        let uri = uri.expose();
        let invalid = || {
            let message = format!("catalogs.{catalog}: `uri` is neither sqlite:///path nor a valid postgres:// URL");
            Error::new(ErrorCode::ConfigInvalid, message)
        };
        if uri.starts_with("sqlite:") {
            let options = SqliteConnectOptions::from_str(uri).map_err(|_| invalid())?;
            return Self::sqlite(catalog, options).await;
        }
        let options = match uri.strip_prefix("postgresql+psycopg2:") {
            Some(rest) => PgConnectOptions::from_str(&format!("postgres:{rest}")),
            None => PgConnectOptions::from_str(uri),
        };
        let options = options.map_err(|_| invalid())?.application_name("townlake");
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(ACQUIRE_TIMEOUT);
        let pool = pool.connect_with(options).await.map_err(|error| unavailable(catalog, error))?;
        Ok(Self::Postgres(pool))
    }

    async fn sqlite(catalog: &str, options: SqliteConnectOptions) -> Result<Self> {
        if let Some(folder) = options.get_filename().parent().filter(|f| !f.as_os_str().is_empty() && !f.exists()) {
            std::fs::create_dir_all(folder).map_err(|error| {
                let message = format!("catalogs.{catalog}: the folder {} cannot be made", folder.display());
                Error::new(ErrorCode::ConfigInvalid, message).with_source(error)
            })?;
        }
        let options = options.create_if_missing(true).journal_mode(SqliteJournalMode::Wal).busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(ACQUIRE_TIMEOUT);
        Ok(Self::Sqlite(pool.connect_with(options).await.map_err(|error| unavailable(catalog, error))?))
    }

    /// Runs one statement outside any transaction, so that its success is its commit. Returns the rows it changed.
    pub async fn execute(&self, sql: &'static str, values: &[&str]) -> sqlx::Result<u64> {
        match self {
            Self::Sqlite(pool) => {
                let query = values.iter().fold(sqlx::query(sql), |query, value| query.bind(*value));
                query.execute(pool).await.map(|done| done.rows_affected())
            }
            Self::Postgres(pool) => {
                let query = values.iter().fold(sqlx::query(sql), |query, value| query.bind(*value));
                query.execute(pool).await.map(|done| done.rows_affected())
            }
        }
    }

    /// The first column of each row, as text; NULL is left out.
    pub async fn texts(&self, sql: &'static str, values: &[&str]) -> sqlx::Result<Vec<String>> {
        let rows: Vec<Option<String>> = match self {
            Self::Sqlite(pool) => {
                let query = values.iter().fold(sqlx::query_scalar(sql), |query, value| query.bind(*value));
                query.fetch_all(pool).await?
            }
            Self::Postgres(pool) => {
                let query = values.iter().fold(sqlx::query_scalar(sql), |query, value| query.bind(*value));
                query.fetch_all(pool).await?
            }
        };
        Ok(rows.into_iter().flatten().collect())
    }

    /// The columns of one of the catalog's tables.
    pub async fn columns(&self, table: &str) -> sqlx::Result<Vec<String>> {
        match self {
            Self::Sqlite(_) => self.texts("SELECT name FROM pragma_table_info($1)", &[table]).await,
            Self::Postgres(_) => {
                let sql = "SELECT attname::text FROM pg_attribute \
                           WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";
                self.texts(sql, &[table]).await
            }
        }
    }
}

/// The catalog's database cannot be used. The text of the cause is kept for the log only.
pub(super) fn unavailable(catalog: &str, error: sqlx::Error) -> Error {
    let (code, what) = match &error {
        sqlx::Error::Database(database) if database.code().is_some_and(|code| code.starts_with("28")) => {
            (ErrorCode::SourceDenied, "refuses our credentials")
        }
        sqlx::Error::Database(_) => (ErrorCode::SourceError, "answers with an error"),
        _ => (ErrorCode::SourceUnavailable, "cannot be reached"),
    };
    Error::new(code, format!("the database of catalog {catalog} {what}")).with_source(error).retryable()
}
