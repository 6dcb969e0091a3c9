//! Leases whose attachments are gone are given anew, and never those of live ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::leases::{Ipam, add, call, command, del, refused};
use common::{Pod, feed};

/// The first bytes of a network that nothing else on the machine uses: an address is in use wherever a namespace has
/// it, another test's too.
fn unused(test: u32) -> String {
    let number = std::process::id() * 3 + test;
    format!("10.{}.{}", 128 + number / 251 % 100, number % 251)
}

#[test]
fn leases_of_an_earlier_boot_are_given_anew_when_nothing_else_is_left() {
    let ipam = Ipam::new();
    let net = unused(0);
    let conf = ipam.of(&format!("{net}.0/29"));
    let at = |number: u8| format!("{net}.{number}/29");
    for (address, old) in [(2, true), (3, false), (4, true), (5, true)] {
        ipam.lease(&format!("{net}.{address}"), &format!("reference{address}\r\neth0"), old);
    }
    // One of the old ones lives on, as a pod that its runtime restored with the same address would.
    let living = Pod::new();
    living.ip(&["link", "set", "lo", "up"]);
    living.ip(&["address", "add", &format!("{net}.4/32"), "dev", "lo"]);
    assert_eq!(add(&conf, "a"), [at(6)], "what is free comes first");
    assert_eq!(ipam.leased().len(), 5);
    assert!(call("STATUS", &conf, "").ok, "an address can be had");
    assert_eq!(ipam.leased().len(), 5, "and asking frees none");
    let first = add(&conf, "b");
    assert!([at(2), at(5)].contains(&first[0]), "{first:?}");
    let second = add(&conf, "c");
    assert!([at(2), at(5)].contains(&second[0]) && first != second, "{second:?}");
    assert!(refused(&conf, "d").contains("no IP addresses available"));
    assert_eq!(
        (ipam.text(&format!("{net}.3")), ipam.text(&format!("{net}.4"))),
        ("reference3\r\neth0".into(), "reference4\r\neth0".into())
    );
}

#[test]
fn leases_of_namespaces_that_are_gone_are_given_anew_and_never_those_of_live_ones() {
    let ipam = Ipam::new();
    let net = unused(1);
    let conf = ipam.of(&format!("{net}.0/29"));
    let at = |number: u8| format!("{net}.{number}/29");
    let mut pods: Vec<_> = (0..5).map(|_| Pod::new()).collect();
    for (number, pod) in pods.iter().enumerate() {
        let answer =
            feed(&mut command("ADD", &format!("pod{number}"), "eth0", &pod.path()), conf.to_string().as_bytes());
        assert!(answer.ok, "{answer:?}");
    }
    assert!(refused(&conf, "late").contains("no IP addresses available"), "all live");
    assert_eq!(call("STATUS", &conf, "").code(), 50);
    drop(pods.remove(2));
    assert!(call("STATUS", &conf, "").ok);
    assert_eq!(add(&conf, "late"), [at(4)]);
    assert!(refused(&conf, "later").contains("no IP addresses available"));
    del(&conf, "pod2");
    assert_eq!(
        ipam.text(&format!("{net}.4")),
        "late\r\neth0",
        "the late DEL of the dead one takes nothing from its successor"
    );
}

#[test]
fn a_container_whose_namespace_is_gone_gets_its_address_back() {
    let ipam = Ipam::new();
    let net = unused(2);
    let conf = ipam.of(&format!("{net}.0/24"));
    let first = Pod::new();
    let start = |pod: &Pod| feed(&mut command("ADD", "a", "eth0", &pod.path()), conf.to_string().as_bytes());
    assert_eq!(start(&first).json()["ips"][0]["address"], format!("{net}.2/24"));
    add(&conf, "b");
    let second = Pod::new();
    assert!(start(&second).message().contains("duplicate allocation is not allowed"), "the first lives");
    drop(first);
    assert_eq!(start(&second).json()["ips"][0]["address"], format!("{net}.2/24"));
    assert!(start(&second).message().contains("duplicate allocation"));
    // A lease that the reference wrote in this boot is nobody's to take; one of an earlier boot is.
    ipam.lease(&format!("{net}.70"), "c\r\neth0", false);
    assert!(refused(&conf, "c").contains(".70 has been allocated to c"));
    ipam.age(&format!("{net}.70"));
    assert_eq!(add(&conf, "c"), [format!("{net}.70/24")]);
    assert_eq!(ipam.leased(), [format!("{net}.2"), format!("{net}.3"), format!("{net}.70")]);
}
