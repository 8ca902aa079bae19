//! `chronik-server`: a Kafka-compatible broker.

use std::process::ExitCode;

use chronik_server::{node, process};

fn main() -> ExitCode {
    process::run(std::env::args_os(), std::env::vars_os(), node::open)
}
