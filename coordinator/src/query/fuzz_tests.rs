//! The parser over mutated statements: a statement or an error each time, in no time, and no panic.
//!
//! It begins from the statements of `tests/slt`. A slice with a fixed seed runs in `make test`; `make soak` (`TOWNLAKE_SOAK=1`) runs many
//! with a seed of the moment. A failure prints seed and statement.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::parse::parse;

const SLICE: usize = 3000;
const SOAK: usize = 300_000;
const SEED: u64 = 20_261_127;
/// Far more than any statement of this size needs, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(5);

/// The statements of all slt files.
fn statements(folder: &Path, into: &mut Vec<String>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            statements(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "slt") {
            let text = std::fs::read_to_string(path).unwrap();
            for record in text.split("\n\n") {
                let body =
                    record.lines().skip_while(|line| !(line.starts_with("statement") || line.starts_with("query")));
                let body: Vec<&str> = body.skip(1).take_while(|line| *line != "----").collect();
                into.extend((!body.is_empty()).then(|| body.join("\n")));
            }
        }
    }
}

/// Words, numbers, quotes and signs that mean something.
const PIECES: [&str; 40] = [
    "SELECT",
    "FROM",
    "WHERE",
    "(",
    ")",
    ",",
    ";",
    ".",
    "'",
    "\"",
    "--",
    "/*",
    "*/",
    "$$",
    "::",
    "=>",
    "<>",
    "NULL",
    "FOR",
    "VERSION AS OF",
    "ALTER TABLE",
    "MERGE INTO",
    "USING",
    "WHEN MATCHED THEN",
    "CALL",
    "INSERT INTO",
    "VALUES",
    "PARTITIONED BY",
    "SORTED BY",
    "zorder(a, b)",
    "-9223372036854775808",
    "1e999",
    "0x",
    "E'\\x'",
    "\u{0}",
    "\u{202e}",
    "Ω",
    "[",
    "]",
    "CASE",
];

fn mutated(rng: &mut StdRng, statement: &str, others: &[String]) -> String {
    let mut words: Vec<String> = statement.split_inclusive([' ', '\n', '(', ')', ',']).map(str::to_string).collect();
    for _ in 0..rng.random_range(1..=5) {
        let place = rng.random_range(0..=words.len());
        match rng.random_range(0..6) {
            0 if place < words.len() => drop(words.remove(place)),
            1 if place < words.len() => words.insert(place, words[place].clone()),
            2 if place < words.len() => {
                let mut chars: Vec<char> = words[place].chars().collect();
                let at = rng.random_range(0..chars.len().max(1));
                if at < chars.len() {
                    chars.remove(at);
                }
                words[place] = chars.into_iter().collect();
            }
            3 => {
                let other = others.choose(rng).map(String::as_str).unwrap_or_default();
                let from = rng.random_range(0..=other.len());
                let piece = other.get(from..).unwrap_or_default();
                words.insert(place, format!(" {piece} "));
            }
            4 => words.truncate(place),
            _ => words.insert(place, format!(" {} ", PIECES.choose(rng).copied().unwrap_or_default())),
        }
    }
    words.concat()
}

#[test]
fn fuzz_statements() {
    let soak = std::env::var_os("TOWNLAKE_SOAK").is_some();
    let given = std::env::var("TOWNLAKE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| if soak { rand::random() } else { SEED });
    println!("seed {seed}");
    let mut all = Vec::new();
    statements(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/slt"), &mut all);
    assert!(all.len() > 500, "{}", all.len());
    let mut rng = StdRng::seed_from_u64(seed);
    let mut parsed = 0;
    for round in 0..if soak { SOAK } else { SLICE } {
        let statement = all.choose(&mut rng).map(String::as_str).unwrap_or_default();
        let statement = mutated(&mut rng, statement, &all);
        let begun = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| parse(&statement).is_ok()));
        parsed += usize::from(matches!(done, Ok(true)));
        assert!(done.is_ok(), "seed {seed}, round {round}: {statement}");
        assert!(begun.elapsed() < LIMIT, "seed {seed}, round {round} took {:?}: {statement}", begun.elapsed());
    }
    // Some mutations leave a statement.
    assert!(parsed > 100, "{parsed}");
}
