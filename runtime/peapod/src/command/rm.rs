//! `rm`: removes pods with everything of them.

use super::output::print;
use super::{Code, Context, block_on};
use crate::error::{Error, Result};
use crate::pod;

/// Remove pods with everything of them.
#[derive(clap::Args, Debug)]
pub struct Rm {
    /// The pods
    #[arg(required = true)]
    pods: Vec<String>,
    /// Kill what runs, remove what is left of a crash, and take a missing pod for removed
    #[arg(long, short)]
    force: bool,
}

impl Rm {
    pub(super) fn run(&self, context: &Context) -> Result<Code> {
        let mut errors = Vec::new();
        for pod in &self.pods {
            let removed = context.places(pod).and_then(|places| {
                block_on(pod::remove(&places, self.force))?;
                Ok(places.key)
            });
            match removed {
                Ok(key) => print(format!("pod {key} removed\n"))?,
                Err(error) => errors.push(error),
            }
        }
        Error::collect(errors)?;
        Ok(None)
    }
}
