//! Type `cni-bridge`: `bridge`, and after it `portmap` for the runtimes that offer the capability `portMappings`.
//!
//! A node whose pods need no more has one plugin in its list, and one process an attachment.

use super::{Call, Type, bridge, portmap};
use crate::spec::{Error, Success, Verb, Version};

/// The row of this type.
pub static TYPE: Type = Type { name: "cni-bridge", oldest: Version::V0_1_0, add, del, check, gc, status };

fn add(call: &Call<'_>) -> Result<Success, Error> {
    // What is wrong with the mappings is said before anything is made.
    portmap::settings::Settings::read(call.config)?;
    let success = (bridge::TYPE.add)(call)?;
    portmap::map(call, &success).map_err(|cause| match (bridge::TYPE.del)(&Call { verb: Verb::Del, ..*call }) {
        Ok(()) => cause,
        Err(failure) => cause.and_failed("undoing", &failure),
    })?;
    Ok(success)
}

/// What failed of two that were both done, as one.
fn both(outcomes: [Result<(), Error>; 2]) -> Result<(), Error> {
    Error::all(outcomes.into_iter().filter_map(Result::err).collect()).map_or(Ok(()), Err)
}

fn del(call: &Call<'_>) -> Result<(), Error> {
    both([(portmap::TYPE.del)(call), (bridge::TYPE.del)(call)])
}

fn gc(call: &Call<'_>) -> Result<(), Error> {
    both([(portmap::TYPE.gc)(call), (bridge::TYPE.gc)(call)])
}

fn check(call: &Call<'_>) -> Result<(), Error> {
    (bridge::TYPE.check)(call).and_then(|()| (portmap::TYPE.check)(call))
}

fn status(call: &Call<'_>) -> Result<(), Error> {
    (bridge::TYPE.status)(call).and_then(|()| (portmap::TYPE.status)(call))
}
