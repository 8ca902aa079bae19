//! Words and lines of the emitted Rust.

use std::fmt::Write as _;

/// `KRaftVersion` → `kraft_version`, `TopicIdPartition` → `topic_id_partition`.
pub(crate) fn snake_case(name: &str) -> String {
    let mut out = String::new();
    let mut was_upper = true;
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            if !was_upper {
                out.push('_');
            }
            was_upper = true;
        } else {
            was_upper = false;
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

pub(crate) fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// Whether `word` stands in `text` as a word of its own.
pub(crate) fn mentions(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|token| token == word)
}

pub(crate) fn line(out: &mut String, depth: usize, text: &str) {
    for _ in 0..depth {
        out.push_str("    ");
    }
    out.push_str(text);
    out.push('\n');
}

pub(crate) fn write_to(out: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _infallible = write!(out, "{text}");
}
