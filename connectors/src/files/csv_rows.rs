//! CSV as it comes: rows of text, and the line that each is on.

use std::sync::Arc;

use arrow::array::{StringArray, StringBuilder};
use csv_core::ReadRecordResult;

use super::formats::twice;
use super::misfit::{BATCH_BYTES, LONGEST_ROW, Misfit};

/// A row of more values than that is none.
const MOST_COLUMNS: usize = 100_000;

/// Decodes text that comes in pieces.
pub(crate) struct CsvRows {
    parser: csv_core::Reader,
    /// The row that is being read: its text, and where each value in it ends.
    text: Vec<u8>,
    text_len: usize,
    ends: Vec<usize>,
    ends_len: usize,
    /// `None` until the first line is read.
    names: Option<Arc<[String]>>,
    /// Columns to be kept; `None`: all.
    wanted: Option<Vec<String>>,
    columns: Vec<Kept>,
    lines: Vec<u64>,
    bytes: usize,
    most_rows: usize,
}

struct Kept {
    place: usize,
    values: StringBuilder,
}

/// Some rows of text.
pub(crate) struct CsvBatch {
    /// The wanted columns that the file has, in its order, with their names.
    pub columns: Vec<(String, StringArray)>,
    /// The line of each row.
    pub lines: Vec<u64>,
}

impl CsvRows {
    /// Batches of at most so many rows.
    pub fn new(wanted: Option<Vec<String>>, most_rows: usize) -> Self {
        Self {
            parser: csv_core::Reader::new(),
            text: vec![0; 4096],
            text_len: 0,
            ends: vec![0; 64],
            ends_len: 0,
            names: None,
            wanted,
            columns: Vec::new(),
            lines: Vec::new(),
            bytes: 0,
            most_rows,
        }
    }

    /// The names in the first line, once it is read.
    pub fn names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    /// Takes bytes, none of them at the end of the file; returns how many were taken: 0 where the batch is full, or at the end.
    pub fn decode(&mut self, input: &[u8]) -> Result<usize, Misfit> {
        let mut at = 0;
        while self.lines.len() < self.most_rows && self.bytes < BATCH_BYTES {
            let (result, read, written, ends) =
                self.parser.read_record(&input[at..], &mut self.text[self.text_len..], &mut self.ends[self.ends_len..]);
            let line = self.parser.line() - u64::from(read > 0 && input[at + read - 1] == b'\n');
            at += read;
            self.text_len += written;
            self.ends_len += ends;
            match result {
                ReadRecordResult::InputEmpty | ReadRecordResult::End => break,
                ReadRecordResult::OutputFull if self.text.len() < LONGEST_ROW => {
                    self.text.resize(self.text.len() * 2, 0);
                }
                ReadRecordResult::OutputFull => return Err(Misfit::too_long(line)),
                ReadRecordResult::OutputEndsFull if self.ends.len() < MOST_COLUMNS => {
                    self.ends.resize(self.ends.len() * 2, 0);
                }
                ReadRecordResult::OutputEndsFull => {
                    return Err(Misfit::row(line, format!("more than {MOST_COLUMNS} values")));
                }
                ReadRecordResult::Record => self.row_ends(line)?,
            }
            // No bytes at all would be the end of the file.
            if at == input.len() && at > 0 {
                break;
            }
        }
        Ok(at)
    }

    /// The rows so far; `None` where there are none.
    pub fn flush(&mut self) -> Option<CsvBatch> {
        if self.lines.is_empty() {
            return None;
        }
        self.bytes = 0;
        let names = self.names.clone().unwrap_or_default();
        let kept = |kept: &mut Kept| (names[kept.place].clone(), kept.values.finish());
        Some(CsvBatch { columns: self.columns.iter_mut().map(kept).collect(), lines: std::mem::take(&mut self.lines) })
    }

    fn row_ends(&mut self, line: u64) -> Result<(), Misfit> {
        let (text, ends) = (&self.text[..self.text_len], &self.ends[..self.ends_len]);
        (self.text_len, self.ends_len) = (0, 0);
        let value = |place: usize| {
            let start = if place == 0 { 0 } else { ends[place - 1] };
            std::str::from_utf8(&text[start..ends[place]])
        };
        let Some(names) = &self.names else {
            let names = (0..ends.len()).map(|place| value(place).map(str::to_string)).collect::<Result<Vec<_>, _>>();
            let names = names.map_err(|_| Misfit::row(line, "a name that is no UTF-8"))?;
            // Who learns the columns tells it in his own words.
            if self.wanted.is_some()
                && let Some(twice) = twice(names.iter().map(String::as_str))
            {
                return Err(Misfit::row(line, format!("column {twice} is there twice")));
            }
            let is_wanted = |name: &String| self.wanted.as_ref().is_none_or(|wanted| wanted.contains(name));
            let wanted = names.iter().enumerate().filter(|(_, name)| is_wanted(name));
            self.columns = wanted.map(|(place, _)| Kept { place, values: StringBuilder::new() }).collect();
            self.names = Some(names.into());
            return Ok(());
        };
        if ends.len() != names.len() {
            let what = format!("{} value(s), and the first line has {} name(s)", ends.len(), names.len());
            return Err(Misfit::row(line, what));
        }
        for kept in &mut self.columns {
            let value = value(kept.place).map_err(|_| Misfit {
                line,
                column: Some(names[kept.place].clone()),
                what: "no UTF-8".to_string(),
            })?;
            kept.values.append_option(Some(value).filter(|value| !value.is_empty()));
        }
        self.lines.push(line);
        self.bytes += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line, and the values in it.
    type Row = (u64, Vec<Option<String>>);

    /// All rows, the text given in pieces of so many bytes.
    fn rows(text: &[u8], piece: usize, most: usize) -> Result<Vec<Row>, Misfit> {
        let mut rows = CsvRows::new(None, most);
        let mut found = Vec::new();
        let mut left = text;
        loop {
            let taken = rows.decode(&left[..piece.min(left.len())])?;
            left = &left[taken..];
            if taken > 0 {
                continue;
            }
            let Some(batch) = rows.flush() else { return Ok(found) };
            for (row, line) in batch.lines.iter().enumerate() {
                let value = |(_, values): &(String, StringArray)| values.iter().nth(row).flatten().map(str::to_string);
                found.push((*line, batch.columns.iter().map(value).collect()));
            }
        }
    }

    #[test]
    fn rows_are_the_same_in_any_pieces() {
        let text = b"\xef\xbb\xbfa,b\r\n1,\"x,\"\"y\"\r\n\r\n2,\"\"\n\"two\nlines\",z";
        let some = |text: &str| Some(text.to_string());
        let expected =
            [(2, vec![some("1"), some("x,\"y")]), (4, vec![some("2"), None]), (6, vec![some("two\nlines"), some("z")])];
        for piece in [1, 2, 7, 1000] {
            for most in [1, 2, 100] {
                assert_eq!(rows(text, piece, most).unwrap(), expected, "{piece} {most}");
            }
        }
        assert!(rows(b"", 10, 10).unwrap().is_empty() && rows(b"\n\n", 10, 10).unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_found_on_its_line() {
        for piece in [1, 1000] {
            let wrong = |text: &[u8]| rows(text, piece, 100).unwrap_err().to_string();
            assert_eq!(wrong(b"a,b\n1,2\n\n3\n"), "line 4: 1 value(s), and the first line has 2 name(s)");
            assert_eq!(wrong(b"a,b\n1,2\n3,4,5"), "line 3: 3 value(s), and the first line has 2 name(s)");
            assert_eq!(wrong(b"a,b\n\xc3,\xa9\n"), "line 2, column a: no UTF-8");
            assert_eq!(wrong(b"a,\xff\n"), "line 1: a name that is no UTF-8");
        }
    }

    #[test]
    fn an_open_quote_does_not_take_all_memory() {
        let mut rows = CsvRows::new(None, 10);
        rows.decode(b"a\n\"").unwrap();
        let more = vec![b'x'; 1 << 20];
        let error = (0..100).find_map(|_| rows.decode(&more).err()).unwrap();
        assert!(error.to_string().contains("more than 64 MiB"), "{error}");
    }
}
