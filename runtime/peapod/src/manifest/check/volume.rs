//! `spec.volumes` and `volumeMounts`.

use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1;

use super::Problems;
use crate::manifest::{HostPathType, Medium, Propagation, Volume, VolumeMount, VolumeSource, fields, names, quantity};

const HOST_PATH_TYPES: &[(&str, HostPathType)] = &[
    ("", HostPathType::Any),
    ("DirectoryOrCreate", HostPathType::DirectoryOrCreate),
    ("Directory", HostPathType::Directory),
    ("FileOrCreate", HostPathType::FileOrCreate),
    ("File", HostPathType::File),
    ("Socket", HostPathType::Socket),
    ("CharDevice", HostPathType::CharDevice),
    ("BlockDevice", HostPathType::BlockDevice),
];

const MEDIA: &[(&str, Medium)] = &[("", Medium::Disk), ("Memory", Medium::Memory)];

const PROPAGATIONS: &[(&str, Propagation)] = &[
    ("None", Propagation::None),
    ("HostToContainer", Propagation::HostToContainer),
    ("Bidirectional", Propagation::Bidirectional),
];

/// The pod's volumes.
pub(super) fn volumes(volumes: &[v1::Volume], problems: &mut Problems) -> Vec<Volume> {
    let mut read = Vec::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = format!("spec.volumes[{index}]");
        match volume.name.as_str() {
            "" => problems.add(format!("{path}.name"), "missing; every volume needs a name"),
            name => problems.check(&format!("{path}.name"), names::label(name)),
        }
        // A volume without a source is an emptyDir in Kubernetes, too.
        let source = match (&volume.host_path, &volume.empty_dir) {
            (Some(_), Some(_)) => {
                problems.add(&path, "has two sources; a volume is either emptyDir or hostPath");
                continue;
            }
            (Some(host_path), None) => self::host_path(&format!("{path}.hostPath"), host_path, problems),
            (None, Some(empty)) => empty_dir(&format!("{path}.emptyDir"), empty, problems),
            (None, None) => VolumeSource::EmptyDir { medium: Medium::Disk, size_limit: None },
        };
        read.push(Volume { name: volume.name.clone(), source });
    }
    let names = volumes.iter().enumerate().map(|(index, volume)| (format!("spec.volumes[{index}].name"), &volume.name));
    problems.unique(names.filter(|(_, name)| !name.is_empty()), |name| format!("a volume is named {name:?} already"));
    read
}

fn empty_dir(path: &str, source: &v1::EmptyDirVolumeSource, problems: &mut Problems) -> VolumeSource {
    let medium = source.medium.as_deref();
    let medium = match medium.filter(|medium| medium.starts_with("HugePages")) {
        Some(_) => {
            problems.add(format!("{path}.medium"), "HugePages are not supported yet; use Memory");
            Medium::Memory
        }
        None => problems.word(&format!("{path}.medium"), medium, MEDIA),
    };
    let limit = source.size_limit.as_ref().map(|limit| quantity::bytes(&limit.0));
    let limit = limit.and_then(|limit| problems.take(&format!("{path}.sizeLimit"), limit));
    // No limit is what 0 means to Kubernetes as well.
    VolumeSource::EmptyDir { medium, size_limit: limit.filter(|limit| *limit > 0) }
}

fn host_path(path: &str, source: &v1::HostPathVolumeSource, problems: &mut Problems) -> VolumeSource {
    let kind = problems.word(&format!("{path}.type"), source.type_.as_deref(), HOST_PATH_TYPES);
    let on_node = PathBuf::from(&source.path);
    if !on_node.is_absolute() {
        problems.add(format!("{path}.path"), format!("{:?} is not an absolute path", source.path));
    } else if leaves(&on_node) {
        problems.add(format!("{path}.path"), format!("{:?} may not contain \"..\"", source.path));
    }
    VolumeSource::HostPath { path: on_node, kind }
}

fn leaves(path: &Path) -> bool {
    path.components().any(|part| part == Component::ParentDir)
}

/// The mounts of one container, at `path`.
pub(super) fn mounts(
    path: &str,
    container: &v1::Container,
    volumes: &[Volume],
    problems: &mut Problems,
) -> Vec<VolumeMount> {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let read: Vec<_> = mounts
        .iter()
        .enumerate()
        .map(|(index, mount)| convert(&format!("{path}.volumeMounts[{index}]"), mount, volumes, problems))
        .collect();
    let places = read.iter().enumerate();
    problems.unique(
        places.map(|(index, mount)| (format!("{path}.volumeMounts[{index}].mountPath"), mount.mount_path.clone())),
        |place| format!("{place:?} has a volume already"),
    );
    read
}

fn convert(path: &str, mount: &v1::VolumeMount, volumes: &[Volume], problems: &mut Problems) -> VolumeMount {
    if !volumes.iter().any(|volume| volume.name == mount.name) {
        let hint = fields::closest(&mount.name, volumes.iter().map(|volume| volume.name.as_str()));
        let hint = hint.map_or_else(String::new, |name| format!("; did you mean {name:?}?"));
        problems.add(format!("{path}.name"), format!("no volume is named {:?} in spec.volumes{hint}", mount.name));
    }
    let mount_path = problems.take(&format!("{path}.mountPath"), self::mount_path(&mount.mount_path));
    let sub_path = mount.sub_path.clone().filter(|sub_path| !sub_path.is_empty());
    if let Some(sub_path) = &sub_path {
        let inside = Path::new(sub_path).is_relative() && !leaves(Path::new(sub_path));
        let result = if inside { Ok(()) } else { Err(format!("{sub_path:?} is not a relative path without \"..\"")) };
        problems.check(&format!("{path}.subPath"), result);
    }
    let propagation = mount.mount_propagation.as_deref();
    VolumeMount {
        volume: mount.name.clone(),
        mount_path: mount_path.unwrap_or_else(|| mount.mount_path.clone()),
        sub_path,
        read_only: mount.read_only.unwrap_or_default(),
        propagation: problems.word(&format!("{path}.mountPropagation"), propagation, PROPAGATIONS),
    }
}

/// A path in the container, without what does not change its meaning (`/a//b/` is `/a/b`).
fn mount_path(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("missing; say where in the container the volume is to be seen".to_owned());
    }
    let path = Path::new(text);
    let whole: PathBuf = path.components().collect();
    match whole.to_str() {
        _ if !path.is_absolute() => Err(format!("{text:?} is not an absolute path")),
        _ if text.contains(':') => Err(format!("{text:?} may not contain ':'")),
        _ if leaves(path) => Err(format!("{text:?} may not contain \"..\"")),
        Some("/") | None => Err("a volume cannot take the place of the root file system".to_owned()),
        Some(whole) => Ok(whole.to_owned()),
    }
}
