//! Kafka's `server.properties`: the syntax of Java's property files, and what Chronik makes of the settings.
//!
//! A file that was written for Kafka holds settings that Chronik does not have. They are named and passed over, so that
//! a broker can be tried with the file that is there. A setting that Chronik has must be possible.

use std::collections::BTreeMap;
use std::path::Path;

use chronik_broker::config::is_kafka_broker_config;

use super::load::{ConfigError, Origin, Values};
use super::options::option;
use super::translate::{self, TRANSLATED};

/// Takes the settings out of a property file.
pub(super) fn read_properties(values: &mut Values, path: &Path, text: &str) -> Result<(), ConfigError> {
    let properties = parse(text);
    let origin = || Origin::File(path.to_owned());
    for (name, value) in &properties {
        let value = value.trim();
        // Kafka's newer name for the same thing comes first where both are there.
        let newer = match name.as_str() {
            "broker.id" => Some("node.id"),
            "log.dir" => Some("log.dirs"),
            _ => None,
        };
        if newer.is_some_and(|newer| properties.contains_key(newer)) {
            continue;
        }
        if TRANSLATED.contains(&name.as_str()) {
            let protocols = properties.get("listener.security.protocol.map").map_or("", String::as_str);
            let controllers = properties.get("controller.listener.names").map_or("", String::as_str);
            let context = translate::Context { protocols, controllers };
            for (name, value) in translate::translate(name, value, context, &origin())? {
                values.set(name, origin(), value)?;
            }
        } else if option(name).is_some() {
            values.set(name, origin(), value.to_owned())?;
        } else if is_read_with_others(name) {
            // Looked at where listeners are read.
        } else if is_kafka_broker_config(name) {
            values.warn(format!(
                "{} sets {name}, which Kafka knows and Chronik does not have; it has no effect",
                path.display()
            ));
        } else {
            values.warn(format!(
                "{} sets {name}, which is no setting of Chronik or Kafka; it has no effect",
                path.display()
            ));
        }
    }
    Ok(())
}

fn is_read_with_others(name: &str) -> bool {
    matches!(name, "listener.security.protocol.map" | "controller.listener.names")
}

/// The properties of a file; of those that stand twice, the last.
fn parse(text: &str) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::new();
    let text = text.replace("\r\n", "\n");
    let mut lines = text.split(['\n', '\r']);
    while let Some(line) = lines.next() {
        let start = line.trim_start_matches(is_space);
        if start.is_empty() || start.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = start.to_owned();
        while goes_on(&logical) {
            logical.pop();
            let Some(next) = lines.next() else { break };
            logical.push_str(next.trim_start_matches(is_space));
        }
        let (name, value) = split(&logical);
        properties.insert(unescape(name), unescape(value));
    }
    properties
}

fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\u{c}')
}

/// Whether a line ends in a backslash that is not itself escaped.
fn goes_on(line: &str) -> bool {
    line.chars().rev().take_while(|char| *char == '\\').count() % 2 == 1
}

/// A name ends at the first space, `=` or `:` without a backslash before it.
fn split(line: &str) -> (&str, &str) {
    let mut is_escaped = false;
    let end = line.char_indices().find(|(_, char)| {
        let ends = !is_escaped && (is_space(*char) || matches!(char, '=' | ':'));
        is_escaped = !is_escaped && *char == '\\';
        ends
    });
    let (name, rest) = line.split_at(end.map_or(line.len(), |(at, _)| at));
    let rest = rest.trim_start_matches(is_space);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (name, rest.trim_start_matches(is_space))
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            plain.push(char);
            continue;
        }
        match chars.next() {
            Some('t') => plain.push('\t'),
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('f') => plain.push('\u{c}'),
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                plain.push(code.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => plain.push(other),
            None => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_java_reads_them() {
        let text = "# a comment\n! another\n\n  a = 1\nb:2\nc 3\nd\n e\\=f = g\\\n   h\\\n\ti\nj = k\\\\\n\
                    l=\\u0041\\tB\nm = x = y: z\r\nn=o\r\na=last\np=\\\r\n  q\ns=\\\n\nt=u\nr=\\";
        let found = parse(text);
        let expected = [
            ("a", "last"),
            ("b", "2"),
            ("c", "3"),
            ("d", ""),
            ("e=f", "ghi"),
            ("j", "k\\"),
            ("l", "A\tB"),
            ("m", "x = y: z"),
            ("n", "o"),
            ("p", "q"),
            ("r", ""),
            ("s", ""),
            ("t", "u"),
        ];
        let expected: BTreeMap<String, String> =
            expected.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_kafka_has_and_chronik_has_not_is_named() {
        let mut values = Values::default();
        let text = "num.io.threads=8\nnum.partition=3\nnum.partitions=4 \nnode.id=7\nbroker.id=8\nlog.dirs=/a\nlog.dir=/b\n";
        read_properties(&mut values, Path::new("x.properties"), text).expect("possible");
        let shown = |name: &str| option(name).and_then(|spec| values.text(spec)).map(str::to_owned);
        assert_eq!(shown("num.partitions").as_deref(), Some("4"));
        assert_eq!(shown("node.id").as_deref(), Some("7"));
        assert_eq!(shown("data.dir").as_deref(), Some("/a"));
        let [first, second] = values.warnings() else { panic!("{:?}", values.warnings()) };
        assert!(first.contains("x.properties sets num.io.threads, which Kafka knows"), "{first}");
        assert!(second.contains("x.properties sets num.partition, which is no setting"), "{second}");
    }

    #[test]
    fn listeners_become_an_address_and_a_port() {
        let check = |text: &str, expected: [Option<&str>; 3]| {
            let mut values = Values::default();
            read_properties(&mut values, Path::new("x"), text).expect(text);
            let shown = |name: &str| option(name).and_then(|spec| values.text(spec)).map(str::to_owned);
            let found = ["bind", "kafka.port", "advertise"].map(shown);
            assert_eq!(found.each_ref().map(|value| value.as_deref()), expected, "{text}");
        };
        check("listeners=PLAINTEXT://:9095", [Some("::"), Some("9095"), None]);
        check(
            "listeners=CONTROLLER://:9093,PLAINTEXT://10.0.0.1:9092\ncontroller.listener.names=CONTROLLER\n\
             advertised.listeners=PLAINTEXT://host:1000",
            [Some("10.0.0.1"), Some("9092"), Some("host:1000")],
        );
        check(
            "listeners=IN://[::1]:7,OUT://:8\nlistener.security.protocol.map=IN:PLAINTEXT,OUT:SSL",
            [Some("[::1]"), Some("7"), None],
        );
        let refused = |text: &str| {
            let error = read_properties(&mut Values::default(), Path::new("x"), text).expect_err(text);
            error.to_string()
        };
        assert!(refused("listeners=SSL://:9092").contains("listeners in x"));
        assert!(refused("listeners=PLAINTEXT://:port").contains("listeners in x"));
        assert!(refused("log.dirs=/a,/b").contains("log.dirs in x"));
    }
}
