//! Has the program begin with what `src/sys/entry.rs` does before the C library does anything.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let architecture = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if matches!(architecture.as_str(), "x86_64" | "aarch64") {
        println!("cargo:rustc-link-arg-bins=-Wl,--entry=pea_entry");
    }
}
