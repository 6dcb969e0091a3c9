//! Bringing up what a pod's containers share: volumes, the shim with its namespaces, the network.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use pea_shim::client::{Bootstrap, Shim};
use pea_shim::sandbox::{Namespace, SandboxOptions};

use super::{Places, Record, Sandbox, Status, cgroup};
use crate::error::{Error, Result, ShimContext};
use crate::files::make_dir;
use crate::manifest::Pod;
use crate::network::{Attachment, BuiltIn, Network, Request, loopback_up, mtu};
use crate::settings::Settings;
use crate::volume;

/// How long the shim may take to answer what it answers in milliseconds.
const ANSWER: Duration = Duration::from_secs(60);

/// The namespace the shim is told: containerd's notion, of which peapod needs one.
pub const SHIM_NAMESPACE: &str = "peapod";

/// The network namespace of a pod, by the process that holds it.
pub fn netns(sandbox: &Sandbox) -> PathBuf {
    PathBuf::from(format!("/proc/{}/ns/net", sandbox.pid))
}

/// Waits for an answer of the shim, but not for ever.
pub async fn answer<T>(
    doing: impl Fn() -> String,
    request: impl Future<Output = std::result::Result<T, pea_shim::client::Error>>,
) -> Result<T> {
    match tokio::time::timeout(ANSWER, request).await {
        Ok(answer) => answer.asking(doing),
        Err(_) => Err(pea_shim::client::Error::Failed(format!("no answer for {} s", ANSWER.as_secs()))).asking(doing),
    }
}

/// Brings up a pod that is down, up to the point where containers can be started, and notes it in `status`.
///
/// What a failure leaves is for [`super::teardown::take_down`], which needs nothing but the pod's directory.
pub async fn bring_up(places: &Places, record: &Record, status: &mut Status) -> Result<Shim> {
    let pod = &record.pod;
    let paths = places.volumes(&record.uid);
    volume::prepare(pod, &paths)?;
    volume::write_etc(pod, &paths, &[])?;
    let (shim, sandbox) = start_shim(places, record).await?;
    let mut addresses = Vec::new();
    if !pod.host_network {
        loopback_up(&netns(&sandbox))?;
        let network = choose_network(&places.settings)?;
        let mut attachment = Attachment::new(network, Request::new(&record.uid, pod));
        addresses = attachment.add(&places.network(), &places.settings.cni_bin_dir, &netns(&sandbox)).await?;
        volume::write_etc(pod, &paths, &addresses)?;
    }
    status.sandbox = Some(sandbox);
    status.addresses = addresses;
    status.started.get_or_insert_with(Timestamp::now);
    (status.reason, status.message) = (None, None);
    status.store(places)?;
    Ok(shim)
}

async fn start_shim(places: &Places, record: &Record) -> Result<(Shim, Sandbox)> {
    let uid = &record.uid;
    make_dir(&places.bundle())?;
    make_dir(&places.socket(uid))?;
    let program = places.settings.shim()?;
    let address = Bootstrap::start(program, &places.bundle(), SHIM_NAMESPACE, uid, &places.socket(uid))
        .asking(|| format!("starting the shim of pod {}", places.key))?;
    let shim = answer(|| format!("connecting to the shim of pod {}", places.key), Shim::connect(&address)).await?;
    let options = options(places, record);
    answer(
        || format!("making the namespaces of pod {}", places.key),
        shim.create_sandbox(uid, &places.bundle(), None, &options),
    )
    .await?;
    let started = answer(|| format!("starting the sandbox of pod {}", places.key), shim.start_sandbox(uid)).await?;
    let pid = i32::try_from(started.pid).map_err(|_| Error::pod(&places.key, "the shim named no process"))?;
    Ok((shim, Sandbox { address, pid }))
}

fn options(places: &Places, record: &Record) -> SandboxOptions {
    let namespaces = namespaces(&record.pod);
    let own_name = namespaces.contains(&Namespace::Uts);
    SandboxOptions {
        hostname: if own_name { record.pod.hostname.clone() } else { String::new() },
        namespaces,
        cgroup_parent: Some(cgroup(&record.uid).into()),
        pea_root: Some(places.pea()),
        systemd_cgroup: false,
        ..SandboxOptions::default()
    }
}

/// The namespaces a pod has to itself. A pod in the node's network has the node's host name too, as in Kubernetes.
fn namespaces(pod: &Pod) -> Vec<Namespace> {
    let table = [
        (Namespace::Ipc, !pod.host_ipc),
        (Namespace::Uts, !pod.host_network),
        (Namespace::Network, !pod.host_network),
        (Namespace::Pid, pod.share_process_namespace && !pod.host_pid),
    ];
    table.into_iter().filter(|(_, own)| *own).map(|(namespace, _)| namespace).collect()
}

/// The configured network, or the built-in one.
pub fn choose_network(settings: &Settings) -> Result<Network> {
    if let Some(network) = Network::load(&settings.cni_conf_dir)? {
        return Ok(network);
    }
    Ok(BuiltIn { mtu: mtu()?, leases: &settings.root.join("networks") }.network()?)
}
