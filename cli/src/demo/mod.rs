//! `townlake demo`: data, a whole cluster, some questions, and a door that stays open until Ctrl-C.

mod cluster;
mod embedded;
mod showcase;
mod sources;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use townlake_common::{Error, ErrorCode, Result};

use crate::args::{ConnectArgs, DemoArgs};
use crate::node::until_stopped;
use crate::tpch::Table;

pub(crate) use sources::fill_clickhouse;
pub use sources::{PLACES, Sources};

/// The one user of a demo.
const USER: &str = "demo";

/// The tables that lie in Iceberg; `customer` and `nation` lie elsewhere.
const LAKE_TABLES: [Table; 6] =
    [Table::Region, Table::Supplier, Table::Part, Table::PartSupp, Table::Orders, Table::LineItem];

/// The tables of the second catalog, `crm`.
const CRM_TABLES: [Table; 2] = [Table::Nation, Table::Customer];

/// Runs the command.
pub async fn run(args: DemoArgs) -> Result<()> {
    if !(args.scale > 0.0 && args.scale <= 100.0) {
        let message = format!("the scale {} is not between 0 and 100", args.scale);
        return Err(Error::new(ErrorCode::InvalidArgument, message));
    }
    until_stopped(show(&args, Instant::now())).await
}

async fn show(args: &DemoArgs, started: Instant) -> Result<()> {
    if args.embedded {
        let demo = embedded::start(args.scale).await?;
        finish(args, started, &demo.connect, showcase::Place::Embedded).await?;
        demo.stop().await;
    } else {
        let demo = cluster::start(args.scale, args.federation).await?;
        finish(args, started, &demo.connect, demo.place()).await?;
        drop(demo);
    }
    Ok(())
}

async fn finish(args: &DemoArgs, started: Instant, connect: &ConnectArgs, place: showcase::Place<'_>) -> Result<()> {
    showcase::run(connect, place).await?;
    println!("\nReady after {:.0} s.", started.elapsed().as_secs_f64());
    if !args.exit {
        print_doors(connect, place.catalogs());
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// How to come in, for three kinds of client.
fn print_doors(connect: &ConnectArgs, catalogs: &str) {
    let (url, password) = (connect.url.as_str(), connect.password.as_deref().unwrap_or_default());
    let address = url.strip_prefix("http://").unwrap_or(url);
    let binary = std::env::current_exe().map_or_else(|_| "townlake".to_string(), |path| path.display().to_string());
    let (python, wants) = match python() {
        Some(python) => (python.display().to_string(), ""),
        None => ("python3".to_string(), "   (after: pip install adbc-driver-manager adbc-driver-flightsql pyarrow)"),
    };
    println!(
        "\nThe door is open until Ctrl-C:\n\
         \n  shell   TOWNLAKE_PASSWORD={password} {binary} sql --url {url} --user {USER}\
         \n  ADBC    {python} -c 'import adbc_driver_flightsql.dbapi as flightsql; \
         cursor = flightsql.connect(\"grpc://{address}\", db_kwargs={{\"username\": \"{USER}\", \"password\": \"{password}\"}}, \
         autocommit=True).cursor(); cursor.execute(\"SELECT count(*) FROM lake.tpch.lineitem\"); print(cursor.fetch_arrow_table())'{wants}\
         \n  JDBC    jdbc:arrow-flight-sql://{address}?useEncryption=false&user={USER}&password={password}\n\
         \n  catalogs: {catalogs}\n"
    );
}

/// The Python with the ADBC driver in it that `make demo` installs.
fn python() -> Option<PathBuf> {
    let given = std::env::var_os("TOWNLAKE_VENV").map(PathBuf::from);
    let folder = given.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/townlake/venv")))?;
    let libraries = std::fs::read_dir(folder.join("lib")).ok()?.filter_map(|entry| entry.ok());
    let has_driver = |library: PathBuf| library.join("site-packages/adbc_driver_flightsql").is_dir();
    libraries.map(|entry| entry.path()).any(has_driver).then(|| folder.join("bin/python")).filter(|path| path.exists())
}

/// A long step, with its name and its time.
pub(super) async fn step<T>(name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let started = Instant::now();
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(name.to_string());
    bar.enable_steady_tick(Duration::from_millis(120));
    let outcome = work.await;
    bar.finish_and_clear();
    if outcome.is_ok() {
        println!("✓ {name} ({:.1} s)", started.elapsed().as_secs_f64());
    }
    outcome
}
