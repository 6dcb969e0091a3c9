//! The CNI plugin `cni-bridge`: what the runtime calls, and the one place that prints and exits.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use cni_bridge::plugin::{self, Called};
use cni_bridge::spec::{Error, Version, code};

fn main() -> ExitCode {
    let name = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let name = name.file_name().unwrap_or_default().to_string_lossy();
    let Some(command) = std::env::var_os("CNI_COMMAND") else {
        let supported: Vec<_> = Version::supported().collect();
        eprintln!("CNI plugin {name} v{} (cni-bridge)", env!("CARGO_PKG_VERSION"));
        eprintln!("CNI protocol versions supported: {}", supported.join(", "));
        return ExitCode::SUCCESS;
    };
    let called = Called { name: &name, command: &command.to_string_lossy() };
    let (text, status) = match plugin::run(called, |name| std::env::var_os(name), std::io::stdin()) {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(text)) => (text, ExitCode::SUCCESS),
        // A failure is an object on stdout too: that is where libcni looks for it.
        Err(error) => (describe(&error), ExitCode::FAILURE),
    };
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => status,
        // Nobody reads the answer; the runtime takes a lost one for a failure and calls DEL.
        Err(_) => ExitCode::FAILURE,
    }
}

fn describe(error: &Error) -> String {
    serde_json::to_string(error)
        .unwrap_or_else(|_| format!(r#"{{"code":{},"msg":"the error cannot be written"}}"#, code::INTERNAL))
}
