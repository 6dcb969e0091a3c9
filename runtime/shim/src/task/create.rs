//! `Create`: from a bundle to a container whose program waits for its start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task as event;
use containerd_shim_protos::protobuf::MessageField;

use super::build::{Surroundings, build};
use super::container::Container;
use super::process::{Phase, Process};
use super::restore;
use crate::aside::aside;
use crate::error::Error;
use crate::events::Event;
use crate::options::TaskOptions;
use crate::pod::Pod;
use crate::stdio::Stdio;
use crate::{log, mount, record, sandbox, wire};

/// `.json` after it must fit into the 255 bytes of a file's name (NAME_MAX).
const LONGEST_ID: usize = 250;

/// Creates a container. What fails half-way is undone.
pub async fn create(pod: &Pod, request: CreateTaskRequest) -> Result<i32, Error> {
    let container = Arc::new(plan(pod, &request)?);
    pod.add(container.clone())?;
    match apply(pod, &container, &request).await {
        Ok(pid) => Ok(pid),
        Err(error) => {
            if let Err(left) = aside(pod, || container.remove()).await {
                log::error(format!("undo the creation of container {}: {left}", container.id));
            }
            container.init.ended(crate::reap::Exit::now(255));
            pod.forget(&container.id);
            Err(error)
        }
    }
}

/// All that the request says, checked.
fn plan(pod: &Pod, request: &CreateTaskRequest) -> Result<Container, Error> {
    check_id(&request.id)?;
    check_bundle(Path::new(&request.bundle))?;
    let options = TaskOptions::from_any(request.options.as_ref())?;
    let home = pod.home_of_tasks(&options);
    let bundle = PathBuf::from(&request.bundle);
    let systemd_cgroup = match home.systemd_cgroup {
        Some(said) => said,
        None => names_a_unit(&bundle),
    };
    let record = record::Task { bundle, pea_root: home.pea_root, systemd_cgroup };
    // Another shim's (of another daemon, say, with a namespace of the same name) is not ours to undo.
    if record.runtime().state(&request.id).is_ok() {
        let root = record.pea_root.display();
        return Err(Error::exists(format!("container {} exists already in {root}", request.id)));
    }
    // The shim's own task needs none: who clears up after the shim has its bundle.
    let elsewhere = pod.bundle() != record.bundle;
    let in_pod = elsewhere.then(|| record::task_in_pod(pod.bundle(), &request.id));
    let images = Some(&request.checkpoint).filter(|path| !path.is_empty()).map(PathBuf::from);
    let images = images.or_else(|| options.criu_images.clone());
    let init = Process::new(&request.id, "", Stdio::from(request));
    Ok(Container::new(init, record, in_pod, options).restored_from(images))
}

/// Whether `cgroupsPath` is in systemd's spelling, `slice:prefix:name`. Whoever writes it so wants a scope; but not all can
/// say so, for containerd 1.6, containerd 2.1.9 with sandboxes of the shim's, and nerdctl hand no options on to a runtime
/// of this name. (runc makes a cgroup by that very name then, which nobody looks for.)
fn names_a_unit(bundle: &Path) -> bool {
    #[derive(serde::Deserialize)]
    struct Config {
        linux: Option<Linux>,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Linux {
        cgroups_path: Option<String>,
    }
    // What is wrong with the file, pea says.
    let config: Option<Config> = record::read(&bundle.join("config.json")).unwrap_or_default();
    let path = config.and_then(|config| config.linux?.cgroups_path);
    path.is_some_and(|path| is_a_unit(&path))
}

fn is_a_unit(path: &str) -> bool {
    let parts: Vec<&str> = path.split(':').collect();
    matches!(parts[..], [slice, _, name] if slice.ends_with(".slice") && !slice.contains('/') && !name.is_empty())
}

async fn apply(pod: &Pod, container: &Arc<Container>, request: &CreateTaskRequest) -> Result<i32, Error> {
    container.write_records()?;
    let (bundle, options) = (&container.record.bundle, &container.options);
    mount::mount_all(&request.rootfs, &bundle.join("rootfs"))?;
    let config = configuration(pod, container)?;
    if let Some(images) = &container.checkpoint {
        restore::check(container, images)?;
        container.init.enter(Phase::Created)?;
        pod.events.publish(&Event::Create(created(container, request, 0)));
        return Ok(0);
    }
    let node = pod.copy_of_node()?;
    let child = build(&container.init, Surroundings::of(pod, container), |ends, console_socket| {
        let create = pea::CreateOptions {
            stdin: ends.stdin,
            stdout: ends.stdout,
            stderr: ends.stderr,
            console_socket,
            no_pivot: options.no_pivot,
            no_new_keyring: options.no_new_keyring,
            config,
            runtime_namespaces: node,
            ..Default::default()
        };
        container.runtime.create(&container.id, bundle, create)
    })
    .await?;
    // Before anything of the container's own runs. What happens until the event below is told after it: nothing waits. For
    // want of what it takes (a descriptor) no container is refused.
    container.watch_oom(&pod.ooms).unwrap_or_else(log::error);
    container.init.enter(Phase::Created)?;
    pod.events.publish(&Event::Create(created(container, request, child.pid)));
    super::watch(pod.clone(), container.clone(), container.init.clone(), child.clone());
    Ok(child.pid)
}

/// The configuration to use instead of the bundle's, where the sandbox has something to add.
pub fn configuration(pod: &Pod, container: &Container) -> Result<Option<PathBuf>, Error> {
    let sandbox = pod.sandbox();
    let files = sandbox.as_ref().and_then(|sandbox| sandbox.options.files.as_ref());
    files.map_or(Ok(None), |files| sandbox::files::configuration(pod.bundle(), files, &container.record.bundle))
}

fn created(container: &Container, request: &CreateTaskRequest, pid: i32) -> event::TaskCreate {
    let io = event::TaskIO {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
        ..Default::default()
    };
    event::TaskCreate {
        container_id: container.id.clone(),
        bundle: request.bundle.clone(),
        rootfs: request.rootfs.clone(),
        io: MessageField::some(io),
        checkpoint: request.checkpoint.clone(),
        pid: wire::pid(Some(pid)),
        ..Default::default()
    }
}

/// The id becomes part of paths.
fn check_id(id: &str) -> Result<(), Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte);
    if id.is_empty() || id.starts_with('.') || !id.bytes().all(allowed) {
        return Err(Error::invalid(format!("{id:?} is no container id: letters, digits and _ . + - make one")));
    }
    if id.len() > LONGEST_ID {
        return Err(Error::invalid(format!("container id {id:?} is longer than {LONGEST_ID} bytes")));
    }
    Ok(())
}

/// The shim's working directory is the root: a relative path would make a bundle of that.
fn check_bundle(bundle: &Path) -> Result<(), Error> {
    let name = bundle.display();
    if !bundle.is_absolute() {
        return Err(Error::invalid(format!("bundle {bundle:?} is not an absolute path")));
    }
    match std::fs::metadata(bundle) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Error::invalid(format!("bundle {name} is not a directory"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::not_found(format!("bundle {name} does not exist")))
        }
        Err(error) => Err(Error::io(format!("look at bundle {name}"), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_systemds_spelling_of_a_cgroup_is_taken_for_it() {
        for path in ["system.slice:nerdctl:x", "kubepods-burstable-pod1.slice:cri-containerd:x", "-.slice::x"] {
            assert!(is_a_unit(path), "{path}");
        }
        for path in ["", "/a.slice/x", "/k8s.io/x", "a:b:c", "a.slice:b:", "/a.slice:b:c", "a.slice:b:c:d", "a.slice"] {
            assert!(!is_a_unit(path), "{path}");
        }
    }
}
