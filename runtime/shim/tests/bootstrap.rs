//! How the shim is started: the binary, with flags, environment and standard input as each containerd gives them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, Extension};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::oci;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::Pid;
use pea_shim::client::Shim;
use support::pod::{Pod, binary, run};
use support::{alive, eventually, status_field};

/// A bundle with a directory for sockets beside it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = testkit::scratch();
        for name in ["bundle", "other", "third"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    fn bundle(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn params(&self, id: &str) -> BootstrapParams {
        BootstrapParams {
            instance_id: id.to_owned(),
            namespace: "test".to_owned(),
            socket_dir: Some(self.dir.path().display().to_string()),
            ..Default::default()
        }
    }

    /// `start` of a bundle, with that on its standard input.
    fn start(&self, bundle: &str, id: &str, stdin: &[u8]) -> Output {
        start(&self.bundle(bundle), &["-namespace", "test", "-id", id, "start"], &[], stdin)
    }

    /// The address of the shim, which must start.
    fn started(&self, bundle: &str, id: &str) -> String {
        let done = self.start(bundle, id, &self.params(id).write_to_bytes().unwrap());
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        BootstrapResult::parse_from_bytes(&done.stdout).unwrap().address
    }

    /// That nothing was started here, nor left.
    fn untouched(&self) {
        assert_eq!(fs::read_dir(self.bundle("bundle")).unwrap().count(), 0);
        let sockets = fs::read_dir(self.dir.path()).unwrap().flatten();
        assert_eq!(sockets.filter(|entry| entry.file_type().unwrap().is_socket()).count(), 0);
    }
}

fn start(bundle: &Path, arguments: &[&str], environment: &[(&str, &str)], stdin: &[u8]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).current_dir(bundle).env_remove("TTRPC_ADDRESS").env_remove("GRPC_ADDRESS");
    command.envs(environment.iter().copied());
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut shim = command.spawn().unwrap();
    // One that does not read all of it is heard all the same.
    let _ = shim.stdin.take().unwrap().write_all(stdin);
    shim.wait_with_output().unwrap()
}

/// Ends the shim at that address, which has nothing to look after.
async fn end(address: &str) {
    let pid = Shim::connect(address).await.unwrap().connect_task("nobody").await.unwrap().0;
    kill(Pid::from_raw(pid as i32), Signal::SIGTERM).unwrap();
    eventually("the shim has ended", || !alive(pid));
    assert!(!Path::new(address.strip_prefix("unix://").unwrap()).exists(), "the socket is still there");
}

#[test]
fn each_containerd_is_answered_in_its_own_dialect() {
    run(async {
        let place = Place::new();
        let bundle = place.bundle("bundle");
        // The socket is in containerd's own directory here: its name is made of this address, which nobody else has.
        let containerd = place.dir.path().join("c.sock").display().to_string();
        let flags =
            ["-namespace", "test", "-address", &containerd, "-publish-binary", "c", "-id", "i", "-debug", "start"];
        let bare = start(&bundle, &flags, &[("TTRPC_ADDRESS", "/nowhere")], b"");
        let address = String::from_utf8(bare.stdout).unwrap();
        assert!(
            address.starts_with("unix:///run/containerd/s/") && !address.contains(char::is_whitespace),
            "{address}"
        );
        assert_eq!(fs::read_to_string(bundle.join("address")).unwrap(), address);
        let socket = fs::metadata(address.strip_prefix("unix://").unwrap()).unwrap();
        assert_eq!(socket.permissions().mode() & 0o777, 0o600, "others may connect");
        let environment = [("GRPC_ADDRESS", "/nowhere"), ("NAMESPACE", "test"), ("MAX_SHIM_VERSION", "2")];
        let json = start(&bundle, &flags, &environment, b"");
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(json, serde_json::json!({"version": 2, "address": address, "protocol": "ttrpc"}));
        end(&address).await;

        let address = place.started("bundle", "i");
        assert!(address.starts_with(&format!("unix://{}/", place.dir.path().display())), "{address}");
        end(&address).await;
    });
}

#[test]
fn the_daemon_has_nothing_of_its_callers() {
    run(async {
        let place = Place::new();
        // A descriptor that its caller has left to be inherited.
        let left = File::create(place.dir.path().join("left")).unwrap();
        nix::fcntl::fcntl(&left, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        let address = place.started("bundle", "i");
        let pid = Shim::connect(&address).await.unwrap().connect_task("nobody").await.unwrap().0;
        let held = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let held: Vec<PathBuf> = held.filter_map(|fd| fs::read_link(fd.path()).ok()).collect();
        assert!(!held.contains(&place.dir.path().join("left")), "{held:?}");
        assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
        // Who connects sees that it is this process that listens, and not the one that made the socket.
        let socket = UnixStream::connect(address.strip_prefix("unix://").unwrap()).unwrap();
        assert_eq!(getsockopt(&socket, PeerCredentials).unwrap().pid(), pid as i32);
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let (group, session) = (fields[2], fields[3]);
        assert_eq!((group, session), (pid.to_string().as_str(), pid.to_string().as_str()));
        assert_eq!(status_field(pid, "Threads"), "1");
        for standard in [0, 1, 2] {
            assert_eq!(fs::read_link(format!("/proc/{pid}/fd/{standard}")).unwrap(), Path::new("/dev/null"));
        }
        let held = fs::read_to_string(place.bundle("bundle").join("shim.lock")).unwrap();
        assert_eq!(held, format!("{pid}\n"));
        end(&address).await;
    });
}

/// Behaviour: the labels in their order; the first that is there decides.
#[test]
fn the_bundles_of_one_group_have_one_shim() {
    run(async {
        let labels = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id", "io.peapod.pod"];
        for (n, label) in labels.iter().enumerate() {
            let place = Place::new();
            let annotate = |bundle: &str, group: &str, others: &str| {
                let mut annotations: serde_json::Map<String, serde_json::Value> =
                    labels[n + 1..].iter().map(|label| ((*label).to_owned(), others.into())).collect();
                annotations.insert((*label).to_owned(), group.into());
                let config = serde_json::json!({"annotations": annotations});
                fs::write(place.bundle(bundle).join("config.json"), config.to_string()).unwrap();
            };
            annotate("bundle", "one", "a");
            annotate("other", "one", "b");
            annotate("third", "two", "a");
            let first = place.started("bundle", "i");
            assert_eq!(place.started("other", "j"), first, "{label}");
            let third = place.started("third", "k");
            assert_ne!(third, first, "{label}");
            // The second bundle has the address, and no shim of its own.
            assert_eq!(fs::read_to_string(place.bundle("other").join("address")).unwrap(), first);
            assert!(!place.bundle("other").join("shim.lock").exists());
            end(&first).await;
            end(&third).await;
        }
        let place = Place::new();
        for (bundle, text) in [("bundle", "{}"), ("other", "{\"annotations\": null}")] {
            fs::write(place.bundle(bundle).join("config.json"), text).unwrap();
        }
        let (one, two) = (place.started("bundle", "i"), place.started("other", "j"));
        assert_ne!(one, two, "no group is no group in common");
        end(&one).await;
        end(&two).await;
    });
}

#[test]
fn the_same_id_in_another_namespace_or_of_another_containerd_is_another_shim() {
    run(async {
        let place = Place::new();
        let mut addresses = Vec::new();
        for (bundle, namespace, address) in [("bundle", "one", "/a"), ("other", "two", "/a"), ("third", "one", "/b")] {
            let params = BootstrapParams { namespace: namespace.to_owned(), ..place.params("i") };
            let flags = ["-namespace", namespace, "-address", address, "-id", "i", "start"];
            let done = start(&place.bundle(bundle), &flags, &[], &params.write_to_bytes().unwrap());
            addresses.push(BootstrapResult::parse_from_bytes(&done.stdout).unwrap().address);
        }
        for address in &addresses {
            assert_eq!(addresses.iter().filter(|other| *other == address).count(), 1, "{addresses:?}");
            end(address).await;
        }
    });
}

/// One line that names what is wrong, an exit code of 1, nothing on standard output, and nothing left.
fn refused(done: &Output, named: &str) {
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert_eq!((done.status.code(), done.stdout.as_slice()), (Some(1), &b""[..]), "{stderr}");
    assert!(stderr.starts_with("containerd-shim-pea-v2: ") && stderr.contains(named), "{named}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn what_is_wrong_on_standard_input_is_refused_and_nothing_is_started() {
    let place = Place::new();
    let whole = place.params("i").write_to_bytes().unwrap();
    let named = |name: &str| BootstrapParams { instance_id: name.to_owned(), ..place.params("i") };
    let options = oci::Options { binary_name: "crun".into(), ..Default::default() }.write_to_bytes().unwrap();
    let options = Any { type_url: "containerd.runc.v1.Options".into(), value: options, ..Default::default() };
    let extension = Extension { value: MessageField::some(options.clone()), ..Default::default() };
    let with_options = BootstrapParams { extensions: vec![extension], ..place.params("i") };
    for (stdin, complaint) in [
        (whole[..whole.len() - 1].to_vec(), "standard input"),
        (b"\xff\xff\xff\xff".to_vec(), "standard input"),
        (vec![0; 4096], "standard input"),
        (vec![b'x'; 64 << 20], "standard input"),
        (named("somebody-else").write_to_bytes().unwrap(), "somebody-else"),
        (options.write_to_bytes().unwrap(), "BinaryName"),
        (with_options.write_to_bytes().unwrap(), "BinaryName"),
    ] {
        refused(&place.start("bundle", "i", &stdin), complaint);
        place.untouched();
    }
}

#[test]
fn names_that_are_none_and_sockets_that_cannot_be_are_refused() {
    let place = Place::new();
    for (namespace, id) in [("test", "../x"), ("test", ".."), ("test", ""), ("", "i"), ("a/b", "i"), (".", "i")] {
        let done = start(&place.bundle("bundle"), &["-namespace", namespace, "-id", id, "start"], &[], b"");
        assert_eq!(done.status.code(), Some(1), "{namespace:?} {id:?}");
        place.untouched();
        let arguments = ["-namespace", namespace, "-id", id, "delete"];
        assert_eq!(start(&place.bundle("bundle"), &arguments, &[], b"").status.code(), Some(1), "{namespace:?} {id:?}");
    }
    let long = place.dir.path().join("x".repeat(100)).display().to_string();
    let params = BootstrapParams { socket_dir: Some(long.clone()), ..place.params("i") };
    refused(&place.start("bundle", "i", &params.write_to_bytes().unwrap()), &long);
}

#[test]
fn the_longest_socket_path_there_can_be_is_served() {
    run(async {
        let place = Place::new();
        // "/", 16 digits and ".sock" come after the directory.
        let rest = 107 - 22 - place.dir.path().as_os_str().len() - 1;
        for (length, fits) in [(rest, true), (rest + 1, false)] {
            let directory = place.dir.path().join("d".repeat(length)).display().to_string();
            let params = BootstrapParams { socket_dir: Some(directory), ..place.params("i") };
            let done = place.start("bundle", "i", &params.write_to_bytes().unwrap());
            assert_eq!(done.status.success(), fits, "{length}: {}", String::from_utf8_lossy(&done.stderr));
            if fits {
                end(&BootstrapResult::parse_from_bytes(&done.stdout).unwrap().address).await;
            }
        }
    });
}

#[test]
fn a_shim_that_cannot_be_says_why_and_leaves_no_socket() {
    let place = Place::new();
    // A held lock whose owner does not listen.
    let lock = File::create(place.bundle("bundle").join("shim.lock")).unwrap();
    lock.lock().unwrap();
    let sockets = || {
        let entries = fs::read_dir(place.dir.path()).unwrap().flatten();
        entries.filter(|entry| entry.file_type().unwrap().is_socket()).count()
    };
    refused(&place.start("bundle", "i", &place.params("i").write_to_bytes().unwrap()), "shim.lock");
    assert_eq!(sockets(), 0);
    // One that fails only when it has been forked.
    let value = oci::Options { shim_cgroup: "/no/such/../cgroup".into(), ..Default::default() };
    let value = value.write_to_bytes().unwrap();
    let options = Any { type_url: "containerd.runc.v1.Options".into(), value, ..Default::default() };
    let extension = Extension { value: MessageField::some(options), ..Default::default() };
    let params = BootstrapParams { extensions: vec![extension], ..place.params("i") };
    refused(&place.start("other", "i", &params.write_to_bytes().unwrap()), "cgroup");
    assert_eq!(sockets(), 0);
}

#[test]
fn a_dead_shims_socket_is_replaced() {
    run(async {
        let place = Place::new();
        let address = place.started("bundle", "i");
        let pid = Shim::connect(&address).await.unwrap().connect_task("nobody").await.unwrap().0;
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
        eventually("the shim has ended", || !alive(pid));
        assert!(Path::new(address.strip_prefix("unix://").unwrap()).exists());
        assert_eq!(place.started("bundle", "i"), address);
        end(&address).await;
    });
}

fn fifo(path: &Path) -> File {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
}

#[test]
fn what_the_shim_has_to_say_goes_to_containerds_fifo_and_a_full_one_holds_nobody_up() {
    run(async {
        let pod = Pod::start().await;
        let place = Place::new();
        let mut log = fifo(&place.bundle("bundle").join("log"));
        let address = place.started("bundle", "i");
        let shim = Shim::connect(&address).await.unwrap();
        let pid = shim.connect_task("nobody").await.unwrap().0;
        let options = pea_shim::sandbox::SandboxOptions::default();
        shim.create_sandbox("i", &place.bundle("bundle"), None, &options).await.unwrap();
        let sigterm = || kill(Pid::from_raw(pid as i32), Signal::SIGTERM).unwrap();
        sigterm();
        let mut line = Vec::new();
        let mut bytes = [0; 4096];
        eventually("a line in the log", || {
            let length = log.read(&mut bytes).unwrap_or(0);
            line.extend_from_slice(&bytes[..length]);
            line.ends_with(b"\n")
        });
        let line = String::from_utf8(line).unwrap();
        assert!(line.starts_with("time=\"") && line.contains("level=info msg=\"SIGTERM"), "{line}");
        // Nobody reads any more, and nothing fits in.
        while log.write(&[b'x'; 4096]).is_ok() {}
        for _ in 0..10 {
            sigterm();
            shim.connect_task("nobody").await.unwrap();
        }
        // And nobody is even there.
        drop(log);
        sigterm();
        shim.connect_task("nobody").await.unwrap();
        shim.stop_sandbox("i", std::time::Duration::ZERO).await.unwrap();
        shim.shutdown_sandbox("i").await.unwrap();
        eventually("the shim has ended", || !alive(pid));
        pod.end().await;
    });
}

#[test]
fn a_log_that_is_no_fifo_is_left_alone() {
    run(async {
        let place = Place::new();
        let log = place.bundle("bundle").join("log");
        fs::write(&log, "somebody's\n").unwrap();
        let address = place.started("bundle", "i");
        let shim = Shim::connect(&address).await.unwrap();
        let pid = shim.connect_task("nobody").await.unwrap().0;
        let options = pea_shim::sandbox::SandboxOptions::default();
        shim.create_sandbox("i", &place.bundle("bundle"), None, &options).await.unwrap();
        // It has something to say: that it stays.
        kill(Pid::from_raw(pid as i32), Signal::SIGTERM).unwrap();
        shim.stop_sandbox("i", std::time::Duration::ZERO).await.unwrap();
        shim.shutdown_sandbox("i").await.unwrap();
        eventually("the shim has ended", || !alive(pid));
        assert_eq!(fs::read_to_string(&log).unwrap(), "somebody's\n");
    });
}

/// `start` may have been killed before it could tell the address, or who had asked for it.
#[test]
fn a_shim_that_nobody_makes_anything_in_ends_although_somebody_stays_connected() {
    run(async {
        // This one holds a sandbox.
        let busy = Pod::start().await;
        let place = Place::new();
        let address = place.started("bundle", "i");
        let shim = Shim::connect(&address).await.unwrap();
        let pid = shim.connect_task("nobody").await.unwrap().0;
        eventually("the shim has ended", || !alive(pid));
        assert!(!Path::new(address.strip_prefix("unix://").unwrap()).exists(), "the socket is still there");
        busy.shim.start_sandbox(&busy.id).await.unwrap();
        busy.end().await;
    });
}

#[test]
fn the_delete_of_a_tasks_bundle_ends_an_idle_shim_and_takes_away_what_a_dead_one_has_left() {
    run(async {
        for dead in [false, true] {
            let place = Place::new();
            let bundle = place.bundle("bundle");
            fs::write(bundle.join("config.json"), "{}").unwrap();
            fs::create_dir(bundle.join("rootfs")).unwrap();
            let address = place.started("bundle", "i");
            let pid = Shim::connect(&address).await.unwrap().connect_task("nobody").await.unwrap().0;
            // Mounted by whoever died before he wrote a record.
            let kind = Some("tmpfs");
            nix::mount::mount(kind, &bundle.join("rootfs"), kind, nix::mount::MsFlags::empty(), None::<&str>).unwrap();
            if dead {
                kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
                eventually("the shim has ended", || !alive(pid));
            }
            let done = start(&bundle, &["-namespace", "test", "-id", "i", "delete"], &[], b"");
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            eventually("the shim has ended", || !alive(pid));
            let socket = Path::new(address.strip_prefix("unix://").unwrap());
            eventually("the socket is gone", || !socket.exists());
            assert_eq!(support::mounts_below(&bundle), Vec::<String>::new());
        }
    });
}

#[test]
fn the_delete_of_a_bundle_without_anything_tells_of_a_kill() {
    let place = Place::new();
    let before = jiff::Timestamp::now();
    for arguments in [
        vec!["-namespace", "test", "-id", "i", "delete"],
        vec!["-namespace", "test", "-id", "i", "-bundle", "/no/such/bundle", "delete"],
    ] {
        let done = start(&place.bundle("bundle"), &arguments, &[], b"");
        let response = DeleteResponse::parse_from_bytes(&done.stdout).unwrap();
        assert_eq!((response.pid, response.exit_status), (0, 137));
        let at = response.exited_at.unwrap();
        assert!(jiff::Timestamp::new(at.seconds, at.nanos).unwrap() >= before);
    }
    place.untouched();
}
