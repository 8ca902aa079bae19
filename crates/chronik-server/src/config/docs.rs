//! The command line, its help, and `docs/configuration.md`, all made from the table of settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;

use chronik_broker::config::is_kafka_broker_config;
use clap::builder::NonEmptyStringValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

use super::load::{ConfigError, nearest};
use super::options::{OPTIONS, OptionSpec, flag_name};
use super::translate::TRANSLATED;
use super::value::ValueType;

/// What the command line says.
#[derive(Debug)]
pub(super) enum Arguments {
    /// To print this.
    Print(String),
    /// To ask a node how it is: at this address, or at the one that the environment names.
    Health(Option<String>),
    /// To run with these flags, by the names of their settings.
    Flags(BTreeMap<String, String>),
}

/// The hidden subcommand that prints `docs/configuration.md`.
const CONFIG_DOCS: &str = "config-docs";
/// The subcommand that asks a node how it is.
const HEALTH: &str = "health";

fn command() -> Command {
    let mut command = Command::new("chronik-server")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A Kafka-compatible broker. Without any setting it serves clients on port 9092 and keeps its data in ./chronik-data.")
        .after_help(
            "Each setting can also be given by its environment variable or in the file. A flag comes before a \
             variable, a variable before the file.",
        )
        .disable_help_subcommand(true)
        .max_term_width(110)
        .subcommand(Command::new(CONFIG_DOCS).hide(true))
        .subcommand(
            Command::new(HEALTH)
                .about("Asks a node whether it is ready; the exit code is 0 if so, and else 1.")
                .arg(
                    Arg::new("url")
                        .long("url")
                        .value_name("URL")
                        .value_parser(NonEmptyStringValueParser::new())
                        .help("What to ask. [default: http://localhost:9644/health/ready, or with CHRONIK_HTTP_PORT]"),
                ),
        )
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(NonEmptyStringValueParser::new())
                .help("A TOML file of settings. [env: CHRONIK_CONFIG]"),
        )
        .arg(
            Arg::new("properties")
                .long("properties")
                .value_name("FILE")
                .value_parser(NonEmptyStringValueParser::new())
                .help(
                    "A server.properties of Kafka; settings that Chronik does not have are named and passed over. \
                     [env: CHRONIK_PROPERTIES]",
                ),
        );
    for name in TRANSLATED {
        command = command.arg(Arg::new(*name).long(flag_name(name)).alias(*name).hide(true));
    }
    for spec in OPTIONS {
        for name in [Some(spec.name), spec.alias].into_iter().flatten() {
            command = command.arg(argument(spec, name));
        }
    }
    command
}

fn argument(spec: &OptionSpec, name: &'static str) -> Arg {
    let mut argument = Arg::new(name)
        .long(flag_name(name))
        .action(ArgAction::Set)
        .allow_negative_numbers(true)
        .value_name(value_name(spec))
        .help_heading(spec.section)
        .hide(name != spec.name)
        .help(format!("{} [env: {}] [default: {}]", spec.doc_line(), spec.env_name(), spec.default_text()));
    if name.contains('.') {
        argument = argument.alias(name);
    }
    if spec.value_type == ValueType::Boolean {
        argument = argument.num_args(0..=1).default_missing_value("true");
    }
    argument
}

fn value_name(spec: &OptionSpec) -> &'static str {
    match spec.value_type {
        ValueType::Boolean => "BOOL",
        ValueType::Integer => "N",
        ValueType::Text => "TEXT",
        ValueType::Path => "DIR",
        ValueType::Host => "ADDRESS",
        ValueType::Advertise => "HOST[:PORT]",
        ValueType::Peers | ValueType::ExternalListeners => "LIST",
        ValueType::LogFilter => "FILTER",
        ValueType::OneOf(_) => "WORD",
        ValueType::ListOf(_) => "WORDS",
        ValueType::Number => "NUMBER",
    }
}

pub(super) fn parse_arguments(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Arguments, ConfigError> {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Arguments::Print(error.to_string()));
        }
        Err(error) => return Err(one_line(&error)),
    };
    if matches.subcommand_name() == Some(CONFIG_DOCS) {
        return Ok(Arguments::Print(markdown()));
    }
    if let Some((HEALTH, health)) = matches.subcommand() {
        return Ok(Arguments::Health(health.get_one::<String>("url").cloned()));
    }
    let names = OPTIONS
        .iter()
        .flat_map(|spec| [Some(spec.name), spec.alias])
        .flatten()
        .chain(["config", "properties"]);
    let names = names.chain(TRANSLATED.iter().copied());
    let flags = names
        .filter_map(|name| matches.get_one::<String>(name).map(|value| (name.to_owned(), value.clone())))
        .collect();
    Ok(Arguments::Flags(flags))
}

/// What is wrong with the command line, on one line.
fn one_line(error: &clap::Error) -> ConfigError {
    let argument =
        match error.get(ContextKind::InvalidArg).or_else(|| error.get(ContextKind::InvalidSubcommand)) {
            Some(ContextValue::String(argument)) => argument.clone(),
            Some(_) | None => String::new(),
        };
    if matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand) {
        let flags = OPTIONS.iter().map(|spec| format!("--{}", spec.flag_name()));
        let suggestion = nearest(&argument, flags.chain(["--config".to_owned(), "--help".to_owned()]));
        return ConfigError::Unknown { written: argument, suggestion };
    }
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    ConfigError::Arguments(first.strip_prefix("error: ").unwrap_or(first).to_owned())
}

/// `docs/configuration.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "<!-- Made by `chronik-server config-docs` from the table in crates/chronik-server/src/config/options.rs. -->\n\
         # Configuration\n\n\
         Chronik runs without any setting. Each setting can be given in four ways; a flag comes before an environment\n\
         variable, a variable before a file, and a file before the default:\n\n\
         - a flag: `chronik-server --num-partitions 6`\n\
         - an environment variable: `CHRONIK_NUM_PARTITIONS=6`\n\
         - a line `num.partitions = 6` in a TOML file that `--config FILE` or `CHRONIK_CONFIG` names\n\
         - a line `num.partitions=6` in a `server.properties` of Kafka that `--properties FILE` or `CHRONIK_PROPERTIES`\n  \
           names, behind the TOML file\n\n\
         The flag is the setting's name with dashes for dots. The variable is the name in capitals with underscores for\n\
         dots, after `CHRONIK_`; an empty one counts as unset. An unknown name or an impossible value stops the start\n\
         with one line that says what it should be, but for a `server.properties`, where what Chronik does not have is\n\
         named in the log and passed over. Those settings that Apache Kafka has too have Kafka's names and meanings.\n\n\
         All settings are read at start. Those marked as changeable can be set at run time too, for one broker or as the\n\
         default of all, with `kafka-configs.sh --alter --entity-type brokers`. What a topic sets itself comes first, then\n\
         what was set for this broker, for all brokers, at start, and the default.\n\n\
         Three settings of Kafka are read as those that they correspond to: `log.dirs` (one directory) as `data.dir`,\n\
         `listeners` (the first that is PLAINTEXT and not the controller's) as `bind` and `kafka.port`, and\n\
         `advertised.listeners` as `advertise`.\n",
    );
    let mut section = "";
    for spec in OPTIONS {
        if spec.section != section {
            section = spec.section;
            write_all(&mut text, format_args!("\n## {section}\n"));
        }
        write_all(&mut text, format_args!("\n### `{}`\n\n{}\n\n", spec.name, spec.doc_line()));
        write_all(
            &mut text,
            format_args!("- Variable: `{}`; flag: `--{}`\n", spec.env_name(), spec.flag_name()),
        );
        if let Some(alias) = spec.alias {
            let which = if is_kafka_broker_config(spec.name) { "older name" } else { "name" };
            write_all(&mut text, format_args!("- Kafka's {which}: `{alias}`\n"));
        }
        write_all(&mut text, format_args!("- Value: {}\n", spec.form()));
        let default = if spec.default.is_empty() {
            spec.default_text().to_owned()
        } else {
            format!("`{}`", spec.default)
        };
        write_all(&mut text, format_args!("- Default: {default}\n"));
        if spec.is_dynamic() {
            text.push_str("- Can be changed at run time\n");
        }
    }
    text
}

fn write_all(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a String cannot fail");
}
