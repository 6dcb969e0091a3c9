//! Who is killed while much is going on: the others do not notice, and what is left can be cleared away.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::cri::message::Message;
use support::cri::{Node, own_processes};
use support::crowd::{Holdings, crew, sockets};
use support::pod::run_within;
use support::{DEADLINE, alive, eventually, shims_below};

const LIMIT: Duration = Duration::from_secs(240);
const WORKERS: usize = 8;

/// What shims could have left, without what is containerd's own: namespaces and addresses of pods that it was making.
fn remains_of_shims(node: &Node) -> Vec<String> {
    let left = node.remains().into_iter();
    left.filter(|item| !item.contains("/netns") && !item.starts_with("10.")).collect()
}

async fn until_clean(node: &Node) {
    // Of shims that nobody came to, too, which end after a while.
    let end = std::time::Instant::now() + 2 * DEADLINE;
    while let left @ [_, ..] = remains_of_shims(node).as_slice() {
        assert!(std::time::Instant::now() < end, "left behind: {left:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn containerd_killed_amid_the_work_of_eight_finds_its_pods_again_and_clears_the_rest_away() {
    run_within(LIMIT, async {
        let mut node = Node::start().await;
        let pod = node.pod("stays").await;
        let stays = node.container(&pod, "stays", &["sleep", "10000"]).await;
        let shim = shims_below(node.dir.path())[0];
        let made = Cell::new(0);
        let work = crew(WORKERS, 1000, async |n| {
            let own = |config, linux: Message| (config, linux.message(2, Message::new().message(1, own_processes())));
            // Whatever fails from here on fails because containerd is gone.
            let Ok(pod) = node.run_pod(&format!("p{n}"), own).await else { return };
            let Ok(id) = node.create(&pod, &format!("c{n}"), &["sleep", "1000"], |config| config).await else { return };
            if node.call("StartContainer", &Message::new().text(1, &id)).await.is_err() {
                return;
            }
            let _ = node.call("ExecSync", &Message::new().text(1, &id).texts(2, &["true"]).number(3, 20)).await;
            made.set(made.get() + 1);
            if made.get() == 20 {
                node.kill();
            }
            if n % 2 == 0 && node.call("StopPodSandbox", &Message::new().text(1, &pod.id)).await.is_ok() {
                let _ = node.call("RemovePodSandbox", &Message::new().text(1, &pod.id)).await;
            }
        });
        work.await;
        assert!(made.get() >= 20);
        node.restart().await;
        assert_eq!(node.exec(&stays, &["echo", "here"]).await.1, "here\n");
        assert!(shims_below(node.dir.path()).contains(&shim));
        node.remove_all().await;
        // A shim that had just been started, for a task that was never made, containerd 1.6 keeps for ever (later ones look
        // for its task). With nothing in it, it ends by itself.
        until_clean(&node).await;
    });
}

#[test]
fn of_many_pods_those_whose_shims_are_killed_go_and_the_others_do_not_notice() {
    const PODS: usize = 24;
    run_within(LIMIT, async {
        let node = Node::start().await;
        let mut pods = Vec::new();
        for n in 0..PODS {
            let before = shims_below(node.dir.path());
            let pod = node.pod(&format!("p{n}")).await;
            let id = node.container(&pod, &format!("c{n}"), &["sleep", "1000"]).await;
            let shim = shims_below(node.dir.path()).into_iter().find(|shim| !before.contains(shim)).unwrap();
            pods.push((pod, id, shim));
        }
        let sockets = sockets();
        let (killed, spared): (Vec<_>, Vec<_>) = pods.iter().enumerate().partition(|(n, _)| n % 2 == 0);
        let before: Vec<Holdings> = spared.iter().map(|(_, pod)| Holdings::of(pod.2)).collect();
        for (_, (_, _, shim)) in &killed {
            kill(Pid::from_raw(*shim as i32), Signal::SIGKILL).unwrap();
        }
        crew(WORKERS, spared.len(), async |n| {
            let (_, (_, id, _)) = spared[n];
            assert_eq!(node.exec(id, &["echo", "here"]).await.1, "here\n");
        })
        .await;
        for (_, (_, id, _)) in &killed {
            // What the clean-up tells, or what the plugin makes of a connection that has broken off.
            let (code, _) = node.until_exited(id).await;
            assert!([137, 255].contains(&code), "{code}");
        }
        let now = || spared.iter().map(|(_, pod)| Holdings::of(pod.2)).collect::<Vec<_>>();
        node.until("the others hold what they held", async || now() == before).await;
        crew(WORKERS, PODS, async |n| match n % 2 {
            0 => node.remove_lost(&pods[n].0).await,
            _ => node.remove(&pods[n].0).await,
        })
        .await;
        node.clean().await;
        let left: Vec<_> = sockets.iter().filter(|socket| socket.exists()).collect();
        assert!(sockets.len() == PODS && left.is_empty(), "of {} sockets are left: {left:?}", sockets.len());
    });
}

#[test]
fn a_shim_that_stands_still_holds_up_nobody_else_and_goes_on_where_it_was() {
    const CALLS: usize = 10;
    run_within(LIMIT, async {
        let node = Node::start().await;
        let stands = node.pod("stands").await;
        let shim = shims_below(node.dir.path())[0];
        let id = node.container(&stands, "stands", &["sleep", "10000"]).await;
        let goes = node.pod("goes").await;
        let other = node.container(&goes, "goes", &["sleep", "10000"]).await;
        assert_eq!(node.exec(&id, &["true"]).await.0, 0);
        let before = Holdings::of(shim);
        let signal = |signal| kill(Pid::from_raw(shim as i32), signal).unwrap();
        signal(Signal::SIGSTOP);
        crew(WORKERS, CALLS, async |n| {
            assert_eq!(node.exec(&other, &["echo", "here"]).await.1, "here\n");
            let request = Message::new().text(1, &id).texts(2, &["sleep", "1000"]).number(3, 20);
            // Its client gives up, as kubelet does.
            let call = tokio::time::timeout(Duration::from_millis(500), node.call("ExecSync", &request)).await;
            assert!(call.is_err(), "exec {n} in a shim that stands still: {call:?}");
        })
        .await;
        signal(Signal::SIGCONT);
        node.until("it goes on", async || node.exec(&id, &["echo", "here"]).await.1 == "here\n").await;
        node.until("no exec is left that nobody waits for", async || {
            node.exec(&id, &["ps", "-o", "comm"]).await.1.lines().count() == 3
        })
        .await;
        node.until(&format!("it holds what it held: {before:#?} {:#?}", Holdings::of(shim)), async || {
            Holdings::of(shim) == before
        })
        .await;
        node.remove(&stands).await;
        node.remove(&goes).await;
        node.clean().await;
    });
}

/// A cgroup with so little memory that nobody in it gets far.
struct Narrow(PathBuf);

impl Narrow {
    fn around(pid: u32, name: &str) -> Self {
        let (parent, limit) = match Path::new("/sys/fs/cgroup/memory").is_dir() {
            true => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            false => ("/sys/fs/cgroup", "memory.max"),
        };
        let cgroup = Path::new(parent).join(name);
        fs::create_dir(&cgroup).unwrap();
        fs::write(cgroup.join(limit), "1M").unwrap();
        fs::write(cgroup.join("cgroup.procs"), pid.to_string()).unwrap();
        Self(cgroup)
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_shim_killed_for_want_of_memory_is_cleared_away() {
    if !support::controls("memory") {
        return testkit::skip("no memory controller");
    }
    run_within(LIMIT, async {
        let node = Node::start().await;
        let pod = node.pod("narrow").await;
        let id = node.container(&pod, "c", &["sleep", "10000"]).await;
        let shim = shims_below(node.dir.path())[0];
        let narrow = Narrow::around(shim, &format!("{}-narrow", node.cgroup().trim_start_matches('/')));
        let request = Message::new().text(1, &id).texts(2, &["true"]).number(3, 2);
        // The kernel may take one of its helpers first.
        node.until("the shim is killed", async || {
            crew(WORKERS, WORKERS, async |_| drop(node.call("ExecSync", &request).await)).await;
            !alive(shim)
        })
        .await;
        // The last of its helpers may be on their way out.
        eventually("its cgroup is empty", || fs::remove_dir(&narrow.0).is_ok());
        node.until_exited(&id).await;
        node.remove_lost(&pod).await;
        node.clean().await;
    });
}
