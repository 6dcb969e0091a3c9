//! What a runtime asks of the node's network.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::process::Command;

use cni_bridge::netlink::{Mac, RouteSocket, Uplink, link, link_by_name, loopback_up, uplink, veth_links};
use nix::sched::{CloneFlags, unshare};

fn ip(args: &str) {
    testkit::run(Command::new("ip").args(args.split(' ')));
}

#[test]
fn the_uplink_is_the_interface_of_the_best_default_route() {
    testkit::enter_node();
    assert_eq!(uplink().unwrap(), None, "a node without a default route");
    ip("link add up0 mtu 1400 type veth peer name far0");
    ip("link add vx0 mtu 1300 type vxlan id 7 dstport 4789 remote 192.0.2.9 dev up0");
    for link in ["up0", "far0", "vx0"] {
        ip(&format!("link set {link} up"));
    }
    ip("-6 address add 2001:db8::1/64 dev up0 nodad");
    ip("-6 route add default via 2001:db8::9 dev up0");
    let expected = |name: &str, mtu, is_vxlan| Some(Uplink { name: name.into(), mtu, is_vxlan });
    assert_eq!(uplink().unwrap(), expected("up0", 1400, false), "IPv6 where there is no IPv4");
    ip("address add 192.0.2.1/24 dev vx0");
    ip("route add default via 192.0.2.2 dev vx0 metric 100");
    assert_eq!(uplink().unwrap(), expected("vx0", 1300, true));
    ip("address add 198.51.100.1/24 dev up0");
    ip("route add default via 198.51.100.2 dev up0 metric 50");
    assert_eq!(uplink().unwrap(), expected("up0", 1400, false));
    ip("route delete default metric 50");
    ip("route add default metric 10 nexthop via 198.51.100.2 dev up0 nexthop via 192.0.2.2 dev vx0");
    assert_eq!(uplink().unwrap(), expected("up0", 1400, false), "the first of several next hops");
}

// Its routing tables do not exist yet, which the kernel tells as an error.
#[test]
fn a_namespace_nothing_was_done_in_has_no_uplink() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    assert_eq!(uplink().unwrap(), None);
}

#[test]
fn lo_is_set_up_and_again() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    assert!(!link_by_name("lo").unwrap().unwrap().up);
    loopback_up().unwrap();
    loopback_up().unwrap();
    assert!(link_by_name("lo").unwrap().unwrap().up);
}

#[test]
fn links_are_found_by_name_and_by_kind() {
    testkit::enter_node();
    ip("link add br0 type bridge");
    ip("link add veth0 type veth peer name veth1");
    ip("link set veth0 master br0");
    assert_eq!(link_by_name("none").unwrap(), None);
    let bridge = link_by_name("br0").unwrap().unwrap();
    assert_eq!(bridge.kind, "bridge");
    let mut veths = veth_links().unwrap();
    veths.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<_> = veths.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(names, ["veth0", "veth1"]);
    assert_eq!((veths[0].controller, veths[0].peer), (Some(bridge.index), Some(veths[1].index)));
}

#[test]
fn a_bridge_is_made_once_however_many_make_it() {
    testkit::enter_node();
    let mut socket = RouteSocket::open().unwrap();
    let (first, second) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
    socket.apply(vec![link::create_bridge("br0", first), link::create_bridge("br0", second)]).unwrap();
    assert_eq!(link_by_name("br0").unwrap().unwrap().mac, Some(first));
}

#[test]
fn a_batch_goes_on_after_a_refusal_and_tells_the_first_one() {
    testkit::enter_node();
    let mut socket = RouteSocket::open().unwrap();
    let error = socket.apply(vec![link::set_up("none"), link::set_up("lo"), link::set_mtu("none", 1)]).unwrap_err();
    assert_eq!(error.to_string(), "cannot set none up: No such device");
    socket.apply(vec![link::set_mtu("lo", 1400)]).unwrap();
    assert_eq!(link_by_name("lo").unwrap().unwrap().mtu, 1400, "answers of the next batch are its own");
}
