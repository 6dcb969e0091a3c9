//! ADD.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::node::{Shared, carry};
use super::plan::{Plan, Wiring};
use super::undo::{Step, Undo};
use super::{flatten, open_pod, spoof};
use crate::netlink::link::{self, PortFlags};
use crate::netlink::{self, Netns, Request, RouteSocket, address, neighbour, route, sysctl};
use crate::plugin::Call;
use crate::spec::{Environment, Error, IpConfig, Success, code};

/// The two ends of the work: the node's namespace and the pod's, each with a socket in it.
struct Ends {
    home: Netns,
    pod: Netns,
    node: RouteSocket,
    inside: RouteSocket,
}

impl Ends {
    /// Opens both. That the pod has the interface already is found out here, before anything is made.
    fn open(environment: &Environment) -> Result<Ends, Error> {
        let ifname = &environment.ifname;
        let home = Netns::current()?;
        let pod = open_pod(environment, &home)?;
        let node = RouteSocket::open()?;
        let (inside, is_there) =
            pod.inside(&home, || Ok::<_, netlink::Error>((RouteSocket::open()?, if_nametoindex(&**ifname).is_ok())))??;
        if is_there {
            let msg = format!("container veth name {ifname:?} already exists in {}", pod.path().display());
            return Err(Error::new(code::INTERNAL, msg).with_details("the pod is attached already: DEL it first"));
        }
        Ok(Ends { home, pod, node, inside })
    }
}

/// Attaches the pod and returns the result in the configuration's version. A failure leaves nothing.
///
/// # Errors
/// What failed, with its code of the specification.
pub fn add(call: &Call<'_>) -> Result<Success, Error> {
    let plan = Plan::new(call)?;
    let mut ends = Ends::open(call.environment)?;
    let mut undo = Undo::default();
    let attached = attach(call, &plan, &mut ends, &mut undo);
    attached.map_err(|error| undo.unwind(error, call, &plan, &mut ends.node))
}

fn attach(call: &Call<'_>, plan: &Plan, ends: &mut Ends, undo: &mut Undo) -> Result<Success, Error> {
    let given = plan.source.add(call, plan.settings.ip_masq)?;
    undo.push(Step::Addresses);
    let wiring = Wiring::new(plan, given);
    let shared = Shared::ensure(plan, &wiring, &mut ends.node)?;
    if plan.settings.check_mac {
        // Before the pod can send: no frame passes unchecked.
        spoof::add(&plan.network, &plan.attachment, wiring.pod.mac)?;
        undo.push(Step::SpoofCheck);
    }
    connect(plan, &wiring, &shared, ends, undo)?;
    set_up_pod(plan, &wiring, ends)?;
    Ok(wiring.success(plan, &shared.bridge, shared.gateway.as_ref(), ends.pod.path()))
}

/// Makes the veth pair, and forgets where the node last saw the pod's addresses.
fn connect(plan: &Plan, wiring: &Wiring, shared: &Shared, ends: &mut Ends, undo: &mut Undo) -> Result<(), Error> {
    let (settings, name, bridge) = (&plan.settings, &wiring.host.name, &shared.bridge);
    let create = link::create_veth(&wiring.host, &wiring.pod, ends.pod.file().as_fd(), bridge.index, settings.mtu);
    // On its own: what follows must be undone if it fails, but a pair that was there already must not be removed.
    ends.node.apply(vec![create])?;
    undo.push(Step::Veth);
    let mut rest = vec![link::without_link_local(name)];
    if settings.hairpin || settings.isolated {
        rest.push(link::set_port_flags(name, PortFlags { hairpin: settings.hairpin, isolated: settings.isolated }));
    }
    if settings.vlans.are_wanted() {
        let index = if_nametoindex(&**name).map_err(|errno| lost(name, errno))?;
        rest.extend(carry(&settings.vlans, bridge, index));
    }
    // Last, so that no frame passes before the port is as it should be.
    rest.push(link::set_up_as(name, plan.alias.as_deref()));
    let reached_by = shared.holder().index;
    rest.extend(wiring.ips.iter().map(|ip| neighbour::forget(reached_by, ip.address.ip())));
    Ok(ends.node.apply(rest)?)
}

/// Gives the pod's end its addresses and routes.
fn set_up_pod(plan: &Plan, wiring: &Wiring, ends: &mut Ends) -> Result<(), Error> {
    if plan.settings.leave_down {
        return Ok(());
    }
    let Ends { home, pod, inside, .. } = ends;
    if wiring.ips.is_empty() {
        return Ok(inside.apply(vec![link::set_up(&wiring.pod.name)])?);
    }
    Ok(flatten(pod.inside(home, || address_pod(plan, wiring, inside)))?)
}

/// Inside the pod's namespace.
fn address_pod(plan: &Plan, wiring: &Wiring, inside: &mut RouteSocket) -> Result<(), netlink::Error> {
    let name = &wiring.pod.name;
    let index = if_nametoindex(&**name).map_err(|errno| lost(name, errno))?;
    let has_v6 = wiring.ips.iter().any(|ip| ip.address.is_ipv6());
    if has_v6 {
        tune(plan, name)?;
    }
    match inside.apply(addressing(plan, wiring, index)) {
        // IPv6 is switched off here: found out by the refusal, which costs nothing where it is on.
        Err(error) if has_v6 && error.errno() == Some(Errno::EACCES) => {
            ["lo", name].iter().try_for_each(|link| sysctl::ensure(&format!("ipv6/conf/{link}/disable_ipv6"), "0"))?;
            inside.apply(addressing(plan, wiring, index))
        }
        outcome => outcome,
    }
}

/// Addresses, the link up, routes; a second time is no error.
fn addressing(plan: &Plan, wiring: &Wiring, index: u32) -> Vec<Request> {
    let name = &wiring.pod.name;
    let add = |ip: &&IpConfig| address::add(index, ip.address, plan.settings.detect_duplicates);
    let (v4, v6): (Vec<_>, Vec<_>) = wiring.ips.iter().partition(|ip| ip.address.is_ipv4());
    // IPv4 first: setting the link up announces the addresses that are there.
    let mut batch: Vec<_> = v4.iter().map(add).collect();
    batch.extend([link::announce(name), link::set_up(name)]);
    if wiring.mac_is_of_ip {
        // No neighbour can know a wrong MAC address, so the announcement is for changes to come only: now it would be
        // flooded to every port while this ADD waits.
        let last = batch.len() - 1;
        batch.swap(last - 1, last);
    }
    batch.extend(v6.iter().map(add));
    batch.extend(wiring.kernel_routes.iter().map(|new| route::add(index, new)));
    batch
}

/// The sysctls about IPv6; run inside the pod's namespace. Each costs a look-up that passes those of all other pods.
fn tune(plan: &Plan, name: &str) -> Result<(), netlink::Error> {
    let set = |(key, value): &(&str, &str)| sysctl::set(&format!("ipv6/conf/{name}/{key}"), value);
    [("keep_addr_on_down", "1"), ("ndisc_notify", "1")].iter().try_for_each(set)?;
    match plan.settings.detect_duplicates {
        true => [("enhanced_dad", "1"), ("accept_dad", "1")].iter().try_for_each(set),
        // The link-local address would be tentative, and packets from it held back, for two seconds.
        false => set(&("accept_dad", "0")),
    }
}

fn lost(name: &str, errno: Errno) -> netlink::Error {
    netlink::Error::Refused {
        doing: format!("find the interface {name} that was just made"),
        errno,
        note: " (something else removes it)".into(),
    }
}
