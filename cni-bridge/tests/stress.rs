//! Many workers on one network: no address twice, none lost, nothing left.
//!
//! `CNI_STRESS=10000` sets how many attachments each test makes and removes (1000 without it, 100 with links).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};

use cni_bridge::plugin::{self, Called};
use common::leases::Ipam;
use common::{Node, Pod, call};
use serde_json::{Value, json};

const WORKERS: usize = 32;

fn attachments(otherwise: usize) -> usize {
    std::env::var("CNI_STRESS").map_or(otherwise, |count| count.parse().expect("a number"))
}

/// Who has which address, by what the plugin answered.
#[derive(Default)]
struct Register(Mutex<BTreeSet<String>>);

impl Register {
    fn add(&self, address: &str) {
        assert!(self.0.lock().unwrap().insert(address.to_owned()), "{address} is given out twice");
    }

    /// To be called before the address is given back: afterwards somebody else may have it.
    fn remove(&self, address: &str) {
        assert!(self.0.lock().unwrap().remove(address), "{address} was never given out");
    }
}

/// host-local within this process; the lock is between open files, so threads exclude each other as processes do.
fn host_local(verb: &str, conf: &Value, id: &str) -> Result<Option<Value>, cni_bridge::spec::Error> {
    let variables: HashMap<&str, String> = HashMap::from([
        ("CNI_CONTAINERID", id.to_owned()),
        ("CNI_IFNAME", "eth0".to_owned()),
        ("CNI_NETNS", "/proc/self/ns/net".to_owned()),
    ]);
    let variable = |name: &str| variables.get(name).map(OsString::from);
    let answer = plugin::run(Called { name: "host-local", command: verb }, variable, conf.to_string().as_bytes())?;
    Ok(answer.map(|text| serde_json::from_str(&text).unwrap()))
}

fn address(result: &Value) -> String {
    result["ips"][0]["address"].as_str().unwrap().to_owned()
}

/// Each worker holds up to `hold` addresses at a time, and gives the oldest back when it has more or there are none.
/// The first is given back when every worker has asked for that many. Returns how often there were none.
fn lease_and_give_back(conf: &Value, total: usize, hold: usize) -> usize {
    assert!(total >= WORKERS * hold, "{total} are too few for all workers to ask at first");
    let (register, next, exhausted) = (Register::default(), AtomicUsize::new(0), AtomicUsize::new(0));
    let all_have_asked = Barrier::new(WORKERS);
    let work = || {
        let mut asked = 0;
        let mut held: Vec<(String, String)> = Vec::new();
        let give_back = |held: &mut Vec<(String, String)>| {
            let (id, address) = held.remove(0);
            register.remove(&address);
            host_local("DEL", conf, &id).unwrap();
        };
        while let number = next.fetch_add(1, Ordering::Relaxed)
            && number < total
        {
            let id = format!("pod{number}");
            match host_local("ADD", conf, &id) {
                Ok(result) => {
                    let address = address(&result.unwrap());
                    register.add(&address);
                    held.push((id, address));
                }
                Err(error) => {
                    assert_eq!(error.code, 100, "{error}");
                    exhausted.fetch_add(1, Ordering::Relaxed);
                    host_local("DEL", conf, &id).unwrap();
                }
            }
            asked += 1;
            if asked == hold {
                all_have_asked.wait();
            }
            if asked < hold {
                continue;
            }
            if held.len() > hold || exhausted.load(Ordering::Relaxed) > number && !held.is_empty() {
                give_back(&mut held);
            }
        }
        while !held.is_empty() {
            give_back(&mut held);
        }
    };
    std::thread::scope(|scope| (0..WORKERS).for_each(|_| drop(scope.spawn(work))));
    assert_eq!(register.0.lock().unwrap().len(), 0);
    exhausted.into_inner()
}

#[test]
fn a_small_network_shared_by_many_is_exhausted_now_and_then_and_loses_nothing() {
    let ipam = Ipam::new();
    let conf = ipam.of("10.1.2.0/24");
    let exhausted = lease_and_give_back(&conf, attachments(1000), 9);
    assert!(exhausted > 0, "32 workers with 9 addresses each want more than there are");
    assert_eq!(ipam.leased(), Vec::<String>::new());
    // And every address is to be had again.
    let all: BTreeSet<_> =
        (0..253).map(|n| address(&host_local("ADD", &conf, &format!("all{n}")).unwrap().unwrap())).collect();
    assert_eq!((all.len(), ipam.leased().len()), (253, 253));
    assert_eq!(host_local("ADD", &conf, "one-more").unwrap_err().code, 100);
}

#[test]
fn a_large_network_gives_every_worker_its_own() {
    let ipam = Ipam::new();
    let conf = ipam.of("10.1.0.0/16");
    assert_eq!(lease_and_give_back(&conf, attachments(1000), 30), 0);
    assert_eq!(ipam.leased(), Vec::<String>::new());
}

/// With links, and a process for each call, as runtimes do it.
fn attach_and_detach(subnet: &str) {
    let node = Node::new();
    let conf = node.conf(json!({"isGateway": true, "ipam": {"subnet": subnet}}));
    let total = attachments(100);
    let (register, next) = (Register::default(), AtomicUsize::new(0));
    let home = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    let work = || {
        // A new thread is in the namespace of the process's first one.
        nix::sched::setns(&home, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        // One stays attached while the next is.
        let mut before: Option<(String, String, Pod)> = None;
        let detach = |(id, address, pod): (String, String, Pod)| {
            register.remove(&address);
            let removed = call("DEL", &conf, &id, &pod.path());
            assert!(removed.ok, "{removed:?}");
        };
        while let number = next.fetch_add(1, Ordering::Relaxed)
            && number < total
        {
            let (id, pod) = (format!("pod{number}"), Pod::new());
            let added = call("ADD", &conf, &id, &pod.path());
            assert!(added.ok, "{added:?}");
            let address = address(&added.json());
            register.add(&address);
            before.replace((id, address, pod)).map(detach);
        }
        before.map(detach);
    };
    std::thread::scope(|scope| (0..WORKERS).for_each(|_| drop(scope.spawn(work))));
    assert_eq!((node.leased(), node.links()), (Vec::<String>::new(), vec!["br0".to_owned()]));
}

#[test]
fn attachments_on_a_small_network_leave_nothing() {
    attach_and_detach("10.1.2.0/24");
}

#[test]
fn attachments_on_a_large_network_leave_nothing() {
    attach_and_detach("10.1.0.0/16");
}
