//! The wire: requests in, the pod's verbs, responses out. No decision is made here.

use std::collections::HashMap;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::EnumOrUnknown;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::sandbox_api;
use containerd_shim_protos::sandbox_async::{Sandbox as SandboxService, create_sandbox};
use containerd_shim_protos::shim_async::{Task as TaskService, create_task};
use containerd_shim_protos::ttrpc;
use containerd_shim_protos::types::platform::Platform;
use containerd_shim_protos::types::task::{ProcessInfo, Status};
use ttrpc::asynchronous::{Server, Service, TtrpcContext};

use crate::error::Error;
use crate::peers::Peers;
use crate::pod::Pod;
use crate::task::{Container, Phase, Process};
use crate::{options, sandbox, stats, task, usage, wire};

const TASK_V3: &str = "containerd.task.v3.Task";
const TASK_V2: &str = "containerd.task.v2.Task";

/// The server of all services to all `peers`, on a socket that listens already.
pub fn server(pod: &Pod, peers: &Peers, listener: UnixListener) -> Result<Server, Error> {
    let failed = |source| Error::io("serve the shim's socket", source);
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(failed)?;
    Ok(Server::new()
        .add_listener(peers.counted(listener))
        .register_service(task_services(pod))
        .register_service(create_sandbox(Arc::new(Sandboxes(pod.clone())))))
}

/// Version 3 of the task API is version 2 under another name (containerd 2.0), so both are served by
/// the same handlers, whatever the client calls them.
fn task_services(pod: &Pod) -> HashMap<String, Service> {
    let v3 = create_task(Arc::new(Tasks(pod.clone())));
    let v2 = create_task(Arc::new(Tasks(pod.clone()))).into_iter().map(|(name, service)| match name.as_str() {
        TASK_V3 => (TASK_V2.to_owned(), service),
        _ => (name, service),
    });
    v3.into_iter().chain(v2).collect()
}

type Response<T> = ttrpc::Result<T>;

struct Tasks(Pod);

impl Tasks {
    fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        self.0.rest.worked();
        self.0.container(id)
    }

    fn process(&self, id: &str, exec_id: &str) -> Result<Arc<Process>, Error> {
        self.container(id)?.process(exec_id)
    }
}

#[async_trait]
impl TaskService for Tasks {
    async fn state(&self, _: &TtrpcContext, request: api::StateRequest) -> Response<api::StateResponse> {
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        let exit = process.exit();
        Ok(api::StateResponse {
            id: request.id,
            bundle: container.record.bundle.display().to_string(),
            pid: wire::pid(process.pid()),
            status: EnumOrUnknown::new(status(process.phase(), container.is_paused())),
            stdin: process.stdio.stdin.clone(),
            stdout: process.stdio.stdout.clone(),
            stderr: process.stdio.stderr.clone(),
            terminal: process.stdio.terminal,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: wire::exited_at(exit),
            exec_id: request.exec_id,
            ..Default::default()
        })
    }

    async fn create(&self, _: &TtrpcContext, request: api::CreateTaskRequest) -> Response<api::CreateTaskResponse> {
        let pod = self.0.clone();
        let pid = self.0.to_the_end(async move { task::create(&pod, request).await }).await?;
        Ok(api::CreateTaskResponse { pid: wire::pid(Some(pid)), ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: api::StartRequest) -> Response<api::StartResponse> {
        let pod = self.0.clone();
        let pid = self.0.to_the_end(async move { task::start(&pod, &request.id, &request.exec_id).await }).await?;
        Ok(api::StartResponse { pid: wire::pid(Some(pid)), ..Default::default() })
    }

    async fn delete(&self, _: &TtrpcContext, request: api::DeleteRequest) -> Response<api::DeleteResponse> {
        let pod = self.0.clone();
        let (pid, exit) =
            self.0.to_the_end(async move { task::delete(&pod, &request.id, &request.exec_id).await }).await?;
        Ok(api::DeleteResponse {
            pid: wire::pid(pid),
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: wire::exited_at(exit),
            ..Default::default()
        })
    }

    async fn pids(&self, _: &TtrpcContext, request: api::PidsRequest) -> Response<api::PidsResponse> {
        let container = self.container(&request.id)?;
        let execs = container.live_execs();
        let mut pids = container.runtime.pids(&request.id).map_err(Error::from)?;
        if pids.is_empty() {
            // containerd 2 asks when it comes back, and takes a task without processes for one that never came to be: it
            // would throw away the exit that nobody has asked for yet.
            pids.extend(container.init.pid());
        }
        let processes = pids.into_iter().map(|pid| ProcessInfo {
            pid: wire::pid(Some(pid)),
            info: execs
                .iter()
                .find(|exec| exec.pid() == Some(pid))
                .and_then(|exec| options::process_details(&exec.exec_id))
                .into(),
            ..Default::default()
        });
        Ok(api::PidsResponse { processes: processes.collect(), ..Default::default() })
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> Response<api::Empty> {
        task::kill(&self.0, &request.id, &request.exec_id, request.signal, request.all).await?;
        Ok(api::Empty::default())
    }

    async fn pause(&self, _: &TtrpcContext, request: api::PauseRequest) -> Response<api::Empty> {
        let pod = self.0.clone();
        self.0.to_the_end(async move { task::pause(&pod, &request.id).await }).await?;
        Ok(api::Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, request: api::ResumeRequest) -> Response<api::Empty> {
        let pod = self.0.clone();
        self.0.to_the_end(async move { task::resume(&pod, &request.id).await }).await?;
        Ok(api::Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, request: api::UpdateTaskRequest) -> Response<api::Empty> {
        let pod = self.0.clone();
        self.0.to_the_end(async move { task::update(&pod, &request).await }).await?;
        Ok(api::Empty::default())
    }

    async fn checkpoint(&self, _: &TtrpcContext, request: api::CheckpointTaskRequest) -> Response<api::Empty> {
        let pod = self.0.clone();
        self.0.to_the_end(async move { task::checkpoint(&pod, &request).await }).await?;
        Ok(api::Empty::default())
    }

    async fn exec(&self, _: &TtrpcContext, request: api::ExecProcessRequest) -> Response<api::Empty> {
        task::add_exec(&self.0, &request)?;
        Ok(api::Empty::default())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: api::ResizePtyRequest) -> Response<api::Empty> {
        let process = self.process(&request.id, &request.exec_id)?;
        let resized = process.with_streams(|streams| streams.resize(request.width, request.height));
        resized.unwrap_or_else(|| Err(Error::precondition(format!("{} has not been started", process.name()))))?;
        Ok(api::Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, request: api::CloseIORequest) -> Response<api::Empty> {
        let process = self.process(&request.id, &request.exec_id)?;
        if request.stdin {
            process.close_input();
        }
        Ok(api::Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, request: api::WaitRequest) -> Response<api::WaitResponse> {
        let exit = self.process(&request.id, &request.exec_id)?.wait().await?;
        Ok(api::WaitResponse { exit_status: exit.status, exited_at: wire::exited_at(Some(exit)), ..Default::default() })
    }

    async fn stats(&self, _: &TtrpcContext, request: api::StatsRequest) -> Response<api::StatsResponse> {
        let container = self.container(&request.id)?;
        let used = container.runtime.stats(&request.id).map_err(Error::from)?;
        Ok(api::StatsResponse { stats: MessageField::some(stats::metrics(&used)?), ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, request: api::ConnectRequest) -> Response<api::ConnectResponse> {
        let pid = self.0.container(&request.id).ok().and_then(|container| container.init.pid());
        Ok(api::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: wire::pid(pid),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: api::ShutdownRequest) -> Response<api::Empty> {
        // containerd asks after every delete; the pod's other containers, or its sandbox, still need the shim.
        self.0.quit_if_idle();
        Ok(api::Empty::default())
    }
}

fn status(phase: Phase, paused: bool) -> Status {
    match phase {
        Phase::Added | Phase::Building | Phase::Created => Status::CREATED,
        Phase::Running if paused => Status::PAUSED,
        Phase::Running => Status::RUNNING,
        Phase::Stopped | Phase::Deleted => Status::STOPPED,
    }
}

struct Sandboxes(Pod);

#[async_trait]
impl SandboxService for Sandboxes {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: sandbox_api::CreateSandboxRequest,
    ) -> Response<sandbox_api::CreateSandboxResponse> {
        sandbox::create(&self.0, &request)?;
        Ok(sandbox_api::CreateSandboxResponse::default())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: sandbox_api::StartSandboxRequest,
    ) -> Response<sandbox_api::StartSandboxResponse> {
        let sandbox = sandbox::find(&self.0, &request.sandbox_id)?;
        if sandbox.exit().is_some() {
            return Err(Error::precondition(format!("sandbox {} has ended", sandbox.id)).into());
        }
        Ok(sandbox_api::StartSandboxResponse {
            pid: sandbox.pid(),
            created_at: MessageField::some(wire::timestamp(sandbox.created_at)),
            ..Default::default()
        })
    }

    async fn platform(
        &self,
        _: &TtrpcContext,
        _: sandbox_api::PlatformRequest,
    ) -> Response<sandbox_api::PlatformResponse> {
        let platform =
            Platform { os: "linux".to_owned(), architecture: architecture().to_owned(), ..Default::default() };
        Ok(sandbox_api::PlatformResponse { platform: MessageField::some(platform), ..Default::default() })
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: sandbox_api::StopSandboxRequest,
    ) -> Response<sandbox_api::StopSandboxResponse> {
        let sandbox = sandbox::find(&self.0, &request.sandbox_id)?;
        let timeout = (request.timeout_secs > 0).then(|| Duration::from_secs(request.timeout_secs.into()));
        let pod = self.0.clone();
        self.0.to_the_end(async move { sandbox::stop(&pod, &sandbox, timeout).await }).await?;
        Ok(sandbox_api::StopSandboxResponse::default())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: sandbox_api::WaitSandboxRequest,
    ) -> Response<sandbox_api::WaitSandboxResponse> {
        let exit = sandbox::find(&self.0, &request.sandbox_id)?.wait().await;
        Ok(sandbox_api::WaitSandboxResponse {
            exit_status: exit.status,
            exited_at: wire::exited_at(Some(exit)),
            ..Default::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: sandbox_api::SandboxStatusRequest,
    ) -> Response<sandbox_api::SandboxStatusResponse> {
        let sandbox = sandbox::find(&self.0, &request.sandbox_id)?;
        let exit = sandbox.exit();
        let state = if exit.is_none() { "SANDBOX_READY" } else { "SANDBOX_NOTREADY" };
        Ok(sandbox_api::SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            pid: sandbox.pid(),
            state: state.to_owned(),
            created_at: MessageField::some(wire::timestamp(sandbox.created_at)),
            exited_at: wire::exited_at(exit),
            ..Default::default()
        })
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, _: sandbox_api::PingRequest) -> Response<sandbox_api::PingResponse> {
        Ok(sandbox_api::PingResponse::default())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: sandbox_api::SandboxMetricsRequest,
    ) -> Response<sandbox_api::SandboxMetricsResponse> {
        let sandbox = sandbox::find(&self.0, &request.sandbox_id)?;
        let mut response = sandbox_api::SandboxMetricsResponse::default();
        let metric = response.metrics.mut_or_insert_default();
        metric.id.clone_from(&sandbox.id);
        metric.timestamp = MessageField::some(wire::timestamp(jiff::Timestamp::now()));
        metric.data = MessageField::some(stats::metrics(&usage::of_pod(&self.0))?);
        Ok(response)
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: sandbox_api::ShutdownSandboxRequest,
    ) -> Response<sandbox_api::ShutdownSandboxResponse> {
        let pod = self.0.clone();
        match sandbox::find(&self.0, &request.sandbox_id) {
            Ok(sandbox) => self.0.to_the_end(async move { sandbox::shutdown(&pod, &sandbox).await }).await?,
            // A shim whose sandbox was never made is shut down all the same, unless it has other work.
            Err(_) if pod.quit_if_idle() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(sandbox_api::ShutdownSandboxResponse::default())
    }
}

/// The machine's architecture by Go's name for it, which is what images go by.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
