//! Medians, ratios and whether the answers agree.

use std::collections::BTreeMap;
use std::fmt;

/// What was measured.
pub struct Report {
    engines: Vec<String>,
    queries: BTreeMap<String, Vec<Runs>>,
}

#[derive(Default, Clone)]
struct Runs {
    seconds: Vec<f64>,
    answer: Option<String>,
    error: Option<String>,
}

impl Report {
    /// An empty report over these engines; the first is compared with the last.
    pub fn new(engines: Vec<String>) -> Self {
        Self { engines, queries: BTreeMap::new() }
    }

    /// Adds one run.
    pub fn add(&mut self, query: &str, engine: usize, seconds: f64, answer: Result<String, String>) {
        let runs = self.queries.entry(query.to_string()).or_insert_with(|| vec![Runs::default(); self.engines.len()]);
        let Some(runs) = runs.get_mut(engine) else { return };
        match answer {
            Ok(answer) if runs.answer.as_ref().is_some_and(|known| *known != answer) => {
                runs.error = Some("the answer changed between rounds".to_string());
            }
            Ok(answer) => {
                runs.seconds.push(seconds);
                runs.answer = Some(answer);
            }
            Err(error) => runs.error = Some(error),
        }
    }

    /// Whether every query ran on every engine, with the same answer on all.
    pub fn is_right(&self) -> bool {
        self.queries.values().all(|runs| {
            runs.iter().all(|run| run.error.is_none()) && runs.windows(2).all(|pair| pair[0].answer == pair[1].answer)
        })
    }

    /// Sum of the first engine's medians over the sum of the last engine's, over queries that ran on both.
    pub fn ratio(&self) -> f64 {
        let (mut ours, mut theirs) = (0.0, 0.0);
        for runs in self.queries.values() {
            if let (Some(first), Some(last)) = (runs.first().and_then(time), runs.last().and_then(time)) {
                ours += first;
                theirs += last;
            }
        }
        ours / theirs
    }
}

fn time(runs: &Runs) -> Option<f64> {
    if runs.error.is_none() { median(&runs.seconds) } else { None }
}

/// The middle of the values; of two middles their mean.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => sorted.get(middle).copied(),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<6}", "query")?;
        for engine in &self.engines {
            write!(f, " {engine:>24}")?;
        }
        writeln!(f, " {:>7}  answers", "ratio")?;
        let mut totals = vec![0.0; self.engines.len()];
        for (query, runs) in &self.queries {
            write!(f, "{query:<6}")?;
            for (index, run) in runs.iter().enumerate() {
                match time(run) {
                    Some(seconds) => {
                        totals[index] += seconds;
                        write!(f, " {seconds:>22.3} s")?;
                    }
                    None => write!(f, " {:>24}", "failed")?,
                }
            }
            match (runs.first().and_then(time), runs.last().and_then(time)) {
                (Some(first), Some(last)) => write!(f, " {:>7.2}", first / last)?,
                _ => write!(f, " {:>7}", "–")?,
            }
            let same = runs.windows(2).all(|pair| pair[0].answer == pair[1].answer && pair[0].answer.is_some());
            let answer = runs.first().and_then(|run| run.answer.clone()).unwrap_or_default();
            writeln!(f, "  {}", if same { answer } else { "DIFFER".to_string() })?;
            for error in runs.iter().filter_map(|run| run.error.as_ref()) {
                writeln!(f, "       {error}")?;
            }
        }
        write!(f, "{:<6}", "total")?;
        for total in &totals {
            write!(f, " {total:>22.3} s")?;
        }
        writeln!(f, " {:>7.2}", self.ratio())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_or_different_answer_is_not_right() {
        let mut report = Report::new(vec!["a".into(), "b".into()]);
        report.add("q1", 0, 2.0, Ok("x".into()));
        report.add("q1", 1, 1.0, Ok("x".into()));
        assert!(report.is_right());
        assert_eq!(report.ratio(), 2.0);
        report.add("q2", 0, 1.0, Ok("x".into()));
        report.add("q2", 1, 1.0, Ok("y".into()));
        assert!(!report.is_right());
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
    }
}
