//! The Task service: each request becomes one call, and its outcome an answer.

use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::{EnumOrUnknown, MessageField};
use containerd_shim_protos::shim_async::Task;
use containerd_shim_protos::types::task::{ProcessInfo, Status};

use super::{Context, Response};
use crate::error::Error;
use crate::pod::Pod;
use crate::task::{Container, Phase, Process};
use crate::{options, stats, task, wire};

/// Answers about the pod's containers and their processes.
pub(super) struct Tasks(pub(super) Pod);

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
impl Task for Tasks {
    async fn state(&self, _: &Context, request: api::StateRequest) -> Response<api::StateResponse> {
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

    async fn create(&self, _: &Context, request: api::CreateTaskRequest) -> Response<api::CreateTaskResponse> {
        let pid = self.0.to_the_end(|pod| async move { task::create(&pod, request).await }).await?;
        Ok(api::CreateTaskResponse { pid: wire::pid(Some(pid)), ..Default::default() })
    }

    async fn start(&self, _: &Context, request: api::StartRequest) -> Response<api::StartResponse> {
        let pid =
            self.0.to_the_end(|pod| async move { task::start(&pod, &request.id, &request.exec_id).await }).await?;
        Ok(api::StartResponse { pid: wire::pid(Some(pid)), ..Default::default() })
    }

    async fn delete(&self, _: &Context, request: api::DeleteRequest) -> Response<api::DeleteResponse> {
        let (pid, exit) =
            self.0.to_the_end(|pod| async move { task::delete(&pod, &request.id, &request.exec_id).await }).await?;
        Ok(api::DeleteResponse {
            pid: wire::pid(pid),
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: wire::exited_at(exit),
            ..Default::default()
        })
    }

    async fn pids(&self, _: &Context, request: api::PidsRequest) -> Response<api::PidsResponse> {
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

    async fn kill(&self, _: &Context, request: api::KillRequest) -> Response<api::Empty> {
        self.0.to_the_end(|pod| async move { task::kill(&pod, &request).await }).await?;
        Ok(api::Empty::default())
    }

    async fn pause(&self, _: &Context, request: api::PauseRequest) -> Response<api::Empty> {
        self.0.to_the_end(|pod| async move { task::pause(&pod, &request.id).await }).await?;
        Ok(api::Empty::default())
    }

    async fn resume(&self, _: &Context, request: api::ResumeRequest) -> Response<api::Empty> {
        self.0.to_the_end(|pod| async move { task::resume(&pod, &request.id).await }).await?;
        Ok(api::Empty::default())
    }

    async fn update(&self, _: &Context, request: api::UpdateTaskRequest) -> Response<api::Empty> {
        self.0.to_the_end(|pod| async move { task::update(&pod, &request).await }).await?;
        Ok(api::Empty::default())
    }

    async fn checkpoint(&self, _: &Context, request: api::CheckpointTaskRequest) -> Response<api::Empty> {
        self.0.to_the_end(|pod| async move { task::checkpoint(&pod, &request).await }).await?;
        Ok(api::Empty::default())
    }

    async fn exec(&self, _: &Context, request: api::ExecProcessRequest) -> Response<api::Empty> {
        task::add_exec(&self.0, &request)?;
        Ok(api::Empty::default())
    }

    async fn resize_pty(&self, _: &Context, request: api::ResizePtyRequest) -> Response<api::Empty> {
        let process = self.process(&request.id, &request.exec_id)?;
        let resized = process.with_streams(|streams| streams.resize(request.width, request.height));
        // It has none before it is built, nor once it is being deleted.
        resized.unwrap_or_else(|| Err(process.stands()))?;
        Ok(api::Empty::default())
    }

    async fn close_io(&self, _: &Context, request: api::CloseIORequest) -> Response<api::Empty> {
        let process = self.process(&request.id, &request.exec_id)?;
        if request.stdin {
            process.close_input();
        }
        Ok(api::Empty::default())
    }

    async fn wait(&self, _: &Context, request: api::WaitRequest) -> Response<api::WaitResponse> {
        let exit = self.process(&request.id, &request.exec_id)?.wait().await?;
        Ok(api::WaitResponse { exit_status: exit.status, exited_at: wire::exited_at(Some(exit)), ..Default::default() })
    }

    async fn stats(&self, _: &Context, request: api::StatsRequest) -> Response<api::StatsResponse> {
        let container = self.container(&request.id)?;
        let used = container.runtime.stats(&request.id).map_err(Error::from)?;
        Ok(api::StatsResponse { stats: MessageField::some(stats::metrics(&used)?), ..Default::default() })
    }

    async fn connect(&self, _: &Context, request: api::ConnectRequest) -> Response<api::ConnectResponse> {
        let pid = self.0.container(&request.id).ok().and_then(|container| container.init.pid());
        Ok(api::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: wire::pid(pid),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &Context, _: api::ShutdownRequest) -> Response<api::Empty> {
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
