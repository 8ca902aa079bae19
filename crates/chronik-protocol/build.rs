//! Generates the messages from the schema files.
#![expect(clippy::disallowed_methods, reason = "a build script reads and writes files")]

use std::error::Error;
use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=schema");
    let mut files = Vec::new();
    for directory in ["schema", "schema/api", "schema/records"] {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "schema") {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut messages = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path)?;
        messages.extend(chronik_protocol_gen::parse(&path.display().to_string(), &text)?);
    }
    let out = env::var("OUT_DIR")?;
    fs::write(Path::new(&out).join("messages.rs"), chronik_protocol_gen::rust_module(&messages))?;
    fs::write(Path::new(&out).join("messages_json.rs"), chronik_protocol_gen::json_module(&messages))?;
    Ok(())
}
