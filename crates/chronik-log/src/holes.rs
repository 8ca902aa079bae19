//! The file that says where a log lacks records that it once had: an offset on each line, the lowest first.

use std::fmt::Write as _;

/// The file's contents.
pub(crate) fn format(holes: &[i64]) -> String {
    let mut text = String::new();
    for hole in holes {
        writeln!(text, "{hole}").expect("a String takes everything");
    }
    text
}

/// Reads what [`format`] writes; `None` for anything else. Every line has its end: without that a number may have lost digits.
pub(crate) fn parse(contents: &[u8]) -> Option<Vec<i64>> {
    let text = std::str::from_utf8(contents).ok()?.strip_suffix('\n')?;
    text.split('\n').map(|line| line.parse().ok().filter(|&hole: &i64| hole >= 0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_goes_there_and_back() {
        for holes in [vec![0], vec![7, 150, 2_000]] {
            assert_eq!(parse(format(&holes).as_bytes()), Some(holes));
        }
        for bad in ["", "\n", "1", "1\n2", "1\n\n", "x\n", "-1\n"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
