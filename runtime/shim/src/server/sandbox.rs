//! The Sandbox service: each request becomes one call, and its outcome an answer.

use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::sandbox_api as api;
use containerd_shim_protos::sandbox_async::Sandbox;
use containerd_shim_protos::types::platform::Platform;

use super::{Context, Response};
use crate::error::Error;
use crate::pod::Pod;
use crate::{sandbox, stats, usage, wire};

/// Answers about the pod's sandbox.
pub(super) struct Sandboxes(pub(super) Pod);

#[async_trait]
impl Sandbox for Sandboxes {
    async fn create_sandbox(
        &self,
        _: &Context,
        request: api::CreateSandboxRequest,
    ) -> Response<api::CreateSandboxResponse> {
        sandbox::create(&self.0, &request)?;
        Ok(api::CreateSandboxResponse::default())
    }

    async fn start_sandbox(
        &self,
        _: &Context,
        request: api::StartSandboxRequest,
    ) -> Response<api::StartSandboxResponse> {
        let sandbox = sandbox::find(&self.0, &request.sandbox_id)?;
        if sandbox.exit().is_some() {
            return Err(Error::precondition(format!("sandbox {} has ended", sandbox.id)).into());
        }
        Ok(api::StartSandboxResponse {
            pid: sandbox.pid(),
            created_at: MessageField::some(wire::timestamp(sandbox.created_at)),
            ..Default::default()
        })
    }

    async fn platform(&self, _: &Context, _: api::PlatformRequest) -> Response<api::PlatformResponse> {
        let platform =
            Platform { os: "linux".to_owned(), architecture: architecture().to_owned(), ..Default::default() };
        Ok(api::PlatformResponse { platform: MessageField::some(platform), ..Default::default() })
    }

    async fn stop_sandbox(&self, _: &Context, request: api::StopSandboxRequest) -> Response<api::StopSandboxResponse> {
        let sandbox = sandbox::find(&self.0, &request.sandbox_id)?;
        let timeout = (request.timeout_secs > 0).then(|| Duration::from_secs(request.timeout_secs.into()));
        self.0.to_the_end(|pod| async move { sandbox::stop(&pod, &sandbox, timeout).await }).await?;
        Ok(api::StopSandboxResponse::default())
    }

    async fn wait_sandbox(&self, _: &Context, request: api::WaitSandboxRequest) -> Response<api::WaitSandboxResponse> {
        let exit = sandbox::find(&self.0, &request.sandbox_id)?.wait().await;
        Ok(api::WaitSandboxResponse {
            exit_status: exit.status,
            exited_at: wire::exited_at(Some(exit)),
            ..Default::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &Context,
        request: api::SandboxStatusRequest,
    ) -> Response<api::SandboxStatusResponse> {
        let sandbox = sandbox::find(&self.0, &request.sandbox_id)?;
        let exit = sandbox.exit();
        let state = if exit.is_none() { "SANDBOX_READY" } else { "SANDBOX_NOTREADY" };
        Ok(api::SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            pid: sandbox.pid(),
            state: state.to_owned(),
            created_at: MessageField::some(wire::timestamp(sandbox.created_at)),
            exited_at: wire::exited_at(exit),
            ..Default::default()
        })
    }

    async fn ping_sandbox(&self, _: &Context, _: api::PingRequest) -> Response<api::PingResponse> {
        Ok(api::PingResponse::default())
    }

    async fn sandbox_metrics(
        &self,
        _: &Context,
        request: api::SandboxMetricsRequest,
    ) -> Response<api::SandboxMetricsResponse> {
        let sandbox = sandbox::find(&self.0, &request.sandbox_id)?;
        let mut response = api::SandboxMetricsResponse::default();
        let metric = response.metrics.mut_or_insert_default();
        metric.id.clone_from(&sandbox.id);
        metric.timestamp = MessageField::some(wire::timestamp(jiff::Timestamp::now()));
        metric.data = MessageField::some(stats::metrics(&usage::of_pod(&self.0))?);
        Ok(response)
    }

    async fn shutdown_sandbox(
        &self,
        _: &Context,
        request: api::ShutdownSandboxRequest,
    ) -> Response<api::ShutdownSandboxResponse> {
        match sandbox::find(&self.0, &request.sandbox_id) {
            Ok(sandbox) => self.0.to_the_end(|pod| async move { sandbox::shutdown(&pod, &sandbox).await }).await?,
            // A shim whose sandbox was never made is shut down all the same, unless it has other work.
            Err(_) if self.0.quit_if_idle() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(api::ShutdownSandboxResponse::default())
    }
}

/// The machine's architecture by Go's name for it, which is what images go by.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86" => "386",
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
