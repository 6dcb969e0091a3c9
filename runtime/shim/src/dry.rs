//! Dry runs, for tests: all that is done with what comes from outside before anything is made of it. Nothing is left or
//! changed by them, and whatever they are given, they end, with an error at most.

use std::path::Path;

use containerd_shim_protos::protobuf::well_known_types::any::Any;

use crate::bootstrap::{Arguments, Environment, Start};
use crate::error::Error;
use crate::options::{self, TaskOptions};
use crate::sandbox::{PodFiles, SandboxOptions, cri, files};
use crate::{info, launch, stdio};

/// What is on standard input of `start` and of `-info`, in every dialect.
///
/// # Errors
/// The first one of the two.
pub fn bootstrap(stdin: &[u8]) -> Result<(), Error> {
    let arguments = Arguments { namespace: "ns".into(), id: "web".into(), ..Arguments::default() };
    let variable = || Some("/run/c.sock".to_owned());
    let started = [None, variable()].map(|grpc_address| {
        let environment = Environment { ttrpc_address: variable(), grpc_address, containerd_2: false };
        let start = Start::of(&arguments, &environment, stdin)?;
        start.answer("unix:///run/s").map(drop)
    });
    let told = info::info(stdin).map(drop);
    started.into_iter().chain([told]).collect()
}

/// What travels in an `Any`: runtime options of both types, an exec's process, limits. All but the first byte is the value.
///
/// # Errors
/// Whatever is wrong with it.
pub fn options(bytes: &[u8]) -> Result<(), Error> {
    let (kind, value) = bytes.split_first().ok_or_else(|| Error::invalid("nothing"))?;
    let any = |type_url: &str| Any { type_url: type_url.to_owned(), value: value.to_owned(), ..Default::default() };
    match kind {
        b'r' => TaskOptions::from_any(Some(&any("containerd.runc.v1.Options"))).map(drop),
        b'g' => TaskOptions::from_any(Some(&any("runtimeoptions.v1.Options"))).map(drop),
        b't' => TaskOptions::from_toml(&String::from_utf8_lossy(value), "a test").map(drop),
        b'p' => options::process_of_any(Some(&any(options::PROCESS_TYPE_URL))).map(drop),
        b'u' => options::resources_of_any(Some(&any(options::RESOURCES_TYPE_URL))).map(drop),
        b'd' => {
            drop(options::exec_of_details(&any("")));
            Ok(())
        }
        _ => TaskOptions::from_any(Some(&any("example.Options"))).map(drop),
    }
}

/// The options of a sandbox: CRI's configuration of a pod, and, where it begins with a brace, peapod's.
///
/// # Errors
/// Whatever is wrong with them.
pub fn sandbox(bytes: &[u8]) -> Result<(), Error> {
    let type_url = if bytes.first() == Some(&b'{') { SandboxOptions::TYPE_URL } else { "runtime.v1.PodSandboxConfig" };
    let any = Any { type_url: type_url.to_owned(), value: bytes.to_owned(), ..Default::default() };
    let options = if cri::is_type_of(&any) { cri::read(&any)? } else { SandboxOptions::from_any(&any)? };
    // As it is written down for whoever clears up.
    match SandboxOptions::from_any(&options.to_any()?) {
        Ok(again) if again == options => options.check(),
        _ => Err(Error::internal("a bug: a sandbox's options are not written as they were read")),
    }
}

/// The address of a stream.
///
/// # Errors
/// Whatever is wrong with it.
pub fn stream(text: &[u8]) -> Result<(), Error> {
    stdio::describe(&String::from_utf8_lossy(text)).map(drop)
}

/// `config.json` of a bundle: what groups it, and what a sandbox adds to it.
///
/// # Errors
/// Whatever is wrong with it.
pub fn bundle(text: &[u8]) -> Result<(), Error> {
    let wrong = |source| Error::json("config.json", source);
    drop(serde_json::from_slice::<launch::Config>(text).map_err(wrong)?.group());
    let files = PodFiles { private_shm: true, ..PodFiles::default() };
    let with_files = |text: &[u8]| files::with_files(text, Path::new("/s"), &files).map_err(wrong);
    let Some(changed) = with_files(text)? else { return Ok(()) };
    match with_files(&changed)? {
        None => Ok(()),
        Some(_) => Err(Error::internal("a bug: a container gets the pod's files twice")),
    }
}
