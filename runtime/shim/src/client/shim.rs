//! The typed client of one shim.

use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::sandbox_api as sandbox;
use containerd_shim_protos::sandbox_async::SandboxClient;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use containerd_shim_protos::ttrpc::context::Context;
use oci_spec::runtime::{LinuxResources, Process};

use super::error::Error;
use super::types::{CreateTask, Exit, StartedSandbox, TaskProcess, TaskState, TaskStatus, instant, status};
use crate::sandbox::SandboxOptions;
use crate::stdio::Stdio;

/// A connection to a shim. Requests may be made side by side; a lost connection fails them all with [`Error::Closed`].
#[derive(Clone)]
pub struct Shim {
    task: TaskClient,
    sandbox: SandboxClient,
}

impl Shim {
    /// Connects to the address that [`Bootstrap::start`](super::Bootstrap::start) returned.
    /// Must be called inside a tokio runtime.
    pub async fn connect(address: &str) -> Result<Self, Error> {
        let client =
            Client::connect(address).await.map_err(|error| Error::Closed(format!("connect to {address}: {error}")))?;
        Ok(Self { task: TaskClient::new(client.clone()), sandbox: SandboxClient::new(client) })
    }

    /// Makes the pod's namespaces. `netns` is an existing network namespace to enter instead of making one.
    pub async fn create_sandbox(
        &self,
        id: &str,
        bundle: &Path,
        netns: Option<&Path>,
        options: &SandboxOptions,
    ) -> Result<(), Error> {
        let options = options.to_any().map_err(|error| Error::InvalidArgument(error.to_string()))?;
        let request = sandbox::CreateSandboxRequest {
            sandbox_id: id.to_owned(),
            bundle_path: bundle.display().to_string(),
            netns_path: netns.map(|path| path.display().to_string()).unwrap_or_default(),
            options: Some(options).into(),
            ..Default::default()
        };
        self.sandbox.create_sandbox(Context::default(), &request).await?;
        Ok(())
    }

    /// Declares the pod running and tells whose namespaces are its.
    pub async fn start_sandbox(&self, id: &str) -> Result<StartedSandbox, Error> {
        let request = sandbox::StartSandboxRequest { sandbox_id: id.to_owned(), ..Default::default() };
        let response = self.sandbox.start_sandbox(Context::default(), &request).await?;
        Ok(StartedSandbox { pid: response.pid, created_at: response.created_at.as_ref().and_then(instant) })
    }

    /// Kills what still runs in the pod and ends the pod's init.
    pub async fn stop_sandbox(&self, id: &str, timeout: Duration) -> Result<(), Error> {
        let request = sandbox::StopSandboxRequest {
            sandbox_id: id.to_owned(),
            timeout_secs: u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX),
            ..Default::default()
        };
        self.sandbox.stop_sandbox(Context::default(), &request).await?;
        Ok(())
    }

    /// Waits until the pod has been stopped (or its init has died).
    pub async fn wait_sandbox(&self, id: &str) -> Result<Exit, Error> {
        let request = sandbox::WaitSandboxRequest { sandbox_id: id.to_owned(), ..Default::default() };
        let response = self.sandbox.wait_sandbox(Context::default(), &request).await?;
        Ok(Exit::new(0, response.exit_status, response.exited_at.as_ref()))
    }

    /// Removes what the pod has left (containers, control groups, socket) and ends the shim.
    pub async fn shutdown_sandbox(&self, id: &str) -> Result<(), Error> {
        let request = sandbox::ShutdownSandboxRequest { sandbox_id: id.to_owned(), ..Default::default() };
        self.sandbox.shutdown_sandbox(Context::default(), &request).await?;
        Ok(())
    }

    /// Creates a container; its program waits for [`start`](Self::start). Returns the init's pid.
    pub async fn create(&self, task: &CreateTask) -> Result<u32, Error> {
        let rootfs = task.rootfs.iter().map(|mount| api::Mount {
            type_: mount.kind.clone(),
            source: mount.source.clone(),
            options: mount.options.clone(),
            ..Default::default()
        });
        let request = api::CreateTaskRequest {
            id: task.id.clone(),
            bundle: task.bundle.display().to_string(),
            rootfs: rootfs.collect(),
            terminal: task.stdio.terminal,
            stdin: task.stdio.stdin.clone(),
            stdout: task.stdio.stdout.clone(),
            stderr: task.stdio.stderr.clone(),
            checkpoint: task.checkpoint.as_ref().map(|images| images.display().to_string()).unwrap_or_default(),
            options: task.criu.as_deref().map(crate::options::naming_criu).into(),
            ..Default::default()
        };
        Ok(self.task.create(Context::default(), &request).await?.pid)
    }

    /// Registers a process to run in the container; [`start`](Self::start) with its `exec_id` runs it.
    pub async fn exec(&self, id: &str, exec_id: &str, process: &Process, stdio: &Stdio) -> Result<(), Error> {
        let value = serde_json::to_vec(process).map_err(|error| Error::InvalidArgument(error.to_string()))?;
        let spec = Any { type_url: crate::options::PROCESS_TYPE_URL.to_owned(), value, ..Default::default() };
        let request = api::ExecProcessRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            terminal: stdio.terminal,
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            spec: Some(spec).into(),
            ..Default::default()
        };
        self.task.exec(Context::default(), &request).await?;
        Ok(())
    }

    /// Starts the container's program, or the exec of that id. Returns the pid.
    pub async fn start(&self, id: &str, exec_id: Option<&str>) -> Result<u32, Error> {
        let request = api::StartRequest { id: id.to_owned(), exec_id: exec(exec_id), ..Default::default() };
        Ok(self.task.start(Context::default(), &request).await?.pid)
    }

    /// Sends a signal to one process, or with `all` to every process of the container.
    /// [`Error::NotFound`] once the process has ended.
    pub async fn kill(&self, id: &str, exec_id: Option<&str>, signal: u32, all: bool) -> Result<(), Error> {
        let request = api::KillRequest { id: id.to_owned(), exec_id: exec(exec_id), signal, all, ..Default::default() };
        self.task.kill(Context::default(), &request).await?;
        Ok(())
    }

    /// Waits for the end of the process; returns at once when it has ended.
    pub async fn wait(&self, id: &str, exec_id: Option<&str>) -> Result<Exit, Error> {
        let request = api::WaitRequest { id: id.to_owned(), exec_id: exec(exec_id), ..Default::default() };
        let response = self.task.wait(Context::default(), &request).await?;
        Ok(Exit::new(0, response.exit_status, response.exited_at.as_ref()))
    }

    /// Removes an ended process (with the container, when it is the init) after its output has been
    /// written out. Refused with [`Error::FailedPrecondition`] while it runs.
    pub async fn delete(&self, id: &str, exec_id: Option<&str>) -> Result<Exit, Error> {
        let request = api::DeleteRequest { id: id.to_owned(), exec_id: exec(exec_id), ..Default::default() };
        let response = self.task.delete(Context::default(), &request).await?;
        Ok(Exit::new(response.pid, response.exit_status, response.exited_at.as_ref()))
    }

    /// Where the process stands.
    pub async fn state(&self, id: &str, exec_id: Option<&str>) -> Result<TaskState, Error> {
        let request = api::StateRequest { id: id.to_owned(), exec_id: exec(exec_id), ..Default::default() };
        let response = self.task.state(Context::default(), &request).await?;
        let status = status(response.status);
        let exit = (status == TaskStatus::Stopped)
            .then(|| Exit::new(response.pid, response.exit_status, response.exited_at.as_ref()));
        Ok(TaskState { pid: response.pid, status, exit })
    }

    /// Sets the size of the process's terminal, in characters.
    pub async fn resize(&self, id: &str, exec_id: Option<&str>, width: u32, height: u32) -> Result<(), Error> {
        let request =
            api::ResizePtyRequest { id: id.to_owned(), exec_id: exec(exec_id), width, height, ..Default::default() };
        self.task.resize_pty(Context::default(), &request).await?;
        Ok(())
    }

    /// Ends the process's standard input once what the FIFO holds has been handed over.
    pub async fn close_io(&self, id: &str, exec_id: Option<&str>) -> Result<(), Error> {
        let request =
            api::CloseIORequest { id: id.to_owned(), exec_id: exec(exec_id), stdin: true, ..Default::default() };
        self.task.close_io(Context::default(), &request).await?;
        Ok(())
    }

    /// All processes of the container.
    pub async fn pids(&self, id: &str) -> Result<Vec<TaskProcess>, Error> {
        let request = api::PidsRequest { id: id.to_owned(), ..Default::default() };
        let response = self.task.pids(Context::default(), &request).await?;
        let processes = response.processes.iter().map(|process| TaskProcess {
            pid: process.pid,
            exec_id: process.info.as_ref().and_then(crate::options::exec_of_details),
        });
        Ok(processes.collect())
    }

    /// Stops all processes of a running container where they are.
    pub async fn pause(&self, id: &str) -> Result<(), Error> {
        let request = api::PauseRequest { id: id.to_owned(), ..Default::default() };
        self.task.pause(Context::default(), &request).await?;
        Ok(())
    }

    /// Lets a paused container go on.
    pub async fn resume(&self, id: &str) -> Result<(), Error> {
        let request = api::ResumeRequest { id: id.to_owned(), ..Default::default() };
        self.task.resume(Context::default(), &request).await?;
        Ok(())
    }

    /// Sets other limits; what is not given stays.
    pub async fn update(&self, id: &str, resources: &LinuxResources) -> Result<(), Error> {
        let value = serde_json::to_vec(resources).map_err(|error| Error::InvalidArgument(error.to_string()))?;
        let resources = Any { type_url: crate::options::RESOURCES_TYPE_URL.to_owned(), value, ..Default::default() };
        let request =
            api::UpdateTaskRequest { id: id.to_owned(), resources: Some(resources).into(), ..Default::default() };
        self.task.update(Context::default(), &request).await?;
        Ok(())
    }

    /// Writes the container's processes to files in `directory`, by means of CRIU; with `exit` the container ends with it.
    pub async fn checkpoint(&self, id: &str, directory: &Path, exit: bool) -> Result<(), Error> {
        let path = directory.display().to_string();
        let options = Some(crate::options::checkpoint_that_exits()).filter(|_| exit).into();
        let request = api::CheckpointTaskRequest { id: id.to_owned(), path, options, ..Default::default() };
        self.task.checkpoint(Context::default(), &request).await?;
        Ok(())
    }

    /// Has a shim end that has nothing to look after; one with a container or a sandbox stays.
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.task.shutdown(Context::default(), &api::ShutdownRequest::default()).await?;
        Ok(())
    }

    /// The shim's own pid and the init's of the container (0 for an id it does not know).
    pub async fn connect_task(&self, id: &str) -> Result<(u32, u32), Error> {
        let request = api::ConnectRequest { id: id.to_owned(), ..Default::default() };
        let response = self.task.connect(Context::default(), &request).await?;
        Ok((response.shim_pid, response.task_pid))
    }
}

fn exec(id: Option<&str>) -> String {
    id.unwrap_or_default().to_owned()
}
