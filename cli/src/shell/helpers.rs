//! The lines that start with a backslash.

use clap::ValueEnum;
use townlake_common::{Error, ErrorCode, Result};

use super::Shell;
use crate::args::OutputFormat;

const HELP: &str = r"\l              list catalogs
\dn [catalog]   list schemas
\d              list tables of the current schema
\d NAME         describe a table
\format FORMAT  table, csv, json or quiet
\timing         times on and off
\q              quit (also Ctrl-D)
A statement ends with ; and may take several lines. Ctrl-C cancels the running query.";

impl Shell {
    /// Runs one helper line.
    pub(super) async fn helper(&mut self, line: &str) -> Result<()> {
        let mut words = line.trim().trim_end_matches(';').split_whitespace();
        let (command, argument) = (words.next().unwrap_or_default(), words.next());
        match (command, argument) {
            ("\\?" | "\\h" | "\\help", _) => {
                println!("{HELP}");
                Ok(())
            }
            ("\\l", _) => self.statement("SHOW CATALOGS").await,
            ("\\dn", None) => self.statement("SHOW SCHEMAS").await,
            ("\\dn", Some(catalog)) => self.statement(&format!("SHOW SCHEMAS FROM {catalog}")).await,
            ("\\d" | "\\dt", None) => self.statement("SHOW TABLES").await,
            ("\\d" | "\\dt", Some(table)) => self.statement(&format!("DESCRIBE {table}")).await,
            ("\\format", Some(format)) => {
                self.format = match OutputFormat::from_str(format, true) {
                    Ok(format) if format != OutputFormat::Parquet => format,
                    _ => {
                        let message = format!("`{format}` is no format for a terminal");
                        return Err(
                            Error::new(ErrorCode::InvalidArgument, message).with_hint("table, csv, json or quiet")
                        );
                    }
                };
                Ok(())
            }
            ("\\timing", _) => {
                self.timing = !self.timing;
                println!("timing is {}", if self.timing { "on" } else { "off" });
                Ok(())
            }
            _ => Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("`{command}` is not a helper, or lacks its argument"),
            )
            .with_hint(r"\? lists them")),
        }
    }
}
