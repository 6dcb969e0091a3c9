//! Reading and checking a Kubernetes v1 `Pod` manifest.
//!
//! One way through: bytes → plain values (`document`) → the Kubernetes API's own types, strictly
//! ([`strict`], with the table of what is served in [`fields`]) → what the other rooms work with
//! ([`Pod`], made and checked by `check`). Nothing on the node is touched, so a manifest that is
//! refused leaves nothing behind.

mod check;
mod document;
mod error;
mod fields;
mod names;
mod pod;
mod quantity;
mod strict;

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use k8s_openapi::api::core::v1;
use serde_json::Value;

pub use error::{ManifestError, Problem};
pub use pod::{
    Capabilities, Container, Dns, DnsOption, DnsPolicy, HostAlias, HostPathType, Medium, Pod, Port, Propagation,
    Protocol, Resources, RestartPolicy, Security, Volume, VolumeMount, VolumeSource,
};

/// Checks what somebody calls a pod.
///
/// # Errors
///
/// What is wrong with the name.
pub fn check_name(name: &str) -> Result<(), String> {
    names::subdomain(name)
}

/// Checks what somebody calls a namespace.
///
/// # Errors
///
/// What is wrong with the name.
pub fn check_namespace(name: &str) -> Result<(), String> {
    names::label(name)
}

/// Reads the pods of a manifest: YAML, with any number of documents, or JSON. `-` is standard input.
///
/// # Errors
///
/// One error that names the file and, line by line, every field that is wrong and why.
pub fn load(path: &Path) -> Result<Vec<Pod>, ManifestError> {
    let stdin = path == Path::new("-");
    let file = if stdin { "standard input".to_owned() } else { path.display().to_string() };
    let mut bytes = Vec::new();
    let read =
        if stdin { io::stdin().read_to_end(&mut bytes).map(drop) } else { fs::read(path).map(|all| bytes = all) };
    read.map_err(|source| ManifestError::Read { file: file.clone(), source })?;
    match String::from_utf8(bytes) {
        Ok(text) => parse(&file, &text),
        Err(_) => Err(ManifestError::Syntax { file, reason: "the manifest is not UTF-8 text".to_owned() }),
    }
}

/// Reads the pods of a manifest's text; `file` is what its errors call it.
///
/// # Errors
///
/// As [`load`].
pub fn parse(file: &str, text: &str) -> Result<Vec<Pod>, ManifestError> {
    let documents = document::parse(text).map_err(|reason| ManifestError::Syntax { file: file.to_owned(), reason })?;
    if documents.is_empty() {
        return Err(ManifestError::Empty { file: file.to_owned() });
    }
    let many = documents.len() > 1;
    let mut pods: Vec<Pod> = Vec::new();
    for (index, document) in documents.iter().enumerate() {
        let file = if many { format!("{file} (document {})", index + 1) } else { file.to_owned() };
        let pod = pod(document).map_err(|problems| ManifestError::Invalid { file: file.clone(), problems })?;
        if pods.iter().any(|other| (&other.namespace, &other.name) == (&pod.namespace, &pod.name)) {
            let reason = format!("{:?} is the name of an earlier document's pod already", pod.name);
            return Err(ManifestError::Invalid { file, problems: vec![Problem::new("metadata.name", reason)] });
        }
        pods.push(pod);
    }
    Ok(pods)
}

/// One document, step by step: is it a Pod, are its fields known, do they make sense.
fn pod(document: &Value) -> Result<Pod, Vec<Problem>> {
    kind(document).map_err(|problem| vec![problem])?;
    check::pod(strict::read::<v1::Pod>(document)?)
}

/// Only a Pod can be run; what another kind would have to do is said where that is known.
fn kind(document: &Value) -> Result<(), Problem> {
    let word = |field: &str| document.get(field).and_then(Value::as_str);
    if !document.is_object() {
        return Err(Problem::new("", "a Pod (apiVersion: v1, kind: Pod) is expected"));
    }
    match word("kind") {
        Some("Pod") => {}
        Some("List") => return Err(Problem::new("kind", "\"List\" is not supported; write one document for each Pod")),
        Some(kind) => {
            let hint =
                "; only \"Pod\" can be run here, and a controller's spec.template is one (without the controller)";
            let hint =
                if document.pointer("/spec/template").is_some() { hint } else { "; only \"Pod\" can be run here" };
            return Err(Problem::new("kind", format!("{kind:?} is not supported{hint}")));
        }
        None => return Err(Problem::new("kind", "missing; it has to be Pod")),
    }
    match word("apiVersion") {
        Some("v1") => Ok(()),
        Some(version) => Err(Problem::new("apiVersion", format!("{version:?} has no Pod; it has to be v1"))),
        None => Err(Problem::new("apiVersion", "missing; it has to be v1")),
    }
}
