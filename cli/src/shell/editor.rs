//! The interactive line: editing, history, statements over several lines.

use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Completer, Config, Editor, Helper, Highlighter, Hinter};
use townlake_common::{Error, ErrorCode, Result};

use super::{Shell, statements};

/// Lines that the history keeps.
const HISTORY: usize = 10_000;

/// Keeps the line open until a statement is complete.
#[derive(Completer, Helper, Highlighter, Hinter)]
struct Statements;

impl Validator for Statements {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let complete = is_word(context.input()) || statements::is_complete(context.input());
        Ok(if complete { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

/// `quit` and `exit` need no semicolon.
fn is_word(input: &str) -> bool {
    matches!(input.trim().trim_end_matches(';').to_lowercase().as_str(), "quit" | "exit" | "help")
}

type Line = Editor<Statements, FileHistory>;

/// Reads and runs statements until the user leaves. Errors of statements are printed, not returned.
pub async fn interact(shell: &mut Shell) -> Result<()> {
    println!("Town Lake {}. End statements with ; and type \\? for help.", env!("CARGO_PKG_VERSION"));
    let mut editor = open_editor()?;
    loop {
        // rustyline blocks its thread; the editor travels there and back
        let read = tokio::task::spawn_blocking(move || {
            let line = editor.readline("townlake> ");
            (editor, line)
        });
        let (returned, line) = read.await.map_err(|e| Error::internal("the terminal reader failed").with_source(e))?;
        editor = returned;
        match line {
            Ok(line) if is_word(&line) && !line.to_lowercase().contains("help") => break,
            Ok(line) if line.trim() == "\\q" => break,
            Ok(line) => {
                remember(&mut editor, &line);
                let text = if is_word(&line) { "\\?".to_string() } else { line };
                if let Err(error) = shell.run_script(&text).await {
                    eprintln!("error: {error}\n");
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(Error::internal("the terminal cannot be read").with_source(error)),
        }
    }
    Ok(())
}

fn open_editor() -> Result<Line> {
    let failed = |e: ReadlineError| Error::new(ErrorCode::Internal, "the line editor cannot start").with_source(e);
    let config = Config::builder().max_history_size(HISTORY).map_err(failed)?.auto_add_history(false).build();
    let mut editor = Line::with_config(config).map_err(failed)?;
    editor.set_helper(Some(Statements));
    if let Some(path) = history_path() {
        // no history yet, or one that cannot be read: begin a new one
        drop(editor.load_history(&path));
    }
    Ok(editor)
}

fn remember(editor: &mut Line, line: &str) {
    if line.trim().is_empty() {
        return;
    }
    drop(editor.add_history_entry(line.trim()));
    if let Some(path) = history_path() {
        if let Some(folder) = path.parent() {
            drop(std::fs::create_dir_all(folder));
        }
        if let Err(error) = editor.save_history(&path) {
            tracing::debug!(%error, "history cannot be saved");
        }
    }
}

/// `$XDG_STATE_HOME/townlake/history`, by default under `~/.local/state`.
fn history_path() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")));
    state.map(|state| state.join("townlake/history"))
}
