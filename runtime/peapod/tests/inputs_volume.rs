//! Volumes on a real kernel. Each test has a mount namespace of its own, so nothing it mounts is seen
//! by anybody else, or left behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::sys::statvfs::statvfs;
use peapod::manifest::{self, Pod};
use peapod::volume::{self, PodPaths, VolumeError};

/// A pod's directories on a machine of the test's own.
struct Node {
    scratch: tempfile::TempDir,
    paths: PodPaths,
}

impl Node {
    fn new() -> Node {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace for the test (are you root?)");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let scratch = testkit::scratch();
        let paths = PodPaths::new(scratch.path().join("state/pods/p"), scratch.path().join("root/pods/1"));
        Node { scratch, paths }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn mounts(&self) -> Vec<String> {
        let own = self.scratch.path().to_string_lossy().into_owned();
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let places = table.lines().filter_map(|line| line.split(' ').nth(4));
        places.filter(|place| place.starts_with(&own)).map(str::to_owned).collect()
    }
}

/// What a test has mounted hides its directories from their removal.
impl Drop for Node {
    fn drop(&mut self) {
        for place in self.mounts().iter().rev() {
            let _ = umount2(place.as_str(), MntFlags::MNT_DETACH);
        }
    }
}

fn pod(volumes: &str, more: &str, mounts: &str) -> Pod {
    let text = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{volumes: [{volumes}], {more} \
         containers: [{{name: c, image: i, volumeMounts: [{mounts}]}}]}}}}"
    );
    manifest::parse("test", &text).unwrap_or_else(|error| panic!("{error}")).remove(0)
}

fn bind(from: &Path, to: &Path, flags: MsFlags) {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | flags, None::<&str>).unwrap();
}

fn tmpfs(at: &Path) {
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn volumes_come_stay_and_go() {
    let node = Node::new();
    let pod = pod(
        "{name: disk, emptyDir: {}}, {name: mem, emptyDir: {medium: Memory, sizeLimit: 3Mi}}",
        "securityContext: {fsGroup: 2000},",
        "",
    );
    let places = volume::prepare(&pod, &node.paths).unwrap();
    for name in ["disk", "mem"] {
        assert_eq!(mode(&places[name]), 0o2777, "{name}");
        assert_eq!(fs::metadata(&places[name]).unwrap().gid(), 2000, "{name}");
        fs::write(places[name].join("kept"), "x").unwrap();
    }
    assert_eq!(node.mounts().len(), 2, "the volume in memory and /dev/shm: {:?}", node.mounts());
    let memory = statvfs(&places["mem"]).unwrap();
    assert_eq!(memory.blocks() as u64 * memory.fragment_size() as u64, 3 << 20);
    let shm = statvfs(&node.paths.shm()).unwrap();
    assert_eq!(shm.blocks() as u64 * shm.fragment_size() as u64, 64 << 20);
    assert_eq!(mode(&node.paths.shm()), 0o1777);
    assert_eq!(mode(node.paths.data()) & 0o077, 0, "the node's users cannot reach it");

    assert_eq!(volume::prepare(&pod, &node.paths).unwrap(), places, "again changes nothing");
    assert_eq!(node.mounts().len(), 2);
    assert!(places["mem"].join("kept").exists());

    for _ in 0..2 {
        volume::unmount(&node.paths).unwrap();
        assert_eq!(node.mounts(), Vec::<String>::new());
        assert!(places["disk"].join("kept").exists(), "stop keeps what is on disk");
    }
    volume::prepare(&pod, &node.paths).unwrap();
    assert_eq!(mode(&places["mem"]), 0o2777, "a new tmpfs has the same rights");
    assert!(!places["mem"].join("kept").exists());
    for _ in 0..2 {
        volume::remove(&node.paths).unwrap();
        assert_eq!(node.mounts(), Vec::<String>::new());
        assert!(!node.paths.data().exists());
    }
}

#[test]
fn a_volume_in_memory_holds_no_more_than_the_containers_may() {
    let node = Node::new();
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {volumes: [{name: m, emptyDir: {medium: Memory}}], \
                containers: [{name: a, image: i, resources: {limits: {memory: 8Mi}}}, \
                {name: b, image: i, resources: {limits: {memory: 4Mi}}}]}}";
    let pod = manifest::parse("test", text).unwrap().remove(0);
    let places = volume::prepare(&pod, &node.paths).unwrap();
    let memory = statvfs(&places["m"]).unwrap();
    assert_eq!(memory.blocks() as u64 * memory.fragment_size() as u64, 12 << 20);
    volume::remove(&node.paths).unwrap();
}

#[test]
fn a_pod_in_the_nodes_ipc_namespace_gets_no_shm_of_its_own() {
    let node = Node::new();
    volume::prepare(&pod("", "hostIPC: true,", ""), &node.paths).unwrap();
    assert_eq!(node.mounts(), Vec::<String>::new());
    volume::remove(&node.paths).unwrap();
}

#[test]
fn a_failure_half_way_leaves_nothing() {
    let node = Node::new();
    fs::create_dir_all(node.paths.state()).unwrap();
    fs::write(node.paths.shm(), "in the way").unwrap();
    let pod = pod("{name: disk, emptyDir: {}}, {name: mem, emptyDir: {medium: Memory}}", "", "");
    volume::prepare(&pod, &node.paths).unwrap_err();
    assert_eq!(node.mounts(), Vec::<String>::new());
    assert_eq!(fs::read_dir(node.paths.data().join("volumes")).unwrap().count(), 0);
}

#[test]
fn host_paths_are_checked_made_and_never_removed() {
    let node = Node::new();
    let (dir, file, link, none) = (node.path("dir"), node.path("file"), node.path("link"), node.path("none"));
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("precious"), "x").unwrap();
    fs::write(&file, "x").unwrap();
    symlink(&dir, &link).unwrap();
    let check = |path: &Path, kind: &str| {
        let volume = format!("{{name: v, hostPath: {{path: {}, type: {kind}}}}}", path.display());
        volume::check(&pod(&volume, "", "")).map_err(|error| error.to_string())
    };
    for (path, kind) in [
        (&dir, "Directory"),
        (&link, "Directory"),
        (&dir, "DirectoryOrCreate"),
        (&none, "DirectoryOrCreate"),
        (&file, "File"),
        (&file, "FileOrCreate"),
        (&none, "FileOrCreate"),
        (&none, "\"\""),
        (&PathBuf::from("/dev/null"), "CharDevice"),
    ] {
        assert_eq!(check(path, kind), Ok(()), "{kind} at {}", path.display());
    }
    for (path, kind, reason) in [
        (&none, "Directory", "does not exist"),
        (&file, "Directory", "is not a directory"),
        (&file, "DirectoryOrCreate", "is not a directory"),
        (&dir, "File", "is not a file"),
        (&node.path("none/deeper"), "FileOrCreate", "its directory does not exist"),
        (&file, "Socket", "is not a socket"),
        (&file, "CharDevice", "is not a character device"),
        (&PathBuf::from("/dev/null"), "BlockDevice", "is not a block device"),
    ] {
        let error = check(path, kind).unwrap_err();
        let expected = format!("volume v: hostPath {}: {reason}", path.display());
        assert_eq!(error, expected);
    }
    assert!(!none.exists(), "checking makes nothing");
    let made = node.path("made/deep");
    let volumes = format!(
        "{{name: v, hostPath: {{path: {}}}}}, {{name: w, hostPath: {{path: {}, type: DirectoryOrCreate}}}}",
        dir.display(),
        made.display()
    );
    let places = volume::prepare(&pod(&volumes, "", ""), &node.paths).unwrap();
    assert_eq!((&places["v"], &places["w"]), (&dir, &made));
    assert_eq!(mode(&made), 0o755);
    volume::remove(&node.paths).unwrap();
    assert!(dir.join("precious").exists() && made.exists());
}

#[test]
fn removing_stops_at_what_is_mounted_in_the_way() {
    let node = Node::new();
    let precious = node.path("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "x").unwrap();
    let places = volume::prepare(&pod("{name: disk, emptyDir: {}}", "", ""), &node.paths).unwrap();
    // On the same file system: a device number would not tell.
    let place = places["disk"].join("a/b/mounted");
    fs::create_dir_all(&place).unwrap();
    bind(&precious, &place, MsFlags::empty());
    let error = volume::remove(&node.paths).unwrap_err();
    assert!(matches!(&error, VolumeError::Mounted { .. }), "{error}");
    assert!(precious.join("file").exists());
    // At whatever depth it has got to by now.
    let left = node.mounts();
    assert_eq!(left.len(), 1, "{left:?}");
    nix::mount::umount(left[0].as_str()).unwrap();
    volume::remove(&node.paths).unwrap();
    assert!(!node.paths.data().exists() && precious.join("file").exists());

    let tree = node.path("tree");
    fs::create_dir_all(tree.join("file-below")).unwrap();
    fs::write(tree.join("target"), "").unwrap();
    bind(&precious.join("file"), &tree.join("target"), MsFlags::empty());
    assert!(matches!(volume::remove_tree(&tree).unwrap_err(), VolumeError::Mounted { .. }), "a file, too");
    assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "x");
    nix::mount::umount(&tree.join("target")).unwrap();

    let top = node.path("top");
    fs::create_dir(&top).unwrap();
    bind(&precious, &top, MsFlags::empty());
    assert!(matches!(volume::remove_tree(&top).unwrap_err(), VolumeError::Mounted { .. }), "and the top itself");
    assert!(precious.join("file").exists());
    nix::mount::umount(&top).unwrap();
}

#[test]
fn links_are_removed_and_not_followed() {
    let node = Node::new();
    let precious = node.path("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "x").unwrap();
    let tree = node.path("tree");
    fs::create_dir_all(tree.join("d")).unwrap();
    symlink(&precious, tree.join("d/link")).unwrap();
    symlink(&precious, node.path("link")).unwrap();
    volume::remove_tree(&tree).unwrap();
    volume::remove_tree(&node.path("link")).unwrap();
    volume::remove_tree(&node.path("never-was/x")).unwrap();
    assert!(!tree.exists() && fs::symlink_metadata(node.path("link")).is_err());
    assert!(precious.join("file").exists());
}

#[test]
fn a_tree_deeper_than_any_path_is_removed() {
    let node = Node::new();
    let tree = node.path("tree");
    fs::create_dir(&tree).unwrap();
    let mut directory: std::os::fd::OwnedFd = fs::File::open(&tree).unwrap().into();
    for _ in 0..5000 {
        nix::sys::stat::mkdirat(&directory, "d", Mode::S_IRWXU).unwrap();
        let flags = nix::fcntl::OFlag::O_DIRECTORY;
        directory = nix::fcntl::openat(&directory, "d", flags, Mode::empty()).unwrap();
    }
    drop(directory);
    // One that a removal was cut off at.
    fs::create_dir_all(tree.join(".peapod-removing-0/x")).unwrap();
    volume::remove_tree(&tree).unwrap();
    assert!(!tree.exists());
}

/// The pod's one container, its volumes prepared.
fn container(node: &Node, pod: &Pod) -> Result<volume::ContainerFiles, VolumeError> {
    let places: BTreeMap<String, PathBuf> = volume::prepare(pod, &node.paths).unwrap();
    volume::prepare_container(&node.paths, &pod.containers[0], &places, 0)
}

#[test]
fn each_start_has_a_layer_of_its_own_and_whole_volumes_are_bound_as_they_are() {
    let node = Node::new();
    let pod = pod("{name: v, emptyDir: {}}", "", "{name: v, mountPath: /v}");
    let files = container(&node, &pod).unwrap();
    assert_eq!(files.sources, [node.paths.empty_dir("v")]);
    assert_eq!(mode(&files.upper), 0o755, "what the container sees as /");
    fs::write(files.upper.join("left"), "x").unwrap();
    let again = container(&node, &pod).unwrap();
    assert!(!again.upper.join("left").exists(), "what a start that was cut off left is gone");
    let next = volume::prepare_container(&node.paths, &pod.containers[0], &BTreeMap::new(), 1).unwrap();
    assert_ne!(next.upper, files.upper);
    for _ in 0..2 {
        volume::remove_container(&node.paths, "c", 0).unwrap();
    }
    assert!(!files.upper.exists() && next.upper.exists());
    volume::remove(&node.paths).unwrap();
}

#[test]
fn a_sub_path_is_bound_made_and_taken_away() {
    let node = Node::new();
    let pod = pod(
        "{name: v, emptyDir: {}}",
        "",
        "{name: v, mountPath: /a, subPath: made/deep}, {name: v, mountPath: /b, subPath: there}, \
         {name: v, mountPath: /c, subPath: file}, {name: v, mountPath: /d, subPath: inner-link}",
    );
    let volume = volume::prepare(&pod, &node.paths).unwrap()["v"].clone();
    fs::create_dir(volume.join("there")).unwrap();
    fs::write(volume.join("there/x"), "x").unwrap();
    fs::write(volume.join("file"), "f").unwrap();
    symlink("there", volume.join("inner-link")).unwrap();
    let files = container(&node, &pod).unwrap();
    assert_eq!(mode(&volume.join("made/deep")), 0o777, "as the volume");
    fs::write(files.sources[0].join("y"), "y").unwrap();
    assert!(volume.join("made/deep/y").exists());
    assert!(files.sources[1].join("x").exists());
    assert_eq!(fs::read_to_string(&files.sources[2]).unwrap(), "f");
    assert!(files.sources[3].join("x").exists(), "a link that stays inside is followed");
    // What a container does to the path afterwards changes nothing.
    fs::rename(volume.join("there"), volume.join("moved")).unwrap();
    symlink("/etc", volume.join("there")).unwrap();
    assert!(files.sources[1].join("x").exists());
    volume::remove_container(&node.paths, "c", 0).unwrap();
    assert_eq!(node.mounts(), [node.paths.shm().to_string_lossy().into_owned()]);
    assert!(volume.join("moved/x").exists() && volume.join("file").exists(), "the volume keeps what is in it");
    container(&node, &pod).unwrap_err();
    volume::remove(&node.paths).unwrap();
    assert_eq!(node.mounts(), Vec::<String>::new());
}

#[test]
fn a_sub_path_that_leads_out_of_its_volume_is_refused() {
    let node = Node::new();
    let pod = pod("{name: v, emptyDir: {}}", "", "{name: v, mountPath: /a, subPath: link/secret}");
    let volume = volume::prepare(&pod, &node.paths).unwrap()["v"].clone();
    let secret = node.path("secret");
    fs::create_dir(&secret).unwrap();
    fs::create_dir(secret.join("secret")).unwrap();
    let up = "../../../../../../../../../..".to_owned() + &secret.to_string_lossy();
    for target in [secret.to_string_lossy().into_owned(), up, "/proc/self/root".to_owned()] {
        symlink(&target, volume.join("link")).unwrap();
        let error = container(&node, &pod).unwrap_err().to_string();
        assert_eq!(error, "container c: subPath \"link/secret\" of volume v: leads out of the volume", "{target}");
        assert_eq!(node.mounts().len(), 1, "nothing is left but /dev/shm");
        fs::remove_file(volume.join("link")).unwrap();
    }
    assert_eq!(fs::read_dir(secret.join("secret")).unwrap().count(), 0);
    volume::remove(&node.paths).unwrap();
}

#[test]
fn what_the_node_has_mounted_in_a_host_path_stays_when_a_sub_path_of_it_goes() {
    let node = Node::new();
    let shared = node.path("shared");
    fs::create_dir(&shared).unwrap();
    tmpfs(&shared);
    mount(None::<&str>, &shared, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
    fs::create_dir_all(shared.join("sub/disk")).unwrap();
    tmpfs(&shared.join("sub/disk"));
    fs::write(shared.join("sub/disk/file"), "x").unwrap();
    let volumes = format!("{{name: v, hostPath: {{path: {}}}}}", shared.display());
    let pod = pod(&volumes, "", "{name: v, mountPath: /a, subPath: sub}");
    let files = container(&node, &pod).unwrap();
    assert!(files.sources[0].join("disk/file").exists(), "what is mounted in it is seen");
    volume::remove(&node.paths).unwrap();
    assert!(shared.join("sub/disk/file").exists(), "and still mounted");
}

#[test]
fn the_pods_files_are_readable_by_all_and_replaced_as_a_whole() {
    let node = Node::new();
    let pod = pod("", "hostname: front, dnsPolicy: None, dnsConfig: {nameservers: [10.0.0.1]},", "");
    volume::write_etc(&pod, &node.paths, &[]).unwrap();
    volume::write_etc(&pod, &node.paths, &["10.244.1.2".parse().unwrap()]).unwrap();
    let hosts = fs::read_to_string(node.paths.hosts()).unwrap();
    assert!(hosts.ends_with("10.244.1.2\tfront\n"), "{hosts}");
    assert_eq!(fs::read_to_string(node.paths.hostname()).unwrap(), "front\n");
    assert_eq!(fs::read_to_string(node.paths.resolv_conf()).unwrap(), "nameserver 10.0.0.1\n");
    assert_eq!(fs::read_dir(node.paths.hosts().parent().unwrap()).unwrap().count(), 3);
    for path in [node.paths.hosts(), node.paths.hostname(), node.paths.resolv_conf()] {
        assert_eq!(mode(&path), 0o644);
    }
    volume::remove(&node.paths).unwrap();
    assert!(!node.paths.hosts().exists());
}
