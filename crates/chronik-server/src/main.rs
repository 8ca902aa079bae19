//! `chronik-server`: a Kafka-compatible broker.

use std::process::ExitCode;

use chronik_server::process;

fn main() -> ExitCode {
    process::run(std::env::args_os(), std::env::vars_os(), |_context| {
        Err("the broker is not part of this build yet".into())
    })
}
