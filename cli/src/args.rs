//! The commands and their help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// One SQL door to Postgres and Iceberg, governed and fast.
#[derive(Debug, Parser)]
#[command(name = "townlake", version, about, long_about = LONG_ABOUT, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const LONG_ABOUT: &str = "Town Lake: one SQL door to everything a company knows.

Start here:
  townlake demo                                  a whole cluster on this machine, with data, until Ctrl-C
  townlake demo --embedded                       the same in one process, nothing else installed
  townlake standalone --config townlake.toml     your own data, one process
  townlake sql -e 'SHOW CATALOGS'                ask it";

/// One command each.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Generate data, start everything, run and show four queries, then keep serving
    Demo(DemoArgs),
    /// Coordinator and executors in one process (embedded membership, SQLite)
    Standalone(NodeArgs),
    /// The coordinator of a cluster: the doors, planning, scheduling
    Coordinator(NodeArgs),
    /// One executor of a cluster: runs tasks and exchanges partitions
    Executor(NodeArgs),
    /// The SQL shell
    Sql(SqlArgs),
    /// Load files, or TPC-H data, into an Iceberg table through a running server
    Load(LoadArgs),
    /// Hash a password (or token) from standard input for the configuration
    HashPassword(HashPasswordArgs),
    /// Measure: a cluster beside single-process DataFusion on the same data
    Bench(BenchArgs),
}

/// Where a node's configuration comes from.
#[derive(Debug, Args)]
#[command(after_long_help = CONFIG_HELP)]
pub struct NodeArgs {
    /// The TOML file; without it, defaults and the environment alone
    #[arg(long, env = "TOWNLAKE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

const CONFIG_HELP: &str = "Every key can be overridden from the environment as TOWNLAKE_SECTION__KEY:
  TOWNLAKE_SERVER__FLIGHT=127.0.0.1:50050
  TOWNLAKE_CATALOGS__CRM__URL=postgres://reader@db/crm
A secret may be { env = \"NAME\" } or { file = \"PATH\" } in the file.
Logs go to standard error; TOWNLAKE_LOG sets the level (warn,townlake=debug), TOWNLAKE_LOG_FORMAT=json the form.
docs/configuration.md explains every key.";

/// How a client reaches the server.
#[derive(Debug, Clone, Args)]
pub struct ConnectArgs {
    /// The Flight SQL door
    #[arg(long, env = "TOWNLAKE_URL", default_value = "http://127.0.0.1:50050")]
    pub url: String,
    /// User name; the password is asked for unless given
    #[arg(long, env = "TOWNLAKE_USER")]
    pub user: Option<String>,
    /// Password (better in TOWNLAKE_PASSWORD: other users can see arguments)
    #[arg(long, env = "TOWNLAKE_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// Bearer token, in place of user and password; it wins over them
    #[arg(long, env = "TOWNLAKE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// `townlake sql`.
#[derive(Debug, Args)]
pub struct SqlArgs {
    /// The server.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Run these statements and exit (non-zero on the first error)
    #[arg(short = 'e', long = "execute", value_name = "SQL", conflicts_with = "file")]
    pub execute: Option<String>,
    /// Run the statements of a file and exit; - is standard input
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// How rows are shown
    #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
    pub format: OutputFormat,
}

/// How rows are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people
    Table,
    /// With a header line
    Csv,
    /// One object a line
    Json,
    /// A Parquet file on standard output
    Parquet,
    /// Nothing: statements for their effect
    Quiet,
}

/// `townlake load`.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  townlake load tpch --scale 1 --catalog lake --schema tpch
  townlake load events-*.parquet --table lake.web.events
  townlake load people.csv --table lake.hr.people --mode replace")]
pub struct LoadArgs {
    /// Parquet, CSV or JSON files; or the one word `tpch` for generated TPC-H tables
    #[arg(required = true, value_name = "FILE|tpch")]
    pub sources: Vec<String>,
    /// The table: catalog.schema.table
    #[arg(long)]
    pub table: Option<String>,
    /// What to do when the table exists
    #[arg(long, value_enum, default_value_t = LoadMode::Append)]
    pub mode: LoadMode,
    /// Type of the files, where their names do not tell it
    #[arg(long, value_enum)]
    pub file_type: Option<FileType>,
    /// tpch: the scale factor (1 is about 1 GB of text)
    #[arg(long, default_value_t = 0.1)]
    pub scale: f64,
    /// tpch: the catalog
    #[arg(long, default_value = "lake")]
    pub catalog: String,
    /// tpch: the schema, created when missing
    #[arg(long, default_value = "tpch")]
    pub schema: String,
    /// tpch: only these tables
    #[arg(long, value_delimiter = ',')]
    pub tables: Vec<String>,
    /// The server.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// What to do when the table exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LoadMode {
    /// Create the table; fail when it exists
    Create,
    /// Add to it, create it when missing
    Append,
    /// Drop it and create it again
    Replace,
}

/// Type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FileType {
    /// Apache Parquet
    Parquet,
    /// Comma-separated, with a header
    Csv,
    /// One JSON object a line
    Json,
}

/// `townlake demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// One process, nothing installed: embedded membership, SQLite catalogs, local files
    #[arg(long)]
    pub embedded: bool,
    /// Stop after the showcase
    #[arg(long)]
    pub exit: bool,
    /// TPC-H scale factor
    #[arg(long, env = "SCALE", default_value_t = 0.1)]
    pub scale: f64,
}

/// `townlake hash-password`.
#[derive(Debug, Args)]
pub struct HashPasswordArgs {
    /// Hash a bearer token for [[auth.tokens]] in place of a password
    #[arg(long)]
    pub token: bool,
}

/// `townlake bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Which suite
    #[command(subcommand)]
    pub suite: BenchSuite,
}

/// The suites.
#[derive(Debug, Subcommand)]
pub enum BenchSuite {
    /// The 22 TPC-H queries: 2 executors × 1 slot beside single-process DataFusion with two threads, interleaved
    Tpch {
        /// TPC-H scale factor
        #[arg(long, default_value_t = 1.0)]
        scale: f64,
        /// Rounds; medians are shown
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Only these queries
        #[arg(long, value_delimiter = ',')]
        queries: Vec<usize>,
        /// Session settings of our side, for example `target_partitions=2`
        #[arg(long = "set", value_name = "NAME=VALUE")]
        settings: Vec<String>,
    },
    /// Latency of `SELECT 1` and of `LIMIT 10` over Flight SQL
    Latency {
        /// Calls of each
        #[arg(long, default_value_t = 200)]
        calls: usize,
    },
}
