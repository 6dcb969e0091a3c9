//! What a chained plugin asks of the result of those before it.

use super::Call;
use crate::spec::{Error, Interface, Success};

/// `prevResult`, which must be there; `words` say so when it is not (every reference plugin has its own).
///
/// # Errors
/// [`crate::spec::code::INVALID_CONFIG`] without one, [`crate::spec::code::DECODE`] for one that is no result.
pub fn previous(call: &Call<'_>, words: &str) -> Result<Success, Error> {
    call.config.prev_result()?.ok_or_else(|| {
        Error::config(words).with_details(format!(
            "type {:?} goes after another plugin in a list of plugins, and is given that one's result as prevResult",
            call.config.plugin_type
        ))
    })
}

/// `prevResult` for DEL: none, or a broken one, never stands in the way of removing a pod.
pub fn previous_if_readable(call: &Call<'_>) -> Option<Success> {
    call.config.prev_result().ok().flatten()
}

/// The interface of that name in a container, with its index in the result.
pub fn in_container<'a>(result: &'a Success, name: &str) -> Option<(usize, &'a Interface)> {
    let is_it = |(_, interface): &(usize, &Interface)| interface.name == name && !interface.sandbox.is_empty();
    result.interfaces.iter().enumerate().find(is_it)
}

/// The interfaces on the node, in the result's order: for a bridge, the bridge and then the port.
pub fn on_node(result: &Success) -> impl Iterator<Item = &Interface> {
    result.interfaces.iter().filter(|interface| interface.sandbox.is_empty())
}
