//! Manifests as people write them: the good ones are read, each broken one is refused with the error
//! its own first lines announce.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use peapod::manifest::{
    self, DnsPolicy, HostPathType, Medium, Pod, Propagation, Protocol, Resources, RestartPolicy, VolumeSource,
};

fn manifests(dir: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(testkit::testdata(dir)).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    paths
}

#[test]
fn broken_manifests_are_refused_with_the_error_they_announce() {
    let paths = manifests("manifests/bad");
    assert!(paths.len() > 30, "{} broken manifests", paths.len());
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let announced: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# refused: ")).collect();
        assert!(!announced.is_empty(), "{} announces no error", path.display());
        let error = manifest::load(&path).expect_err(&path.display().to_string()).to_string();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines.len(), announced.len(), "{error}");
        for (line, announced) in lines.iter().zip(announced) {
            assert!(line.starts_with(&path.display().to_string()), "the file is named: {line}");
            assert!(line.contains(announced), "expected: {announced}\ngot:      {line}");
        }
    }
}

#[test]
fn the_good_manifests_are_read() {
    let paths = manifests("manifests");
    assert!(!paths.is_empty());
    for path in paths {
        let pods = manifest::load(&path).unwrap_or_else(|error| panic!("{error}"));
        for pod in pods {
            let stored = serde_json::to_string(&pod).unwrap();
            assert_eq!(serde_json::from_str::<Pod>(&stored).unwrap(), pod, "a record gives the pod back");
        }
    }
}

fn read(text: &str) -> Pod {
    manifest::parse("test", text).unwrap_or_else(|error| panic!("{error}")).remove(0)
}

#[test]
fn what_is_not_said_is_as_kubernetes_has_it() {
    let pod = read("{apiVersion: v1, kind: Pod, metadata: {name: p.q}, spec: {containers: [{name: c, image: i}]}}");
    assert_eq!((pod.namespace.as_str(), pod.hostname.as_str()), ("default", "p.q"));
    assert_eq!(pod.restart_policy, RestartPolicy::Always);
    assert_eq!(pod.termination_grace, Duration::from_secs(30));
    assert_eq!(pod.dns.policy, DnsPolicy::Default);
    assert!(!pod.host_network && !pod.host_pid && !pod.host_ipc && !pod.share_process_namespace);
    let container = &pod.containers[0];
    assert_eq!((&container.command, &container.args), (&None, &None));
    assert_eq!(container.resources, Resources::default());
}

#[test]
fn everything_served_arrives() {
    let pod = read(EVERYTHING);
    assert_eq!((pod.name.as_str(), pod.namespace.as_str(), pod.hostname.as_str()), ("all", "team", "host"));
    assert_eq!(pod.labels["app"], "x");
    assert_eq!(pod.annotations["a.b/c"], "z");
    assert_eq!(pod.restart_policy, RestartPolicy::OnFailure);
    assert_eq!(pod.termination_grace, Duration::from_secs(7));
    assert!(pod.share_process_namespace);
    assert_eq!(pod.dns.policy, DnsPolicy::None);
    assert_eq!((pod.dns.nameservers.len(), pod.dns.searches.len(), pod.dns.options.len()), (1, 1, 2));
    assert_eq!(pod.host_aliases[0].hostnames, ["db", "db.local"]);
    assert_eq!(pod.fs_group, Some(2000));
    let sources: Vec<_> = pod.volumes.iter().map(|volume| volume.source.clone()).collect();
    assert_eq!(
        sources,
        [
            VolumeSource::EmptyDir { medium: Medium::Memory, size_limit: Some(64 << 20) },
            VolumeSource::HostPath { path: "/srv/x".into(), kind: HostPathType::DirectoryOrCreate },
        ]
    );
    let container = &pod.containers[0];
    assert_eq!(container.command.as_deref().unwrap(), ["a"]);
    assert_eq!(container.args.as_deref().unwrap(), ["b", "$(A)"]);
    assert_eq!(container.env, [("A".into(), "1".into()), ("B".into(), String::new())]);
    assert_eq!(container.working_dir.as_deref(), Some("/w"));
    let port = &container.ports[0];
    assert_eq!((port.container_port, port.host_port, port.protocol), (53, Some(5353), Protocol::Udp));
    assert_eq!(port.host_ip.unwrap().to_string(), "127.0.0.1");
    let mount = &container.mounts[0];
    assert_eq!((mount.mount_path.as_str(), mount.sub_path.as_deref(), mount.read_only), ("/x", Some("s/t"), true));
    assert_eq!(container.mounts[1].propagation, Propagation::HostToContainer);
    let resources = Resources {
        cpu_request: Some(250),
        cpu_limit: Some(500),
        memory_request: Some(32 << 20),
        memory_limit: Some(32 << 20),
    };
    assert_eq!(container.resources, resources, "a missing request is the limit");
    let security = &container.security;
    assert_eq!((security.run_as_user, security.run_as_group), (Some(1001), Some(1000)), "over the pod's, and from it");
    assert_eq!(security.supplemental_groups, [3000, 2000]);
    assert!(security.run_as_non_root && security.read_only_root_filesystem);
    assert_eq!(security.capabilities.add, ["NET_ADMIN", "SYS_TIME"]);
    assert_eq!(security.capabilities.drop, ["ALL"]);
    assert!(container.tty && container.stdin);
    assert_eq!(pod.init_containers[0].security.run_as_user, Some(1000), "the pod's own");
}

const EVERYTHING: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: all
  namespace: team
  labels: {app: x}
  annotations: {a.b/c: z}
  uid: 5b0c
  managedFields: [{manager: kubectl}]
spec:
  hostname: host
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 7
  shareProcessNamespace: true
  nodeSelector: {disk: ssd}
  tolerations: [{operator: Exists}]
  serviceAccountName: default
  hostUsers: true
  dnsPolicy: None
  dnsConfig:
    nameservers: [10.0.0.10]
    searches: [team.local]
    options: [{name: ndots, value: "2"}, {name: edns0}]
  hostAliases: [{ip: 10.0.0.3, hostnames: [db, db.local]}]
  securityContext:
    runAsUser: 1000
    runAsGroup: 1000
    runAsNonRoot: true
    fsGroup: 2000
    supplementalGroups: [3000]
    seccompProfile: {type: Unconfined}
  volumes:
    - {name: mem, emptyDir: {medium: Memory, sizeLimit: 64Mi}}
    - {name: host, hostPath: {path: /srv/x, type: DirectoryOrCreate}}
  initContainers:
    - {name: init, image: i, imagePullPolicy: Never}
  containers:
    - name: c
      image: ghcr.io/a/b:1
      command: [a]
      args: [b, $(A)]
      env: [{name: A, value: "1"}, {name: B}]
      workingDir: /w
      tty: true
      stdin: true
      ports: [{name: dns, containerPort: 53, hostPort: 5353, hostIP: 127.0.0.1, protocol: UDP}]
      volumeMounts:
        - {name: mem, mountPath: /x/, subPath: s/t, readOnly: true}
        - {name: host, mountPath: /y, mountPropagation: HostToContainer}
      resources:
        requests: {cpu: 0.25, ephemeral-storage: 1Gi}
        limits: {cpu: 500m, memory: 32Mi}
      securityContext:
        runAsUser: 1001
        readOnlyRootFilesystem: true
        capabilities: {add: [NET_ADMIN, CAP_SYS_TIME], drop: [ALL]}
---
status: {}
apiVersion: v1
kind: Pod
metadata: {name: second}
spec: {containers: [{name: c, image: i}]}
"#;
