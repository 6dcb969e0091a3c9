//! Printing, so that a closed pipe is an error like any other and not a panic.

use std::io::{Write, stdout};
use std::path::Path;

use crate::error::{IoContext, Result};

/// Prints `text` as it is.
pub fn print(text: impl AsRef<[u8]>) -> Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_ref()).and_then(|()| out.flush()).context("writing", Path::new("standard output"))
}

/// A table with its columns lined up, three spaces apart, as kubectl prints it.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("   ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// A span of time as kubectl shortens it.
pub fn age(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..120 => format!("{s}s"),
        s @ 120..600 => {
            let (minutes, rest) = (s / 60, s % 60);
            if rest == 0 { format!("{minutes}m") } else { format!("{minutes}m{rest}s") }
        }
        s @ 600..10_800 => format!("{}m", s / 60),
        s @ 10_800..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_no_line_ends_in_blanks() {
        let rows = [vec!["NAME".into(), "IP".into()], vec!["a-long-name".into(), String::new()]];
        assert_eq!(table(&rows), "NAME          IP\na-long-name\n");
    }

    #[test]
    fn ages_are_short() {
        let table =
            [(5, "5s"), (119, "119s"), (125, "2m5s"), (180, "3m"), (3600, "60m"), (14_400, "4h"), (200_000, "2d")];
        for (seconds, text) in table {
            assert_eq!(age(seconds), text);
        }
    }
}
