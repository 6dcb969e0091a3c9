//! `keep`: the keeper's process. Not for people.

use super::{Code, Context};
use crate::error::{Error, Result};
use crate::pod::{self, Key};

/// Keep a pod running.
#[derive(clap::Args, Debug)]
pub struct Keep {
    /// The pod's directory name
    key: String,
    /// A `run` waits for news of this pod
    #[arg(long)]
    new: bool,
}

impl Keep {
    pub(super) fn run(&self, context: &Context) -> Result<Code> {
        let key = Key::parse(&self.key).ok_or_else(|| Error::NoSuchPod(Key::new("default", &self.key)))?;
        pod::keep(&context.settings, key, self.new)?;
        Ok(None)
    }
}
