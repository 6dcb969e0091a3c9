//! The specification as JSON, without root and without an image on disk but where accounts are read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::manifest;

fn image(config: Value, layers: Vec<PathBuf>) -> Image {
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": config, "rootfs": {"type": "layers", "diff_ids": []},
    });
    Image {
        reference: "localhost/test:latest".to_owned(),
        digest: format!("sha256:{}", "0".repeat(64)),
        config: serde_json::from_value(config).unwrap(),
        layers,
    }
}

fn pod(spec: Value) -> Pod {
    let manifest = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": spec});
    manifest::parse("test", &manifest.to_string()).unwrap_or_else(|error| panic!("{error}")).remove(0)
}

fn one(container: Value) -> Pod {
    let mut whole = json!({"name": "c", "image": "i"});
    whole.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    pod(json!({"containers": [whole], "volumes": [{"name": "v"}, {"name": "w"}]}))
}

fn node() -> Node {
    Node {
        cgroup_v2: false,
        swap_accounting: true,
        memory: 1 << 30,
        lowest_oom_score_adj: None,
        capabilities: (1 << 41) - 1,
        devices: Vec::new(),
    }
}

fn facts() -> PodFacts {
    PodFacts {
        uid: "1234".to_owned(),
        sandbox_pid: 42,
        cgroup_parent: "/peapod/1234".to_owned(),
        hosts: "/run/p/etc/hosts".into(),
        hostname: "/run/p/etc/hostname".into(),
        resolv_conf: "/run/p/etc/resolv.conf".into(),
        shm: "/run/p/shm".into(),
        volumes: BTreeMap::new(),
        node: node(),
    }
}

fn files(sources: &[&str]) -> ContainerFiles {
    ContainerFiles {
        attempt: 3,
        upper: "/d/upper".into(),
        work: "/d/work".into(),
        sources: sources.iter().map(PathBuf::from).collect(),
    }
}

fn build(pod: &Pod, image: &Image, facts: &PodFacts) -> Result<Value, ContainerError> {
    let files = files(&["/vol/v", "/vol/w"]);
    spec(pod, &pod.containers[0], image, facts, &files).map(|spec| serde_json::to_value(spec).unwrap())
}

/// The specification of the one container, on an image that runs `/init serve`.
fn of(container: Value) -> Value {
    build(&one(container), &image(json!({"Entrypoint": ["/init"], "Cmd": ["serve"]}), vec![]), &facts()).unwrap()
}

fn mount(spec: &Value, destination: &str) -> Value {
    let mounts = spec["mounts"].as_array().unwrap();
    let found: Vec<_> = mounts.iter().filter(|mount| mount["destination"] == destination).collect();
    assert!(found.len() <= 1, "{destination} is mounted twice");
    found.first().map_or(Value::Null, |mount| (*mount).clone())
}

#[test]
fn command_and_args_take_the_place_of_the_images() {
    let args = |container: Value| of(container)["process"]["args"].clone();
    assert_eq!(args(json!({})), json!(["/init", "serve"]));
    assert_eq!(args(json!({"args": ["x"]})), json!(["/init", "x"]));
    assert_eq!(args(json!({"command": ["/run"]})), json!(["/run"]), "the image's arguments are not used");
    assert_eq!(args(json!({"command": ["/run"], "args": ["x"]})), json!(["/run", "x"]));
    let env = json!([{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"}, {"name": "C", "value": "$(D)"}]);
    assert_eq!(
        args(json!({"command": ["$(A)", "$(B)", "$(C)", "$(PATH)"], "env": env})),
        json!(["1", "12", "$(D)", "$(PATH)"]),
        "only the manifest's own variables are known, those before"
    );
    let error = build(&one(json!({})), &image(json!({}), vec![]), &facts()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "container c: image localhost/test:latest names no command; set the container's command"
    );
}

#[test]
fn the_environment_is_in_order_and_each_name_is_there_once() {
    let env = |config: Value, container: Value| {
        let spec = build(&one(container), &image(config, vec![]), &facts()).unwrap();
        spec["process"]["env"].clone()
    };
    let path = format!("PATH={}", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    assert_eq!(env(json!({"Cmd": ["x"]}), json!({})), json!([path, "HOSTNAME=web"]));
    let container = json!({"tty": true, "env": [
        {"name": "Z", "value": "z"}, {"name": "A", "value": "mine"}, {"name": "Z", "value": "again"}, {"name": "N"},
    ]});
    assert_eq!(
        env(json!({"Cmd": ["x"], "Env": ["A=image", "PATH=/bin", "E=a=b"]}), container),
        json!(["PATH=/bin", "HOSTNAME=web", "TERM=xterm", "A=mine", "E=a=b", "Z=again", "N="])
    );
}

#[test]
fn the_working_directory_is_the_manifests_then_the_images() {
    let cwd = |config: Value, container: Value| {
        build(&one(container), &image(config, vec![]), &facts()).unwrap()["process"]["cwd"].clone()
    };
    assert_eq!(cwd(json!({"Cmd": ["x"], "WorkingDir": "/i"}), json!({"workingDir": "/m"})), "/m");
    assert_eq!(cwd(json!({"Cmd": ["x"], "WorkingDir": "/i"}), json!({})), "/i");
    assert_eq!(cwd(json!({"Cmd": ["x"], "WorkingDir": ""}), json!({})), "/");
}

fn write(layer: &Path, name: &str, text: &str) {
    fs::create_dir_all(layer.join("etc")).unwrap();
    fs::write(layer.join("etc").join(name), text).unwrap();
}

#[test]
fn users_are_looked_up_in_the_topmost_layer_that_has_them() {
    let scratch = tempfile::tempdir().unwrap();
    let (top, empty, bottom) =
        (scratch.path().join("top"), scratch.path().join("empty"), scratch.path().join("bottom"));
    fs::create_dir_all(&empty).unwrap();
    write(&bottom, "passwd", "root:x:0:0::/:/bin/sh\nold:x:7:7::/:\n");
    write(&bottom, "group", "root:x:0:\nstaff:x:50:app,other\naudio:x:29:app\n");
    write(&top, "passwd", "# comment\nroot:x:0:0::/:\napp:x:1000:100:An app:/:\n99:x:1001:1::/:\n");
    let user = |user: &str, security: Value| {
        let image = image(json!({"Cmd": ["x"], "User": user}), vec![top.clone(), empty.clone(), bottom.clone()]);
        build(&one(json!({"securityContext": security})), &image, &facts()).map(|spec| spec["process"]["user"].clone())
    };
    let ids = |uid: u32, gid: u32, groups: &[u32]| json!({"uid": uid, "gid": gid, "additionalGids": groups});
    assert_eq!(user("", json!({})).unwrap(), ids(0, 0, &[0]));
    assert_eq!(user("app", json!({})).unwrap(), ids(1000, 100, &[29, 50, 100]));
    assert_eq!(user("1000", json!({})).unwrap(), ids(1000, 100, &[29, 50, 100]), "the account of a number");
    assert_eq!(user("app:staff", json!({})).unwrap(), ids(1000, 50, &[29, 50]));
    assert_eq!(user("5:6", json!({})).unwrap(), ids(5, 6, &[6]));
    assert_eq!(user("99", json!({})).unwrap(), ids(1001, 1, &[1]), "a name that looks like a number is a name");
    assert_eq!(user("app:staff", json!({"runAsUser": 5})).unwrap(), ids(5, 0, &[0]), "the image's group goes too");
    assert_eq!(user("app", json!({"runAsGroup": 8})).unwrap(), ids(1000, 8, &[8, 29, 50]));
    assert_eq!(user("", json!({"runAsUser": 1000})).unwrap(), ids(1000, 100, &[29, 50, 100]));
    let error = user("old", json!({})).unwrap_err().to_string();
    assert!(error.contains("no user \"old\" in /etc/passwd") && error.contains("runAsUser"), "{error}");
    let error = user("app:none", json!({})).unwrap_err().to_string();
    assert!(error.contains("no group \"none\" in /etc/group"), "{error}");
    assert!(user("", json!({"runAsNonRoot": true})).unwrap_err().to_string().contains("runs as root"));
    assert!(user("app", json!({"runAsNonRoot": true})).is_ok());
}

#[test]
fn accounts_are_never_read_through_a_link() {
    let scratch = tempfile::tempdir().unwrap();
    let layer = scratch.path().join("layer");
    fs::create_dir_all(layer.join("etc")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", layer.join("etc/passwd")).unwrap();
    let outside = image(json!({"Cmd": ["x"], "User": "daemon"}), vec![layer]);
    assert!(build(&one(json!({})), &outside, &facts()).is_err(), "the node's daemon is not the image's");
    let layer = scratch.path().join("linked");
    fs::create_dir_all(&layer).unwrap();
    std::os::unix::fs::symlink("/etc", layer.join("etc")).unwrap();
    let outside = image(json!({"Cmd": ["x"], "User": "daemon"}), vec![layer]);
    assert!(build(&one(json!({})), &outside, &facts()).is_err(), "not even through the directory");
}

#[test]
fn capabilities_are_the_default_ones_with_what_is_added_and_dropped() {
    let bounding = |security: Value| {
        let spec = of(json!({"securityContext": security}));
        let sets = &spec["process"]["capabilities"];
        assert_eq!(sets["effective"], sets["bounding"]);
        assert_eq!(sets.get("ambient").and_then(Value::as_array).map_or(0, Vec::len), 0);
        assert_eq!(sets.get("inheritable").and_then(Value::as_array).map_or(0, Vec::len), 0);
        let mut names: Vec<_> =
            sets["bounding"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(bounding(json!({})).len(), 14);
    assert_eq!(bounding(json!({"capabilities": {"drop": ["ALL"]}})), Vec::<String>::new());
    assert_eq!(
        bounding(json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}})),
        ["CAP_NET_BIND_SERVICE"]
    );
    let all = bounding(json!({"capabilities": {"add": ["ALL"]}}));
    assert_eq!(all.len(), 41);
    assert_eq!(bounding(json!({"privileged": true})), all);
    let without = bounding(json!({"capabilities": {"add": ["SYS_TIME"], "drop": ["NET_RAW"]}}));
    assert!(without.contains(&"CAP_SYS_TIME".to_owned()) && !without.contains(&"CAP_NET_RAW".to_owned()));
}

#[test]
fn all_capabilities_are_those_the_node_has_itself() {
    // CAP_SYS_RESOURCE is number 24, CAP_SYS_ADMIN 21.
    let node = Node { capabilities: !(1 << 24), ..node() };
    let facts = PodFacts { node, ..facts() };
    let image = image(json!({"Cmd": ["x"]}), vec![]);
    for security in [json!({"privileged": true}), json!({"capabilities": {"add": ["ALL"]}})] {
        let spec = build(&one(json!({"securityContext": security})), &image, &facts).unwrap();
        let bounding = spec["process"]["capabilities"]["bounding"].as_array().unwrap().clone();
        assert!(
            bounding.contains(&json!("CAP_SYS_ADMIN")) && !bounding.contains(&json!("CAP_SYS_RESOURCE")),
            "{bounding:?}"
        );
    }
}

#[test]
fn escalation_and_the_root_file_system_are_as_asked_for() {
    let spec = of(json!({}));
    assert_eq!(spec["process"]["noNewPrivileges"], false);
    assert_eq!(spec["root"], json!({"path": "rootfs", "readonly": false}));
    let spec = of(json!({"securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true}}));
    assert_eq!(spec["process"]["noNewPrivileges"], true);
    assert_eq!(spec["root"]["readonly"], true);
    assert_eq!(mount(&spec, "/etc/hosts")["options"], json!(["rbind", "rprivate", "ro"]));
    assert_eq!(mount(&spec, "/dev/shm")["options"], json!(["rbind", "rprivate", "rw"]));
}

#[test]
fn a_privileged_container_sees_everything() {
    let plain = of(json!({}));
    assert!(plain["linux"]["maskedPaths"].as_array().unwrap().contains(&json!("/proc/kcore")));
    assert!(plain["linux"]["readonlyPaths"].as_array().unwrap().contains(&json!("/proc/sys")));
    assert_eq!(plain["linux"]["resources"]["devices"], json!([{"allow": false, "access": "rwm"}]));
    assert_eq!(plain["linux"].get("devices"), None);
    assert!(mount(&plain, "/sys")["options"].as_array().unwrap().contains(&json!("ro")));
    let mut facts = facts();
    facts.node = Node { devices: Node::detect().unwrap().devices, ..facts.node };
    let image = image(json!({"Cmd": ["x"]}), vec![]);
    let spec = build(&one(json!({"securityContext": {"privileged": true}})), &image, &facts).unwrap();
    assert_eq!(spec["linux"].get("maskedPaths").and_then(Value::as_array).map_or(0, Vec::len), 0);
    assert_eq!(spec["linux"].get("readonlyPaths").and_then(Value::as_array).map_or(0, Vec::len), 0);
    assert_eq!(spec["linux"]["resources"]["devices"], json!([{"allow": true, "access": "rwm"}]));
    let devices = spec["linux"]["devices"].as_array().unwrap();
    let null = devices.iter().find(|device| device["path"] == "/dev/null").expect("/dev/null");
    assert_eq!((&null["type"], &null["major"], &null["minor"]), (&json!("c"), &json!(1), &json!(3)));
    assert_eq!(null["fileMode"], 0o666);
    assert!(!devices.iter().any(|device| device["path"].as_str().unwrap().starts_with("/dev/pts/")));
    assert!(mount(&spec, "/sys")["options"].as_array().unwrap().contains(&json!("rw")));
}

#[test]
fn limits_reach_the_cgroups() {
    let resources = |resources: Value| of(json!({"resources": resources}))["linux"]["resources"].clone();
    let limited = resources(json!({"limits": {"cpu": "500m", "memory": "32Mi"}, "requests": {"cpu": "250m"}}));
    assert_eq!(limited["cpu"], json!({"shares": 256, "quota": 50_000, "period": 100_000}));
    assert_eq!(limited["memory"]["limit"], 32 << 20);
    assert_eq!(limited["memory"]["swap"], 32 << 20, "no swap");
    let free = resources(json!({}));
    assert_eq!(free["cpu"], json!({"shares": 2}));
    assert_eq!(free["memory"].get("limit"), None);
    assert_eq!(resources(json!({"limits": {"cpu": "1m"}}))["cpu"]["quota"], 1000, "the least the kernel takes");
    assert_eq!(of(json!({}))["linux"]["cgroupsPath"], "/peapod/1234/c-3");
    let mut facts = facts();
    facts.node.swap_accounting = false;
    let pod = one(json!({"resources": {"limits": {"memory": "32Mi"}}}));
    let spec = build(&pod, &image(json!({"Cmd": ["x"]}), vec![]), &facts).unwrap();
    assert_eq!(spec["linux"]["resources"]["memory"].get("swap"), None);
}

#[test]
fn the_class_of_service_decides_who_is_killed_first() {
    let score = |resources: Value, lowest: Option<i32>| {
        let mut facts = facts();
        facts.node.lowest_oom_score_adj = lowest;
        let pod = one(json!({"resources": resources}));
        build(&pod, &image(json!({"Cmd": ["x"]}), vec![]), &facts).unwrap()["process"]["oomScoreAdj"].clone()
    };
    let guaranteed = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    assert_eq!(score(guaranteed.clone(), None), -997);
    assert_eq!(score(guaranteed, Some(0)), 0, "not below our own without the capability");
    assert_eq!(score(json!({}), None), 1000);
    assert_eq!(score(json!({"requests": {"memory": "256Mi"}}), None), 750);
    assert_eq!(score(json!({"requests": {"cpu": "1"}}), None), 999);
    assert_eq!(score(json!({"requests": {"memory": "64Gi"}}), None), 3);
}

#[test]
fn the_pods_namespaces_are_joined_and_the_containers_own_are_made() {
    let namespaces = |fields: Value, v2: bool, privileged: bool| {
        let container = json!({"name": "c", "image": "i", "securityContext": {"privileged": privileged}});
        let mut spec = json!({"containers": [container]});
        spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let mut facts = facts();
        facts.node.cgroup_v2 = v2;
        let spec = build(&pod(spec), &image(json!({"Cmd": ["x"]}), vec![]), &facts).unwrap();
        assert_eq!(spec.get("hostname"), None, "the host name is the sandbox's business");
        let list = spec["linux"]["namespaces"].as_array().unwrap().clone();
        let text = |value: &Value| value.as_str().unwrap_or("new").to_owned();
        list.iter().map(|one| format!("{} {}", text(&one["type"]), text(&one["path"]))).collect::<Vec<_>>().join(", ")
    };
    let plain = "mount new, pid new, ipc /proc/42/ns/ipc, uts /proc/42/ns/uts, network /proc/42/ns/net";
    assert_eq!(namespaces(json!({}), false, false), plain);
    assert_eq!(namespaces(json!({}), true, false), format!("{plain}, cgroup new"));
    assert_eq!(namespaces(json!({}), true, true), plain);
    assert_eq!(
        namespaces(json!({"shareProcessNamespace": true, "hostIPC": true}), false, false),
        "mount new, pid /proc/42/ns/pid, uts /proc/42/ns/uts, network /proc/42/ns/net"
    );
    assert_eq!(
        namespaces(json!({"hostNetwork": true, "hostPID": true}), false, false),
        "mount new, ipc /proc/42/ns/ipc"
    );
}

#[test]
fn volumes_come_after_what_they_lie_in() {
    let spec = of(json!({"volumeMounts": [
        {"name": "v", "mountPath": "/data/inner", "readOnly": true},
        {"name": "w", "mountPath": "/data", "mountPropagation": "HostToContainer"},
    ]}));
    let order: Vec<_> =
        spec["mounts"].as_array().unwrap().iter().map(|mount| mount["destination"].as_str().unwrap()).collect();
    assert_eq!(
        order,
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/dev/mqueue",
            "/sys",
            "/sys/fs/cgroup",
            "/dev/shm",
            "/etc/hosts",
            "/etc/hostname",
            "/etc/resolv.conf",
            "/data",
            "/data/inner",
        ]
    );
    assert_eq!(mount(&spec, "/data/inner")["source"], "/vol/v", "the source stays with its mount");
    assert_eq!(mount(&spec, "/data/inner")["options"], json!(["rbind", "rprivate", "ro"]));
    assert_eq!(mount(&spec, "/data")["options"], json!(["rbind", "rslave", "rw"]));
    assert_eq!(spec["linux"]["rootfsPropagation"], "rslave");
    assert_eq!(of(json!({}))["linux"]["rootfsPropagation"], "rprivate");
}

#[test]
fn a_volume_takes_the_place_of_the_pods_own_files() {
    let spec = of(json!({"volumeMounts": [
        {"name": "v", "mountPath": "/dev/shm"}, {"name": "w", "mountPath": "/etc/hosts"},
    ]}));
    assert_eq!(mount(&spec, "/dev/shm")["source"], "/vol/v");
    assert_eq!(mount(&spec, "/etc/hosts")["source"], "/vol/w");
    assert_eq!(mount(&spec, "/etc/hostname")["source"], "/run/p/etc/hostname");
}

#[test]
fn layers_are_stacked_topmost_first_with_special_characters_escaped() {
    let layers = ["/i/2", "/i/a:b", "/i/c,d"].map(PathBuf::from).to_vec();
    let made = rootfs(&image(json!({}), layers), &files(&[])).unwrap();
    assert_eq!((made.kind.as_str(), made.source.as_str()), ("overlay", "overlay"));
    assert_eq!(made.options, [r"lowerdir=/i/2:/i/a\:b:/i/c\,d", "upperdir=/d/upper", "workdir=/d/work"]);
    let many = (0..200).map(|number| PathBuf::from(format!("/var/lib/peapod/images/layers/{number:020}"))).collect();
    let error = rootfs(&image(json!({}), many), &files(&[])).unwrap_err().to_string();
    assert!(error.contains("200 layers"), "{error}");
}
