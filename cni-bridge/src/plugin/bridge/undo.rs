//! The undo stack of an ADD.

use super::del::release;
use super::plan::Plan;
use crate::netlink::{RouteSocket, link};
use crate::spec::Error;

/// How one thing that was made is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Free the leases; with the last one, remove the masquerading.
    Leases,
    /// Remove the veth pair.
    Veth,
}

/// What was made so far.
#[derive(Debug, Default)]
pub(super) struct Undo(Vec<Step>);

impl Undo {
    /// Notes a thing made.
    pub fn push(&mut self, step: Step) {
        self.0.push(step);
    }

    /// Undoes everything, last thing first, going on after failures. Returns `cause`, with the failures as details.
    pub fn unwind(self, cause: Error, plan: &Plan, node: &mut RouteSocket) -> Error {
        let undo = |step: &Step| match step {
            Step::Leases => release(&plan.store, &plan.network, &plan.attachment, &[], plan.settings.ip_masq),
            Step::Veth => node.apply(vec![link::delete(&plan.host_name)]).map_err(Error::from),
        };
        let failures: Vec<_> = self.0.iter().rev().map(undo).filter_map(Result::err).collect();
        match Error::all(failures) {
            None => cause,
            Some(failure) => {
                cause.clone().with_details(format!("{} and undoing failed: {}", cause.details, failure.msg))
            }
        }
    }
}
