//! What `Checkpoint` is asked for, and what of it a later restore has to be asked for too.
//!
//! A `Create` with a checkpoint says no more than where the images are. So whoever wrote them leaves beside them what CRIU
//! wants to hear both times; containerd packs and unpacks the directory as a whole.

use std::path::{Path, PathBuf};

use containerd_shim_protos::api::CheckpointTaskRequest;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci;
use serde::{Deserialize, Serialize};

use super::TaskOptions;
use crate::error::Error;
use crate::record;

const CHECKPOINT: &str = "containerd.runc.v1.CheckpointOptions";
/// The name of the file beside the images.
const KEPT: &str = "pea-checkpoint.json";
/// Where CRIU writes its logs, in the bundle, if nothing else is said: what it writes beside the images becomes part of the
/// checkpoint, and containerd removes both when the checkpoint fails.
const WORK: &str = "criu";
/// `--manage-cgroups` of criu(8).
const CGROUPS_MODES: &[&str] = &["", "ignore", "soft", "full", "strict"];
/// The kinds of namespaces of which only the existence can be kept: runc's word, and CRIU's.
const EMPTY_NAMESPACES: &[(&str, &str)] = &[("network", "net")];

/// What the images of a checkpoint need when they are restored. Images without it need nothing.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Kept {
    tcp_established: bool,
    ext_unix_sk: bool,
    shell_job: bool,
    file_locks: bool,
    manage_cgroups: Option<String>,
    empty_namespace: Option<String>,
}

/// What a `Checkpoint` request asks for, of a container with these options and that bundle. Writes down beside the images
/// what a restore has to know of it.
///
/// # Errors
/// `InvalidArgument` for options of another type, or that CRIU does not know.
pub fn checkpoint_options(
    request: &CheckpointTaskRequest,
    task: &TaskOptions,
    bundle: &Path,
) -> Result<pea::CheckpointOptions, Error> {
    let asked = asked(request)?;
    let images = if request.path.is_empty() { &asked.image_path } else { &request.path };
    if images.is_empty() {
        return Err(Error::invalid("a checkpoint needs a directory for its images"));
    }
    let images = PathBuf::from(images);
    let work = (!asked.work_path.is_empty()).then(|| PathBuf::from(&asked.work_path));
    let leave_running = !asked.exit;
    let kept = Kept::of(asked)?;
    let failed = |source| Error::io(format!("make directory {}", images.display()), source);
    std::fs::create_dir_all(&images).map_err(failed)?;
    record::write(&images.join(KEPT), &kept)?;
    let mut criu = kept.options(images, task, bundle);
    criu.work = work.or(criu.work);
    Ok(pea::CheckpointOptions {
        criu,
        parent: None,
        leave_running,
        pre_dump: false,
        tcp_skip_in_flight: false,
        page_server: None,
        status_fd: None,
    })
}

/// How to restore a container with these options and that bundle from such images.
///
/// # Errors
/// When what stands beside the images cannot be read.
pub fn restore_options(images: &Path, task: &TaskOptions, bundle: &Path) -> Result<pea::RestoreOptions, Error> {
    if !images.is_dir() {
        return Err(Error::not_found(format!("the checkpoint {} is no directory", images.display())));
    }
    let kept: Kept = record::read(&images.join(KEPT))?.unwrap_or_default();
    Ok(pea::RestoreOptions::new(kept.options(images.to_owned(), task, bundle)))
}

/// The options of a checkpoint that ends the container, for a client.
pub fn checkpoint_that_exits() -> Any {
    // Field 1, `exit`, a varint: 1.
    Any { type_url: CHECKPOINT.to_owned(), value: vec![1 << 3, 1], ..Default::default() }
}

fn asked(request: &CheckpointTaskRequest) -> Result<oci::CheckpointOptions, Error> {
    let Some(any) = request.options.as_ref().filter(|any| !any.type_url.is_empty()) else {
        return Ok(oci::CheckpointOptions::default());
    };
    if any.type_url.rsplit('/').next() != Some(CHECKPOINT) {
        return Err(Error::invalid(format!("checkpoint options of type {:?} are not known", any.type_url)));
    }
    let wrong = |source| Error::invalid(format!("{CHECKPOINT}: {source}"));
    oci::CheckpointOptions::parse_from_bytes(&any.value).map_err(wrong)
}

impl Kept {
    fn of(asked: oci::CheckpointOptions) -> Result<Self, Error> {
        if !CGROUPS_MODES.contains(&asked.cgroups_mode.as_str()) {
            return Err(Error::invalid(format!("{CHECKPOINT}: CgroupsMode {:?} is not known", asked.cgroups_mode)));
        }
        let mut empty_namespace = None;
        for namespace in &asked.empty_namespaces {
            let known = EMPTY_NAMESPACES.iter().find(|(name, _)| name == namespace);
            let unknown = || Error::invalid(format!("{CHECKPOINT}: EmptyNamespaces {namespace:?} is not known"));
            empty_namespace = Some(known.ok_or_else(unknown)?.1.to_owned());
        }
        Ok(Self {
            tcp_established: asked.open_tcp,
            ext_unix_sk: asked.external_unix_sockets,
            shell_job: asked.terminal,
            file_locks: asked.file_locks,
            manage_cgroups: (!asked.cgroups_mode.is_empty()).then_some(asked.cgroups_mode),
            empty_namespace,
        })
    }

    fn options(self, images: PathBuf, task: &TaskOptions, bundle: &Path) -> pea::CriuOptions {
        let mut options = pea::CriuOptions::new(images);
        if let Some(criu) = &task.criu_path {
            options.program = criu.clone();
        }
        options.work = Some(task.criu_work.clone().unwrap_or_else(|| bundle.join(WORK)));
        options.tcp_established = self.tcp_established;
        options.ext_unix_sk = self.ext_unix_sk;
        options.shell_job = self.shell_job;
        options.file_locks = self.file_locks;
        options.manage_cgroups = self.manage_cgroups;
        options.empty_namespace = self.empty_namespace;
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(images: &Path, options: &oci::CheckpointOptions) -> CheckpointTaskRequest {
        let value = options.write_to_bytes().unwrap();
        let any = Any { type_url: CHECKPOINT.to_owned(), value, ..Default::default() };
        CheckpointTaskRequest { path: images.display().to_string(), options: Some(any).into(), ..Default::default() }
    }

    #[test]
    fn a_restore_is_asked_for_what_its_checkpoint_was() {
        let images = tempfile::tempdir().unwrap();
        let asked = oci::CheckpointOptions {
            exit: true,
            open_tcp: true,
            external_unix_sockets: true,
            terminal: true,
            file_locks: true,
            empty_namespaces: vec!["network".into()],
            cgroups_mode: "full".into(),
            work_path: "/work".into(),
            ..Default::default()
        };
        let task = TaskOptions { criu_path: Some("/opt/criu".into()), ..TaskOptions::default() };
        let bundle = Path::new("/bundle");
        let dump = checkpoint_options(&request(images.path(), &asked), &task, bundle).unwrap();
        assert!(!dump.leave_running);
        assert_eq!(dump.criu.work, Some("/work".into()));
        let restore = restore_options(images.path(), &task, bundle).unwrap().criu;
        assert_eq!(restore.work, Some("/bundle/criu".into()));
        assert_eq!((restore.images.as_path(), restore.program.as_path()), (images.path(), Path::new("/opt/criu")));
        for criu in [&dump.criu, &restore] {
            assert!(criu.tcp_established && criu.ext_unix_sk && criu.shell_job && criu.file_locks);
            assert_eq!((criu.empty_namespace.as_deref(), criu.manage_cgroups.as_deref()), (Some("net"), Some("full")));
        }
    }

    #[test]
    fn the_options_of_a_client_are_those_that_are_read() {
        let request = CheckpointTaskRequest { options: Some(checkpoint_that_exits()).into(), ..Default::default() };
        assert!(asked(&request).unwrap().exit);
    }

    #[test]
    fn images_of_another_runtime_are_restored_and_a_missing_directory_is_named() {
        let images = tempfile::tempdir().unwrap();
        let task = TaskOptions::default();
        assert!(!restore_options(images.path(), &task, Path::new("/b")).unwrap().criu.tcp_established);
        let absent = restore_options(Path::new("/no/such"), &task, Path::new("/b")).unwrap_err();
        assert!(absent.to_string().contains("/no/such"));
    }

    #[test]
    fn the_images_of_a_checkpoint_are_where_the_request_says_or_else_the_options() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let image_path = other.path().display().to_string();
        let options = oci::CheckpointOptions { image_path, ..Default::default() };
        let wish = |request: &CheckpointTaskRequest| {
            checkpoint_options(request, &TaskOptions::default(), Path::new("/bundle"))
        };
        let plain = wish(&request(one.path(), &options)).unwrap();
        assert_eq!(plain.criu.images, one.path());
        assert!(plain.leave_running && !plain.criu.tcp_established && !plain.criu.ext_unix_sk);
        assert!(!plain.criu.shell_job && !plain.criu.file_locks);
        let nowhere = CheckpointTaskRequest { path: String::new(), ..request(one.path(), &options) };
        assert_eq!(wish(&nowhere).unwrap().criu.images, other.path());
        assert!(wish(&CheckpointTaskRequest::default()).is_err());
        let unknown = Any { type_url: "example.Options".into(), ..Default::default() };
        let unknown = CheckpointTaskRequest { options: Some(unknown).into(), ..nowhere };
        assert!(wish(&unknown).is_err_and(|error| error.to_string().contains("example.Options")));
    }

    #[test]
    fn what_criu_does_not_know_is_refused_by_name() {
        let images = tempfile::tempdir().unwrap();
        let mode = oci::CheckpointOptions { cgroups_mode: "most".into(), ..Default::default() };
        let kind = oci::CheckpointOptions { empty_namespaces: vec!["pid".into()], ..Default::default() };
        for (options, name) in [(mode, "most"), (kind, "pid")] {
            let refused =
                checkpoint_options(&request(images.path(), &options), &TaskOptions::default(), Path::new("/b"));
            assert!(refused.unwrap_err().to_string().contains(name));
        }
    }
}
