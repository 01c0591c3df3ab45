//! The commands and their help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// One SQL door to Postgres and Iceberg, governed and fast.
#[derive(Debug, Parser)]
#[command(name = "townlake", version, about, after_help = START, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const START: &str = "Start here:
  townlake demo --embedded       data, a server and four questions, in one process
  townlake demo                  the same as a cluster, with Postgres and etcd
  townlake standalone --help     a server for your own data
  townlake sql --help            ask it

`townlake COMMAND --help` explains a command, with examples.";

/// One command each.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Generate data, start everything, run and show some queries, then keep serving
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

const CONFIG_HELP: &str = "A first file, for `townlake standalone`:
  [store]
  url = \"sqlite:///var/lib/townlake/state.db\"   # the audit trail
  [executor]
  spill_dir = \"/var/lib/townlake/spill\"
  [[auth.users]]
  name = \"ann\"
  password_hash = \"$argon2id$…\"                 # from `townlake hash-password`
  [catalogs.crm]
  type = \"postgres\"
  url = { env = \"CRM_URL\" }                     # or { file = \"PATH\" }, or a text
  readers = [\"ann\"]                             # nobody else sees the catalog

Every key can be given, and overridden, from the environment as TOWNLAKE_SECTION__KEY. A section that does not exist is \
refused.
  TOWNLAKE_SERVER__FLIGHT=127.0.0.1:50050
  TOWNLAKE_CATALOGS__CRM__URL=postgres://reader@db/crm

The first log line says where the node listens. Logs go to standard error: TOWNLAKE_LOG sets the level \
(warn,townlake=debug), TOWNLAKE_LOG_FORMAT=json the form. SIGTERM, Ctrl-C and SIGHUP stop a node in order, a second one at \
once.

docs/configuration.md explains every key.";

/// How a client reaches the server.
#[derive(Debug, Clone, Args)]
pub struct ConnectArgs {
    /// The Flight SQL door: http://host:port, grpc://host:port or host:port
    #[arg(long, env = "TOWNLAKE_URL", default_value = "http://127.0.0.1:50050")]
    pub url: String,
    /// User name; the password is asked for unless given. Without user and token you are `anonymous`, where that is allowed
    #[arg(long, env = "TOWNLAKE_USER")]
    pub user: Option<String>,
    /// Password (better in TOWNLAKE_PASSWORD: other users can see arguments)
    #[arg(long, env = "TOWNLAKE_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// Bearer token, in place of user and password; it wins over them
    #[arg(long, env = "TOWNLAKE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

const SQL_HELP: &str = "Examples:
  townlake sql --user ann                    the shell; \\? lists its helpers
  townlake sql -e 'SHOW CATALOGS'            one statement, or several:
  townlake sql -e 'USE lake.web; SELECT count(*) FROM events'
  townlake sql -f report.sql --format csv > report.csv
  echo 'SELECT 1' | townlake sql --format json
  townlake sql -e 'SELECT …' --format parquet > rows.parquet

In scripts set TOWNLAKE_URL, TOWNLAKE_USER and TOWNLAKE_PASSWORD, or TOWNLAKE_TOKEN. Rows go to standard output, errors to \
standard error as `error: CODE: message (hint)`; the first error ends the run with exit code 1. In CSV, JSON and Parquet the \
answers to USE, SET and INSERT are left out. Ctrl-C cancels the running statement on the server, a second one leaves.";

/// `townlake sql`.
#[derive(Debug, Args)]
#[command(after_long_help = SQL_HELP)]
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
    /// How rows are written
    #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
    pub format: OutputFormat,
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people
    Table,
    /// With a header line; NULL is an empty field; lists and structs are texts
    Csv,
    /// One object a line, with every key; NULL is null
    Json,
    /// A Parquet file on standard output, of one statement
    Parquet,
    /// No rows: statements for their effect
    Quiet,
}

/// `townlake load`.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  townlake load tpch --scale 1 --catalog lake --schema tpch
  townlake load events-*.parquet --table lake.web.events
  townlake load people.csv --table lake.hr.people --mode replace
  townlake load prices.csv --table lake.shop.prices --types 'zip=varchar, price=decimal(12,2)' --delimiter ';'

A load is one commit: all rows or, where one cannot be read or does not fit its column, none. Columns go by name. CSV is read
in the types of the table where it is there and rows are added; else in the types that its first records look like, where
a number with leading zeros (007) is text.")]
pub struct LoadArgs {
    /// Parquet, CSV or JSON files; or the one word `tpch` for generated TPC-H tables
    #[arg(required = true, value_name = "FILE|tpch")]
    pub sources: Vec<String>,
    /// The table: catalog.schema.table, as in SQL (lower case unless quoted)
    #[arg(long)]
    pub table: Option<String>,
    /// What to do when the table exists; append unless told, and create for tpch
    #[arg(long, value_enum)]
    pub mode: Option<LoadMode>,
    /// Type of the files, where their names do not tell it
    #[arg(long, value_enum)]
    pub file_type: Option<FileType>,
    /// CSV and JSON: types of columns, as SQL names them: zip=varchar,price=decimal(12,2)
    #[arg(long, value_name = "COLUMN=TYPE,…")]
    pub types: Option<String>,
    /// CSV: the character between values; tab for the tabulator
    #[arg(long, default_value = ",", value_parser = delimiter, value_name = "CHARACTER")]
    pub delimiter: u8,
    /// CSV: the first line is a record; columns are called column_1, column_2, …
    #[arg(long)]
    pub no_header: bool,
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

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [one] if one.is_ascii_graphic() || *one == b' ' || *one == b'\t' => Ok(*one),
        b"tab" | b"\\t" => Ok(b'\t'),
        _ => Err("one ASCII character, or tab".to_string()),
    }
}

/// What to do when the table exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LoadMode {
    /// Create the table; fail when it exists
    Create,
    /// Add to it, create it when missing
    Append,
    /// Put the rows and their columns in its place
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

const DEMO_HELP: &str = "What happens: generated TPC-H orders go into an Iceberg lake (catalog `lake`), customers into \
Postgres (catalog `crm`); then a federated join, an aggregate, the plan of the join and time travel are asked and shown. After that the server stays until \
Ctrl-C, with connection lines for the shell, ADBC and JDBC on the screen.

With --federation the eight tables of TPC-H lie in five systems (Iceberg, Postgres, ClickHouse, Kafka, an emulator of BigQuery); one
statement joins them all, and its cut, what each system was asked, and the same answer on the same cut are shown. `make
demo-federation` installs what it needs.

Postgres (apt-get install postgresql) and etcd (etcd-server) are started privately, on loopback; --embedded needs neither. The \
doors are 127.0.0.1:50050 (Flight SQL) and 127.0.0.1:8080 (HTTP) where these are free. All files lie in temporary folders under \
TMPDIR, which go when the demo ends, like every process that it started.

Examples:
  townlake demo --embedded
  townlake demo --scale 1            more data, and a few minutes to load it
  townlake demo --embedded --exit    run, show, stop
  townlake demo --federation         five systems";

/// `townlake demo`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = DEMO_HELP)]
pub struct DemoArgs {
    /// One process, nothing installed: embedded membership, SQLite catalogs, local files
    #[arg(long)]
    pub embedded: bool,
    /// Five systems: ClickHouse, Kafka and an emulator of BigQuery as well
    #[arg(long, conflicts_with = "embedded")]
    pub federation: bool,
    /// Stop after the questions
    #[arg(long)]
    pub exit: bool,
    /// TPC-H scale factor: 1 is about 1 GB of text
    #[arg(long, env = "SCALE", default_value_t = 0.1)]
    pub scale: f64,
}

const HASH_HELP: &str = "Examples:
  townlake hash-password                 asks for it, and does not show it
  printf %s \"$PASSWORD\" | townlake hash-password
  openssl rand -hex 32 | tee token | townlake hash-password --token

What it prints is password_hash (or token_hash) in the configuration:
  [[auth.users]]
  name = \"ann\"
  password_hash = \"$argon2id$…\"
  groups = [\"analysts\"]";

/// `townlake hash-password`.
#[derive(Debug, Args)]
#[command(after_long_help = HASH_HELP)]
pub struct HashPasswordArgs {
    /// Hash a bearer token for [[auth.tokens]] in place of a password
    #[arg(long)]
    pub token: bool,
}

const BENCH_HELP: &str = "It needs etcd (apt-get install etcd-server), and starts and stops its own cluster.

Examples:
  townlake bench tpch --scale 0.1 --rounds 1 --queries 1,6
  townlake bench tpch --set target_partitions=2
  townlake bench latency
  TOWNLAKE_PYTHON=venv/bin/python townlake bench planning --files 1000,100000";

/// `townlake bench`.
#[derive(Debug, Args)]
#[command(after_long_help = BENCH_HELP)]
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
        /// How often every query is run on each side; medians are shown
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Only these queries, by number: 1,6,14
        #[arg(long, value_delimiter = ',')]
        queries: Vec<usize>,
        /// Session settings of our side, for example `target_partitions=2`
        #[arg(long = "set", value_name = "NAME=VALUE")]
        settings: Vec<String>,
        /// Also print where the time of each query goes on our side, stage by stage
        #[arg(long)]
        explain: bool,
    },
    /// What Iceberg costs: scans with and without deletes beside DataFusion on the same files, pruning, appends, merges
    Lake {
        /// How often every scan is run on each side; medians are shown
        #[arg(long, default_value_t = 7)]
        rounds: usize,
    },
    /// How fast each source is read beside its own client, and what a join moves with and without what sources do for it
    Sources {
        /// How often everything is run on each side; medians are shown
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// How long scans of tables with many files are planned: file lists, whole scans, EXPLAIN through a server, pyiceberg
    Planning {
        /// Files of the tables; they have manifests only
        #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000")]
        files: Vec<usize>,
    },
    /// Latency of `SELECT 1` and of `LIMIT 10` over Flight SQL
    Latency {
        /// Calls of each
        #[arg(long, default_value_t = 200)]
        calls: usize,
    },
}
