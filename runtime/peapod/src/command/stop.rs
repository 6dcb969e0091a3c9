//! `stop`: SIGTERM, the grace period, SIGKILL; nothing of the pod runs afterwards.

use std::time::Duration;

use super::output::print;
use super::{Code, Context, block_on};
use crate::error::Result;
use crate::pod;

/// Stop a pod; its record, logs and volumes stay.
#[derive(clap::Args, Debug)]
pub struct Stop {
    /// The pod
    pod: String,
    /// Seconds between SIGTERM and SIGKILL [default: the manifest's terminationGracePeriodSeconds]
    #[arg(long, short, value_name = "S")]
    time: Option<u64>,
}

impl Stop {
    pub(super) fn run(&self, context: &Context) -> Result<Code> {
        let places = context.places(&self.pod)?;
        block_on(pod::stop(&places, self.time.map(Duration::from_secs)))?;
        print(format!("pod {} stopped\n", places.key))?;
        Ok(None)
    }
}
