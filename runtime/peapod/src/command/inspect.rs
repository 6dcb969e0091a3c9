//! `inspect`: the pod as the Kubernetes API would show it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::output::print;
use super::{Code, Context};
use crate::error::{Error, Result};
use crate::pod::{self, ContainerStatus, Ended, Kind, Phase, Record, State, Status};

/// Show a pod with its status, as JSON.
#[derive(clap::Args, Debug)]
pub struct Inspect {
    /// The pod
    pod: String,
}

impl Inspect {
    pub(super) fn run(&self, context: &Context) -> Result<Code> {
        let (places, record) = context.open(&self.pod)?;
        let status = Status::load(&places, &record)?;
        let text = serde_json::to_string_pretty(&object(record, &status))
            .map_err(|source| Error::Damaged { path: places.status(), source })?;
        print(format!("{text}\n"))?;
        Ok(None)
    }
}

/// The manifest as it was read, with what peapod knows filled in. What Kubernetes has no field for is an annotation.
fn object(record: Record, status: &Status) -> v1::Pod {
    let statuses = |kind, list: &[ContainerStatus]| -> Option<Vec<v1::ContainerStatus>> {
        (!list.is_empty()).then(|| list.iter().map(|container| container_status(&record, kind, container)).collect())
    };
    let pod_status = v1::PodStatus {
        phase: Some(format!("{:?}", status.phase)),
        reason: status.reason.clone(),
        message: status.message.clone(),
        pod_ip: status.addresses.first().map(ToString::to_string),
        pod_ips: addresses(status),
        start_time: status.started.map(Time),
        conditions: Some(conditions(status)),
        init_container_statuses: statuses(Kind::Init, &status.init),
        container_statuses: statuses(Kind::Main, &status.containers),
        ..v1::PodStatus::default()
    };
    let mut pod = record.pod.manifest.clone();
    pod.metadata.namespace = Some(record.pod.namespace.clone());
    pod.metadata.uid = Some(record.uid.clone());
    pod.metadata.creation_timestamp = Some(Time(record.created));
    pod.metadata.annotations.get_or_insert_default().extend(own_annotations(&record, status));
    pod.status = Some(pod_status);
    pod
}

fn own_annotations(record: &Record, status: &Status) -> BTreeMap<String, String> {
    let mut own = BTreeMap::from([
        ("peapod.io/desired".to_owned(), format!("{:?}", record.desired)),
        ("peapod.io/cgroup".to_owned(), pod::cgroup(&record.uid)),
    ]);
    if let Some(sandbox) = &status.sandbox {
        own.insert("peapod.io/sandbox-pid".to_owned(), sandbox.pid.to_string());
        own.insert("peapod.io/shim".to_owned(), sandbox.address.clone());
    }
    own
}

fn addresses(status: &Status) -> Option<Vec<v1::PodIP>> {
    let ips: Vec<v1::PodIP> = status.addresses.iter().map(|ip| v1::PodIP { ip: ip.to_string() }).collect();
    (!ips.is_empty()).then_some(ips)
}

fn conditions(status: &Status) -> Vec<v1::PodCondition> {
    let running = status.containers.iter().all(ContainerStatus::is_running);
    let table = [
        ("PodReadyToStartContainers", status.sandbox.is_some()),
        ("Initialized", status.initialized()),
        ("ContainersReady", running),
        ("Ready", running && status.phase == Phase::Running),
    ];
    let condition = |(name, holds): (&str, bool)| v1::PodCondition {
        type_: name.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        ..v1::PodCondition::default()
    };
    table.into_iter().map(condition).collect()
}

fn container_status(record: &Record, kind: Kind, container: &ContainerStatus) -> v1::ContainerStatus {
    let id = container.attempt.map(|attempt| {
        // Unique for ever: the pod's uid and the run's own name.
        format!("pea://{}/{}", record.uid, pod::task_id(&container.name, attempt))
    });
    v1::ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone(),
        image_id: record.images.get(&container.image).cloned().unwrap_or_default(),
        container_id: id.clone(),
        ready: container.is_running() || kind == Kind::Init && container.succeeded(),
        started: Some(container.is_running()),
        restart_count: i32::try_from(container.restarts).unwrap_or(i32::MAX),
        state: Some(state(&container.state, id)),
        last_state: container.last.as_ref().map(|ended| {
            let terminated = Some(terminated(ended, None));
            v1::ContainerState { terminated, ..v1::ContainerState::default() }
        }),
        ..v1::ContainerStatus::default()
    }
}

fn state(state: &State, id: Option<String>) -> v1::ContainerState {
    let none = v1::ContainerState::default();
    match state {
        State::Waiting { reason } => v1::ContainerState {
            waiting: Some(v1::ContainerStateWaiting { reason: Some(reason.clone()), message: None }),
            ..none
        },
        State::Running { started } => {
            v1::ContainerState { running: Some(v1::ContainerStateRunning { started_at: time(*started) }), ..none }
        }
        State::Terminated(ended) => v1::ContainerState { terminated: Some(terminated(ended, id)), ..none },
    }
}

fn terminated(ended: &Ended, container_id: Option<String>) -> v1::ContainerStateTerminated {
    v1::ContainerStateTerminated {
        container_id,
        exit_code: ended.exit_code,
        reason: Some(ended.reason.clone()),
        message: ended.message.clone(),
        started_at: ended.started.and_then(time),
        finished_at: time(ended.finished),
        ..v1::ContainerStateTerminated::default()
    }
}

fn time(at: Timestamp) -> Option<Time> {
    Some(Time(at))
}
