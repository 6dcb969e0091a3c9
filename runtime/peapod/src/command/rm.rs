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
            let places = context.places(pod);
            match block_on(pod::remove(&places, self.force)) {
                Ok(()) => print(format!("pod {} removed\n", places.key))?,
                Err(error) => errors.push(error),
            }
        }
        Error::collect(errors)?;
        Ok(None)
    }
}
