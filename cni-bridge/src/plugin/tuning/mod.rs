//! Type `tuning`: kernel parameters of the pod's namespace, and properties of its interface.
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | the keys of the type |
//! | [`sysctl`] | kernel parameters: which, and where they are |
//! | [`backup`] | what the interface was like before, on disk in the reference's form |
//!
//! Kernel parameters go with the pod's namespace, so DEL leaves them; an interface may have been moved in from
//! the node and go back there, so DEL gives it back what ADD took.

pub mod backup;
pub mod settings;
pub mod sysctl;

use backup::Backup;
use settings::Settings;
use sysctl::Sysctl;

use super::pod::Pod;
use super::{Call, Type, chain};
use crate::netlink::tune::{Property, set};
use crate::netlink::{Link, RouteSocket, link};
use crate::spec::{Error, Success, Version, code};

/// The type.
pub static TYPE: Type = Type { name: "tuning", oldest: Version::V0_1_0, add, del, check, gc: backup::gc, status };

fn previous(call: &Call<'_>) -> Result<Success, Error> {
    chain::previous(call, "Required prevResult missing")
}

fn interface(inside: &mut RouteSocket, pod: &Pod, name: &str) -> Result<Link, Error> {
    link::by_name(inside, name)?.ok_or_else(|| {
        Error::new(code::INTERNAL, format!("the pod has no interface {name}, in {}", pod.path()))
            .with_details("tuning goes after the plugin that makes the interface")
    })
}

/// Sets what is configured, and puts the interface's new MAC address and MTU into the result.
fn add(call: &Call<'_>) -> Result<Success, Error> {
    let settings = Settings::read(call)?;
    sysctl::allowed(&settings.sysctls)?;
    let mut result = previous(call)?;
    let pod = Pod::open(call.environment)?;
    let before = pod.inside(|| write_all(&settings.sysctls))?;
    let tuned = tune(call, &settings, &pod);
    tuned.map_err(|cause| take_back(cause, &pod, &before))?;
    for interface in &mut result.interfaces {
        if interface.name == call.environment.ifname && !interface.sandbox.is_empty() {
            interface.mac = settings.mac.map_or_else(|| interface.mac.clone(), |mac| mac.to_string());
            interface.mtu = settings.mtu.unwrap_or(interface.mtu);
        }
    }
    Ok(result)
}

/// Writes all parameters and returns them with the values they had; a failure puts these back.
fn write_all(wanted: &[Sysctl]) -> Result<Vec<Sysctl>, Error> {
    let mut before: Vec<Sysctl> = Vec::new();
    for sysctl in wanted {
        match sysctl.replace() {
            Ok(old) => before.push(old),
            Err(cause) => return Err(put_back(cause, &before)),
        }
    }
    Ok(before)
}

/// Gives parameters their values back, the last one changed first.
fn put_back(cause: Error, before: &[Sysctl]) -> Error {
    let failures: Vec<_> = before.iter().rev().filter_map(|old| old.write().err()).collect();
    match Error::all(failures) {
        None => cause,
        Some(failure) => cause.and_failed("undoing", &failure),
    }
}

fn take_back(cause: Error, pod: &Pod, before: &[Sysctl]) -> Error {
    let undone: Result<Error, Error> = pod.inside(|| Ok::<_, Error>(put_back(cause.clone(), before)));
    undone.unwrap_or(cause)
}

/// Sets the interface's properties, having noted the old ones; a failure gives them back.
fn tune(call: &Call<'_>, settings: &Settings, pod: &Pod) -> Result<(), Error> {
    let wanted = settings.properties();
    if wanted.is_empty() {
        return Ok(());
    }
    let name = &call.environment.ifname;
    let mut inside = pod.socket()?;
    let link = interface(&mut inside, pod, name)?;
    let file = backup::File::of(&settings.data_dir, call);
    // One that was cut off, by a plugin that does not write files whole, holds nothing to keep.
    let earlier = file.read().unwrap_or_default();
    let now = Backup::of(&link, &wanted, call);
    file.write(&now.clone().under(earlier.clone()))?;
    let tuned = inside.apply(wanted.iter().map(|property| set(name, *property)).collect());
    tuned.map_err(|cause| {
        let restored = inside.apply(now.properties().into_iter().map(|property| set(name, property)).collect());
        let rewritten = earlier.map_or_else(|| file.remove(), |earlier| file.write(&earlier));
        let failures = [restored.map_err(Error::from), rewritten].into_iter().filter_map(Result::err).collect();
        match Error::all(failures) {
            None => Error::from(cause),
            Some(failure) => Error::from(cause).with_details(format!("and undoing failed: {}", failure.msg)),
        }
    })
}

/// Gives the interface its old properties back, if it is still there, and forgets them.
fn del(call: &Call<'_>) -> Result<(), Error> {
    let file = backup::File::of(&settings::data_dir(call.config), call);
    // One that cannot be read holds nothing to give back, and must not keep a pod from being removed.
    let Some(before) = file.read().unwrap_or_default() else { return file.remove() };
    if before.is_of_another(call) {
        return Ok(());
    }
    if let Some(pod) = Pod::open_if_there(call.environment) {
        let mut inside = pod.socket()?;
        let name = &call.environment.ifname;
        if link::by_name(&mut inside, name)?.is_some() {
            // What the kernel refuses now it refuses always, and the others are given back all the same. It must not
            // keep a pod from being removed; the reference passes over it, too.
            let _ = inside.apply(before.properties().into_iter().map(|property| set(name, property)).collect());
        }
    }
    file.remove()
}

/// Compares what is configured with what is there.
fn check(call: &Call<'_>) -> Result<(), Error> {
    let settings = Settings::read(call)?;
    previous(call)?;
    let pod = Pod::open(call.environment)?;
    pod.inside(|| settings.sysctls.iter().try_for_each(Sysctl::check))?;
    let name = &call.environment.ifname;
    let link = interface(&mut pod.socket()?, &pod, name)?;
    for wanted in settings.properties() {
        let now = property_now(&link, wanted);
        if now != Some(wanted) {
            let now = now.map_or_else(|| "none".to_owned(), |now| now.to_string());
            let msg = format!("the interface {name} is configured to have {wanted} and has {now}");
            return Err(Error::new(code::CHECK_FAILED, msg));
        }
    }
    Ok(())
}

/// The interface's own value of a property; none when it has no Ethernet address.
fn property_now(link: &Link, of: Property) -> Option<Property> {
    Some(match of {
        Property::Mtu(_) => Property::Mtu(link.mtu),
        Property::Mac(_) => Property::Mac(link.mac?),
        Property::Promiscuous(_) => Property::Promiscuous(link.promiscuous),
        Property::AllMulticast(_) => Property::AllMulticast(link.all_multicast),
        Property::QueueLength(_) => Property::QueueLength(link.queue_length),
    })
}

/// Whether the configuration could be served.
fn status(call: &Call<'_>) -> Result<(), Error> {
    sysctl::allowed(&Settings::read(call)?.sysctls)
}
