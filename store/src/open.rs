//! Opening the store and bringing its schema up to date.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use townlake_common::{Error, ErrorCode, Result, Secret};

static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES_MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// How long a statement waits for a connection or, in SQLite, for another writer.
const WAIT: Duration = Duration::from_secs(10);
const SQLITE_CONNECTIONS: u32 = 4;
const POSTGRES_CONNECTIONS: u32 = 8;

/// The store of a coordinator's state. Clones share its connections.
#[derive(Clone)]
pub struct Store {
    pub(crate) database: Database,
    name: String,
}

#[derive(Clone)]
pub(crate) enum Database {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// The same statements serve both databases; only the type of the pool differs.
macro_rules! on {
    ($store:expr, $pool:ident => $call:expr) => {
        match &$store.database {
            Database::Sqlite($pool) => $call,
            Database::Postgres($pool) => $call,
        }
    };
}
pub(crate) use on;

impl Store {
    /// Opens `sqlite:///path` (made when missing) or `postgres://…`, and migrates its schema.
    ///
    /// Errors: `CONFIG_INVALID` for a URL of another kind, `STORE_UNAVAILABLE` when the database cannot be reached or its
    /// schema is not one that this build can use. No message holds the URL.
    pub async fn open(url: &Secret) -> Result<Self> {
        match url.expose().split(':').next().unwrap_or_default() {
            "sqlite" => Self::open_sqlite(url.expose()).await,
            "postgres" | "postgresql" => Self::open_postgres(url.expose()).await,
            _ => Err(invalid_url()),
        }
    }

    /// Opens a store that coordinators have made, without changing it.
    ///
    /// Errors: as [`Store::open`].
    pub async fn open_to_read(url: &Secret) -> Result<Self> {
        let url = url.expose();
        if !url.starts_with("sqlite:") {
            return Self::connect_postgres(url).await;
        }
        let options = SqliteConnectOptions::from_str(url).map_err(|_| invalid_url())?;
        let name = options.get_filename().display().to_string();
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(WAIT)
            .connect_with(options.create_if_missing(false).read_only(true).busy_timeout(WAIT))
            .await
            .map_err(|error| unavailable(&name, "cannot be opened", error))?;
        Ok(Self { database: Database::Sqlite(pool), name })
    }

    async fn open_sqlite(url: &str) -> Result<Self> {
        let options = SqliteConnectOptions::from_str(url).map_err(|_| invalid_url())?;
        let path = options.get_filename().to_path_buf();
        let name = path.display().to_string();
        prepare_file(&path).map_err(|error| unavailable(&name, "cannot be made", error))?;
        // WAL with full synchronisation: an audit row that was acknowledged survives a power cut.
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(WAIT);
        let pool = SqlitePoolOptions::new()
            .max_connections(SQLITE_CONNECTIONS)
            .acquire_timeout(WAIT)
            .connect_with(options)
            .await
            .map_err(|error| unavailable(&name, "cannot be opened", error))?;
        SQLITE_MIGRATIONS.run(&pool).await.map_err(|error| unavailable(&name, "cannot be migrated", error))?;
        Ok(Self { database: Database::Sqlite(pool), name })
    }

    async fn open_postgres(url: &str) -> Result<Self> {
        let store = Self::connect_postgres(url).await?;
        if let Database::Postgres(pool) = &store.database {
            // Coordinators that start together take turns: the migrator holds an advisory lock.
            let migrated = POSTGRES_MIGRATIONS.run(pool).await;
            migrated.map_err(|error| unavailable(&store.name, "cannot be migrated", error))?;
        }
        Ok(store)
    }

    async fn connect_postgres(url: &str) -> Result<Self> {
        let options = PgConnectOptions::from_str(url).map_err(|_| invalid_url())?.application_name("townlake-store");
        let database = options.get_database().unwrap_or_else(|| options.get_username());
        let name = format!("{database} at {}:{}", options.get_host(), options.get_port());
        let pool = PgPoolOptions::new()
            .max_connections(POSTGRES_CONNECTIONS)
            .acquire_timeout(WAIT)
            .connect_with(options)
            .await
            .map_err(|error| unavailable(&name, "cannot be reached", error))?;
        Ok(Self { database: Database::Postgres(pool), name })
    }

    /// The error of a statement that failed.
    pub(crate) fn failed(&self, what: &str, error: sqlx::Error) -> Error {
        unavailable(&self.name, what, error).retryable()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.name)
    }
}

fn invalid_url() -> Error {
    Error::new(ErrorCode::ConfigInvalid, "store.url must be sqlite:///path/state.db or postgres://user@host/database")
}

fn unavailable(name: &str, what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorCode::StoreUnavailable, format!("the store {name} {what}"))
        .with_hint("see the log of the coordinator; store.url names the store")
        .with_source(error)
}

/// Makes the file and its folder, readable by this user only: the log holds what people asked.
fn prepare_file(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wrong_url_is_refused_and_not_quoted() {
        for url in ["mysql://u:hunter2@h/d", "hunter2", "postgres://u:hunter2@[h/d"] {
            let error = Store::open(&Secret::new(url)).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::ConfigInvalid, "{url}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn an_unreachable_store_is_named_without_its_password() {
        let error = Store::open(&Secret::new("postgres://u:hunter2@127.0.0.1:1/lake")).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::StoreUnavailable);
        assert!(error.message().contains("lake at 127.0.0.1:1"), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        let error = Store::open(&Secret::new("sqlite:///proc/townlake/state.db")).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::StoreUnavailable);
    }
}
