//! The CNI plugin `cni-bridge`: what the runtime calls, and the one place that prints and exits.

use std::io::Write;
use std::process::ExitCode;

use cni_bridge::plugin;
use cni_bridge::spec::{Error, Version, code};

fn main() -> ExitCode {
    let Some(command) = std::env::var_os("CNI_COMMAND") else {
        let supported: Vec<_> = Version::supported().collect();
        eprintln!("CNI plugin cni-bridge v{}", env!("CARGO_PKG_VERSION"));
        eprintln!("CNI protocol versions supported: {}", supported.join(", "));
        return ExitCode::SUCCESS;
    };
    let (text, status) = match plugin::run(&command.to_string_lossy(), |name| std::env::var_os(name), std::io::stdin())
    {
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
