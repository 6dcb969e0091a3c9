//! The life of a shim: how it is found, asked to end, killed, and cleared up after.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pea_shim::client::{Bootstrap, Error, Shim, Stdio, delete};
use pea_shim::sandbox::Namespace;
use support::alive;
use support::pod::{Pod, binary, run};

#[test]
fn starting_twice_finds_the_same_shim_and_its_lock_tells_that_it_lives() {
    run(async {
        let pod = Pod::start().await;
        let again = Bootstrap::start(&binary(), &pod.sandbox_bundle(), "test", &pod.id, pod.dir.path());
        assert_eq!(again.unwrap(), pod.address);
        let lock = fs::File::open(pod.sandbox_bundle().join("shim.lock")).unwrap();
        assert!(matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock)));
        let pid: u32 = fs::read_to_string(pod.sandbox_bundle().join("shim.lock")).unwrap().trim().parse().unwrap();
        assert_eq!(pid, pod.shim_pid);
        pod.shim.stop_sandbox(&pod.id, Duration::ZERO).await.unwrap();
        pod.shim.shutdown_sandbox(&pod.id).await.unwrap();
        support::eventually("the lock is free", || lock.try_lock().is_ok());
    });
}

#[test]
fn the_lock_is_not_held_by_a_container_that_waits_for_its_start() {
    run(async {
        let pod = Pod::start().await;
        let waiting = pod.create("c", &["sleep", "1000"], Stdio::default()).await.unwrap();
        pod.signal_shim(Signal::SIGKILL);
        support::eventually("the shim has ended", || !alive(pod.shim_pid));
        let lock = fs::File::open(pod.sandbox_bundle().join("shim.lock")).unwrap();
        assert!(lock.try_lock().is_ok(), "process {waiting} still holds the shim's lock");
    });
}

#[test]
fn sigterm_ends_an_idle_shim_and_no_other() {
    run(async {
        let pod = Pod::start().await;
        pod.signal_shim(Signal::SIGTERM);
        assert!(Shim::connect(&pod.address).await.unwrap().start_sandbox(&pod.id).await.is_ok());
        pod.end().await;

        let dir = testkit::scratch();
        let address = Bootstrap::start(&binary(), dir.path(), "test", "idle", dir.path()).unwrap();
        let pid = Shim::connect(&address).await.unwrap().connect_task("x").await.unwrap().0;
        kill(Pid::from_raw(pid as i32), Signal::SIGTERM).unwrap();
        support::eventually("the idle shim has ended", || !alive(pid));
    });
}

#[test]
fn a_shim_that_was_told_to_end_answers_until_its_clients_have_left() {
    run(async {
        let dir = testkit::scratch();
        let address = Bootstrap::start(&binary(), dir.path(), "test", "end", dir.path()).unwrap();
        let first = Shim::connect(&address).await.unwrap();
        let second = Shim::connect(&address).await.unwrap();
        let pid = first.connect_task("nobody").await.unwrap().0;
        for client in [&first, &second] {
            // Whoever comes second is told the same.
            client.shutdown_sandbox("end").await.unwrap();
        }
        let socket = Path::new(address.strip_prefix("unix://").unwrap());
        assert!(!socket.exists(), "a new client would reach a shim that ends");
        drop(first);
        for _ in 0..100 {
            assert_eq!(second.connect_task("nobody").await.unwrap().0, pid);
        }
        drop(second);
        while alive(pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn how_a_task_ended_is_still_known_when_its_shim_is_gone() {
    run(async {
        let dir = testkit::scratch();
        let pod = Pod::start().await;
        let init = pod.start_container("c", &["sh", "-c", "exit 17"], Stdio::default()).await;
        let ended = pod.shim.wait(&pod.container_id("c"), None).await.unwrap();
        pod.signal_shim(Signal::SIGKILL);
        let exit = delete(&binary(), &pod.bundle("c"), "test", &pod.container_id("c")).unwrap();
        assert_eq!((exit.status, exit.pid, exit.at), (17, init, ended.at));
        let unknown = delete(&binary(), dir.path(), "test", "never-was").unwrap();
        assert_eq!(unknown.status, 137);
    });
}

#[test]
fn a_killed_shim_is_cleared_up_after_from_its_bundle_and_twice() {
    run(async {
        let pod = Pod::with(&[Namespace::Ipc, Namespace::Network, Namespace::Pid, Namespace::Uts]).await;
        let one = pod.start_container("one", &["sleep", "1000"], Stdio::default()).await;
        let two = pod.create("two", &["sleep", "1000"], Stdio::default()).await.unwrap();
        pod.signal_shim(Signal::SIGKILL);
        let lost = pod.shim.wait(&pod.container_id("one"), None).await;
        assert!(matches!(lost, Err(Error::Closed(_))), "{lost:?}");
        for _ in 0..2 {
            delete(&binary(), &pod.sandbox_bundle(), "test", &pod.id).unwrap();
        }
        assert!(!alive(one) && !alive(two));
        pod.nothing_left();
    });
}

#[test]
fn the_delete_action_ends_a_living_shim_and_works_where_nothing_is() {
    run(async {
        let pod = Pod::start().await;
        let one = pod.start_container("one", &["sleep", "1000"], Stdio::default()).await;
        delete(&binary(), &pod.sandbox_bundle(), "test", &pod.id).unwrap();
        assert!(!alive(one) && !alive(pod.shim_pid));
        delete(&binary(), &pod.dir.path().join("never/was"), "test", "nobody").unwrap();
    });
}

/// Kills the shim at many moments of a container's creation: whatever stands then, `delete` finds.
#[test]
fn a_shim_killed_at_any_moment_of_a_create_is_cleared_up_after() {
    run(async {
        for delay in (0..60).step_by(4) {
            let pod = Pod::start().await;
            let create = pod.create("c", &["sleep", "1000"], Stdio::default());
            let _ = tokio::time::timeout(Duration::from_millis(delay), create).await;
            pod.signal_shim(Signal::SIGKILL);
            delete(&binary(), &pod.sandbox_bundle(), "test", &pod.id).unwrap();
            pod.nothing_left();
        }
    });
}
