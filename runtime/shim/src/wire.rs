//! Small conversions to the wire's types.

use containerd_shim_protos::api::{CreateTaskRequest, ExecProcessRequest};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;

use crate::reap::Exit;
use crate::stdio::Stdio;

/// The streams of a request that has fields for them.
macro_rules! stdio_of {
    ($($request:ty),*) => {
        $(impl From<&$request> for Stdio {
            fn from(request: &$request) -> Self {
                Self {
                    stdin: request.stdin.clone(),
                    stdout: request.stdout.clone(),
                    stderr: request.stderr.clone(),
                    terminal: request.terminal,
                }
            }
        })*
    };
}

stdio_of!(CreateTaskRequest, ExecProcessRequest);

/// A moment as protobuf has it.
pub fn timestamp(at: jiff::Timestamp) -> Timestamp {
    Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond(), ..Default::default() }
}

/// The moment of an exit; absent while there is none.
pub fn exited_at(exit: Option<Exit>) -> MessageField<Timestamp> {
    exit.map(|exit| timestamp(exit.at)).into()
}

/// A pid as the protocol has it: unsigned, 0 for none.
pub fn pid(pid: Option<i32>) -> u32 {
    pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0)
}
