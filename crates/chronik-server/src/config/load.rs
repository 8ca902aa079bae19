//! Where values come from: flags, then environment variables, then the file, then defaults.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use chronik_broker::config::{is_kafka_broker_config, kafka_broker_configs};
use thiserror::Error;

use super::options::{OPTIONS, OptionSpec, env_name, flag_name, option};
use super::translate::{self, TRANSLATED};
use super::value::Value;

/// Who set a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The built-in default.
    Default,
    /// The file of this path.
    File(PathBuf),
    /// An environment variable.
    Environment,
    /// A command-line flag.
    Flag,
}

/// A setting as its user wrote it, to be found again in an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The name that was used: the setting's own or Kafka's.
    pub name: String,
    /// Where it was used.
    pub origin: Origin,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => write!(f, "the default of {}", self.name),
            Origin::File(path) => write!(f, "{} in {}", self.name, path.display()),
            Origin::Environment => f.write_str(&env_name(&self.name)),
            Origin::Flag => write!(f, "--{}", flag_name(&self.name)),
        }
    }
}

/// Why the settings cannot be used. Each is one line that says what to change.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A value that the setting cannot have.
    #[error("{written} is '{value}', and should be {form}{}", detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default())]
    Value {
        /// Which setting, and where.
        written: Written,
        /// What it is.
        value: String,
        /// What it should look like.
        form: String,
        /// What is wrong with it, where the form does not tell.
        detail: Option<String>,
    },
    /// A setting that does not exist.
    #[error("{written} is no setting of Chronik{}; chronik-server --help lists them", did_you_mean(suggestion.as_deref()))]
    Unknown {
        /// What was written.
        written: String,
        /// What may have been meant.
        suggestion: Option<String>,
    },
    /// A setting that only Kafka has.
    #[error("{written} is a setting of Kafka that Chronik does not have; leave it out")]
    NotHere {
        /// What was written.
        written: String,
    },
    /// A variable that is no text.
    #[error("{name} is not valid UTF-8")]
    NotText {
        /// The variable or flag.
        name: String,
    },
    /// Two settings that contradict each other.
    #[error("{0}")]
    Contradiction(String),
    /// Kafka's name and Chronik's for one setting, in one place.
    #[error("{first} and {second} set the same thing; leave one of them out")]
    Twice {
        /// One of them.
        first: Written,
        /// The other.
        second: Written,
    },
    /// A file that cannot be read.
    #[error("cannot read the configuration file {} ({named_by}): {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The flag or variable that names it.
        named_by: &'static str,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// A file that is no TOML.
    #[error("{}{}: {message}; a line should look like num.partitions = 3", path.display(), line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: Option<usize>,
        /// What is wrong.
        message: String,
    },
    /// A command line that makes no sense.
    #[error("{0}; chronik-server --help shows what it takes")]
    Arguments(String),
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map(|suggestion| format!("; did you mean {suggestion}?")).unwrap_or_default()
}

/// All settings as text, and who set them.
#[derive(Clone, Debug, Default)]
pub struct Values {
    set: BTreeMap<&'static str, (String, Written)>,
    warnings: Vec<String>,
}

impl Values {
    /// The text of a setting, its default included; `None` where it has neither.
    pub fn text(&self, spec: &OptionSpec) -> Option<&str> {
        let text = self.set.get(spec.name).map_or(spec.default, |(text, _)| text);
        (!text.is_empty()).then_some(text)
    }

    /// Who set it.
    pub fn written(&self, name: &str) -> Written {
        match self.set.get(name) {
            Some((_, written)) => written.clone(),
            None => Written { name: name.to_owned(), origin: Origin::Default },
        }
    }

    /// Whether anybody set it.
    pub fn is_set(&self, name: &str) -> bool {
        self.set.contains_key(name)
    }

    /// What was passed over, in sentences for the log.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub(super) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// Sets what a place of higher rank than all before has to say. `name` is a setting's own name or its alias.
    pub(super) fn set(&mut self, name: &str, origin: Origin, text: String) -> Result<(), ConfigError> {
        if TRANSLATED.contains(&name) {
            for (name, text) in translate::translate(name, &text, translate::Context::default(), &origin)? {
                self.set(name, origin.clone(), text)?;
            }
            return Ok(());
        }
        let written = Written { name: name.to_owned(), origin };
        let Some(spec) = option(name) else {
            return Err(unknown_in_file(&written));
        };
        if let Some((_, first)) = self.set.get(spec.name)
            && first.origin == written.origin
        {
            return Err(ConfigError::Twice { first: first.clone(), second: written });
        }
        self.set.insert(spec.name, (text, written));
        Ok(())
    }

    pub(super) fn parse<T: Value>(&self, name: &'static str) -> Result<T, ConfigError> {
        let Some(spec) = option(name) else {
            return Err(ConfigError::Arguments(format!("{name} is not in the table of settings")));
        };
        let (text, written) = match self.set.get(name) {
            // An empty text unsets; in an environment that others fill there may be no other way.
            Some((text, _)) if text.is_empty() => (spec.default, None),
            Some((text, written)) => (text.as_str(), Some(written)),
            None => (spec.default, None),
        };
        T::parse(text, spec.range).map_err(|detail| ConfigError::Value {
            written: written
                .cloned()
                .unwrap_or_else(|| Written { name: name.to_owned(), origin: Origin::Default }),
            value: text.to_owned(),
            form: spec.form(),
            detail,
        })
    }
}

fn unknown_in_file(written: &Written) -> ConfigError {
    if is_kafka_broker_config(&written.name) {
        return ConfigError::NotHere { written: written.to_string() };
    }
    let names = OPTIONS.iter().map(|spec| spec.name.to_owned());
    ConfigError::Unknown { written: written.to_string(), suggestion: nearest(&written.name, names) }
}

/// Takes the settings out of a TOML file. Names may be written as they are, `log.segment.bytes = 1`, also where
/// one begins with another, which plain TOML would refuse.
pub(super) fn read_file(values: &mut Values, path: &Path, text: &str) -> Result<(), ConfigError> {
    let table: toml::Table = quote_names(text).parse().map_err(|error: toml::de::Error| {
        let line = error
            .span()
            .and_then(|span| text.get(..span.start.min(text.len())))
            .map(|before| before.bytes().filter(|byte| *byte == b'\n').count() + 1);
        ConfigError::Syntax {
            path: path.to_owned(),
            line,
            message: error.message().split_whitespace().collect::<Vec<_>>().join(" "),
        }
    })?;
    let mut flat = Vec::new();
    flatten("", table, &mut flat);
    for (name, value) in flat {
        values.set(&name, Origin::File(path.to_owned()), plain_text(value))?;
    }
    Ok(())
}

fn plain_text(value: toml::Value) -> String {
    match value {
        toml::Value::String(text) => text,
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Boolean(truth) => truth.to_string(),
        toml::Value::Datetime(datetime) => datetime.to_string(),
        toml::Value::Array(items) => items.into_iter().map(plain_text).collect::<Vec<_>>().join(","),
        toml::Value::Table(_) => "a table".to_owned(),
    }
}

fn flatten(prefix: &str, table: toml::Table, flat: &mut Vec<(String, toml::Value)>) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        if let toml::Value::Table(inner) = value {
            flatten(&name, inner, flat);
        } else {
            flat.push((name, value));
        }
    }
}

/// Puts the bare names at the beginning of lines into quotes, so that their dots do not open tables.
fn quote_names(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let bare = line.split_once('=').map(|(name, _)| name.trim()).filter(|name| {
            !name.is_empty()
                && name.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '.' | '_' | '-'))
        });
        match bare.and_then(|name| line.split_once(name).map(|(before, after)| (before, name, after))) {
            Some((before, name, after)) => {
                quoted.push_str(before);
                quoted.push('"');
                quoted.push_str(name);
                quoted.push('"');
                quoted.push_str(after);
            }
            None => quoted.push_str(line),
        }
    }
    quoted
}

/// Takes the settings out of environment variables.
pub(super) fn read_environment(
    values: &mut Values,
    variables: &BTreeMap<String, String>,
) -> Result<(), ConfigError> {
    let names: BTreeMap<String, &str> = OPTIONS
        .iter()
        .flat_map(|spec| [Some(spec.name), spec.alias])
        .flatten()
        .chain(TRANSLATED.iter().copied())
        .map(|name| (env_name(name), name))
        .collect();
    for (variable, value) in variables.range("CHRONIK_".to_owned()..) {
        if !variable.starts_with("CHRONIK_") {
            break;
        }
        if variable == super::CONFIG_VARIABLE
            || variable == super::PROPERTIES_VARIABLE
            || is_service_link(variable, value)
        {
            continue;
        }
        let Some(name) = names.get(variable) else {
            if kafka_broker_configs().iter().any(|name| env_name(name) == *variable) {
                return Err(ConfigError::NotHere { written: variable.clone() });
            }
            let suggestion = nearest(variable, names.keys().cloned());
            return Err(ConfigError::Unknown { written: variable.clone(), suggestion });
        };
        values.set(name, Origin::Environment, value.clone())?;
    }
    Ok(())
}

/// Whether Kubernetes set this variable: it gives every container the addresses of all services by their names,
/// and a service named `chronik` or `chronik-node-1` makes them look like settings.
fn is_service_link(variable: &str, value: &str) -> bool {
    let is_url = value.starts_with("tcp://") || value.starts_with("udp://");
    variable.ends_with("_SERVICE_HOST")
        || variable.ends_with("_SERVICE_PORT")
        || variable.contains("_SERVICE_PORT_")
        || variable.ends_with("_PORT") && is_url
        || ["_TCP", "_UDP"].iter().any(|protocol| {
            variable.split_once(protocol).is_some_and(|(before, after)| {
                let port = before.rsplit('_').next().unwrap_or_default();
                !port.is_empty()
                    && port.bytes().all(|byte| byte.is_ascii_digit())
                    && matches!(after, "" | "_ADDR" | "_PORT" | "_PROTO")
            })
        })
}

/// The candidate that takes the fewest changes to get from `name`, if those are few.
pub(super) fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let distance_max = (name.len() / 4).clamp(2, 6);
    candidates
        .map(|candidate| (distance(name, &candidate), candidate))
        .filter(|(distance, _)| *distance <= distance_max)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements between two texts (Levenshtein), row by row.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, from_char) in from.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (above, to_char) in row.iter().skip(1).zip(to.chars()) {
            let replaced = diagonal + usize::from(from_char != to_char);
            left = replaced.min(above + 1).min(left + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (from, to, expected) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2)]
        {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn names_with_dots_need_no_quotes() {
        let text = "# a = comment\n\"rack\" = \"a = b\"\nmax.connections = 5\n  max.connections.per.ip=3\n[log]\nretention.ms = 7\n";
        let mut values = Values::default();
        read_file(&mut values, Path::new("x.toml"), text).expect("valid");
        let shown = |name: &str| option(name).and_then(|spec| values.text(spec)).map(str::to_owned);
        assert_eq!(shown("max.connections").as_deref(), Some("5"));
        assert_eq!(shown("max.connections.per.ip").as_deref(), Some("3"));
        assert_eq!(shown("log.retention.ms").as_deref(), Some("7"));
        assert_eq!(shown("rack").as_deref(), Some("a = b"));
    }

    #[test]
    fn what_kubernetes_sets_is_no_setting() {
        for (variable, value) in [
            ("CHRONIK_SERVICE_HOST", "10.0.0.1"),
            ("CHRONIK_SERVICE_PORT", "9092"),
            ("CHRONIK_SERVICE_PORT_KAFKA", "9092"),
            ("CHRONIK_PORT", "tcp://10.0.0.1:9092"),
            ("CHRONIK_NODE_1_PORT_9092_TCP", "tcp://10.0.0.1:9092"),
            ("CHRONIK_PORT_9092_TCP_ADDR", "10.0.0.1"),
        ] {
            assert!(is_service_link(variable, value), "{variable}");
        }
        for variable in ["CHRONIK_KAFKA_PORT", "CHRONIK_PORT", "CHRONIK_TCP", "CHRONIK_X_TCP"] {
            assert!(!is_service_link(variable, "9092"), "{variable}");
        }
    }
}
