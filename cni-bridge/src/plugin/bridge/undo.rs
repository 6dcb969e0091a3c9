//! The undo stack of an ADD.

use super::plan::Plan;
use super::spoof;
use crate::netlink::{RouteSocket, link};
use crate::plugin::Call;
use crate::spec::Error;

/// How one thing that was made is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Give the addresses back; with the last ones, remove the masquerading.
    Addresses,
    /// Remove the check of MAC addresses.
    SpoofCheck,
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
    pub fn unwind(self, cause: Error, call: &Call<'_>, plan: &Plan, node: &mut RouteSocket) -> Error {
        let undo = |step: &Step| match step {
            Step::Addresses => plan.source.del(call, plan.settings.ip_masq),
            Step::SpoofCheck => spoof::remove(&plan.network, &plan.attachment).map_err(Error::from),
            Step::Veth => node.apply(vec![link::delete(&plan.host_name)]).map_err(Error::from),
        };
        let failures: Vec<_> = self.0.iter().rev().map(undo).filter_map(Result::err).collect();
        match Error::all(failures) {
            None => cause,
            Some(failure) => cause.and_failed("undoing", &failure),
        }
    }
}
