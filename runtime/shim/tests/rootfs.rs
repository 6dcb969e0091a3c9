//! Root file systems as containerd asks for them: many layers, other ids, and what is undone when it fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;

use pea_shim::client::{Mount, Stdio};
use serde_json::{Value, json};
use support::mounts_below;
use support::pod::{Pod, run};

fn mount(kind: &str, source: &str, options: &[String]) -> Mount {
    Mount { kind: kind.into(), source: source.into(), options: options.to_vec() }
}

/// Writes a bundle, and returns the options of an overlay on these layers.
fn overlay(
    pod: &Pod,
    name: &str,
    program: &[&str],
    layers: &[PathBuf],
    change: impl FnOnce(&mut Value),
) -> Vec<String> {
    let bundle = pod.bundle(name);
    for part in ["rootfs", "upper", "work"] {
        fs::create_dir_all(bundle.join(part)).unwrap();
    }
    let mut config = pod.config(name, program, false);
    change(&mut config);
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    let layers: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
    vec![
        format!("lowerdir={}", layers.join(":")),
        format!("upperdir={}", bundle.join("upper").display()),
        format!("workdir={}", bundle.join("work").display()),
    ]
}

#[test]
fn more_layers_than_a_page_can_name_are_mounted() {
    run(async {
        let pod = Pod::start().await;
        let deep = pod.dir.path().join("a-directory-with-a-name-that-is-long-enough-to-matter/snapshots");
        let mut layers: Vec<PathBuf> = (0..128).map(|n| deep.join(n.to_string()).join("fs")).collect();
        for (n, layer) in layers.iter().enumerate() {
            fs::create_dir_all(layer).unwrap();
            fs::write(layer.join(format!("layer-{n}")), "").unwrap();
        }
        layers.push(pod.dir.path().join("busybox"));
        let count = ["sh", "-c", "ls -d /layer-* | wc -l; touch /written"];
        let options = overlay(&pod, "deep", &count, &layers, |_| {});
        assert!(options[0].len() > 4096, "the layers fit into a page");
        let (stdio, log) = pod.log("deep");
        pod.create_on("deep", vec![mount("overlay", "overlay", &options)], stdio).await.unwrap();
        pod.shim.start(&pod.container_id("deep"), None).await.unwrap();
        assert_eq!(pod.finish("deep").await.status, 0);
        assert!(fs::read_to_string(log).unwrap().ends_with(" stdout F 128\n"));
        assert!(pod.bundle("deep").join("upper/written").exists());
        pod.end().await;
    });
}

/// A container with a user namespace of its own, whose ids begin at 100000 on the node; it has no part in the pod's.
fn mapped(config: &mut Value) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let kinds = ["mount", "pid", "ipc", "uts", "network", "user"];
    config["linux"]["namespaces"] = kinds.iter().map(|kind| json!({"type": kind})).collect();
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
}

#[test]
fn the_layers_of_a_container_with_a_user_namespace_are_seen_with_its_ids() {
    run(async {
        let pod = Pod::start().await;
        let busybox = pod.dir.path().join("busybox");
        fs::write(busybox.join("root/of-root"), "").unwrap();
        fs::write(busybox.join("root/of-seven"), "").unwrap();
        chown(busybox.join("root/of-seven"), Some(7), Some(8)).unwrap();
        let map = ["uidmap=0:100000:65536".to_owned(), "gidmap=0:100000:65536".to_owned()];
        let script =
            "stat -c %u:%g /root/of-root /root/of-seven; echo words > /root/of-root; stat -c %u:%g /root/of-root";
        let program = ["sh", "-c", script];

        let mut options = overlay(&pod, "overlay", &program, std::slice::from_ref(&busybox), mapped);
        chown(pod.bundle("overlay").join("upper"), Some(100_000), Some(100_000)).unwrap();
        options.extend(map.clone());
        overlay(&pod, "bind", &program, std::slice::from_ref(&busybox), mapped);
        let bind: Vec<String> = ["rbind".to_owned(), "rw".to_owned()].into_iter().chain(map).collect();
        let source = busybox.display().to_string();
        for (name, wanted) in
            [("overlay", mount("overlay", "overlay", &options)), ("bind", mount("bind", &source, &bind))]
        {
            let (stdio, log) = pod.log(name);
            pod.create_on(name, vec![wanted], stdio).await.unwrap();
            pod.shim.start(&pod.container_id(name), None).await.unwrap();
            assert_eq!(pod.finish(name).await.status, 0, "{}", fs::read_to_string(log).unwrap());
            let log = fs::read_to_string(&log).unwrap();
            let owners: Vec<&str> = log.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
            assert_eq!(owners, ["0:0", "7:8", "0:0"], "{name}");
        }
        // On disk: what the overlay wrote belongs to the node's id, what the bind wrote to the one it had.
        assert_eq!(fs::metadata(pod.bundle("overlay").join("upper/root/of-root")).unwrap().uid(), 100_000);
        assert_eq!(fs::metadata(busybox.join("root/of-root")).unwrap().uid(), 0);
        pod.end().await;
    });
}

#[test]
fn a_second_mount_that_fails_takes_the_first_along_and_is_named() {
    run(async {
        let pod = Pod::start().await;
        let busybox = pod.dir.path().join("busybox");
        overlay(&pod, "c", &["true"], std::slice::from_ref(&busybox), |_| {});
        let good = mount("bind", &busybox.display().to_string(), &["ro".into()]);
        let bad = [
            ("/no/such/layer", mount("overlay", "overlay", &["lowerdir=/no/such/layer".into()])),
            ("colour=red", mount("tmpfs", "tmpfs", &["colour=red".into()])),
            ("nofs", mount("nofs", "none", &[])),
            ("/no/such/source", mount("bind", "/no/such/source", &[])),
        ];
        for (name, bad) in bad {
            let made = pod.create_on("c", vec![good.clone(), bad], Stdio::default()).await.unwrap_err();
            assert!(made.to_string().contains(name), "{name}: {made}");
            assert_eq!(mounts_below(&pod.bundle("c")), Vec::<String>::new(), "{name}");
        }
        let program = ["sh", "-c", "touch /root/x 2>&1; cat /proc/self/mountinfo"];
        overlay(&pod, "c", &program, std::slice::from_ref(&busybox), |_| {});
        let (stdio, log) = pod.log("c");
        pod.create_on("c", vec![good], stdio).await.unwrap();
        pod.shim.start(&pod.container_id("c"), None).await.unwrap();
        pod.finish("c").await;
        assert!(fs::read_to_string(log).unwrap().contains("Read-only file system"));
        pod.end().await;
    });
}
