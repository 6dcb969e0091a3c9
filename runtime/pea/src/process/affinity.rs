//! `process.execCPUAffinity`: on which processors a process executed in a container runs.

use oci_spec::runtime::ExecCPUAffinity;

use super::list;
use crate::error::Error;
use crate::sys::sched;

/// The processors before and after the process is in the container's cgroup, as masks.
#[derive(Clone, Debug, Default)]
pub struct Affinity {
    before: Option<Vec<u64>>,
    after: Option<Vec<u64>>,
}

/// Every processor there could be.
const ALL: [u64; 128] = [u64::MAX; 128];

impl Affinity {
    pub fn new(given: Option<&ExecCPUAffinity>) -> Result<Self, Error> {
        let Some(given) = given else { return Ok(Self::default()) };
        Ok(Self {
            before: mask("initial", given.initial().as_deref())?,
            after: mask("final", given.cpu_affinity_final().as_deref())?,
        })
    }

    /// For the process that is about to enter the container's cgroup: where to do it.
    pub fn apply_initial(&self) -> Result<(), Error> {
        apply("initial", self.before.as_deref())
    }

    /// For the process in the container's cgroup.
    ///
    /// Where nothing is said at all, it runs wherever its cgroup may: else it would keep the processors its caller was
    /// confined to, since the kernel remembers these (sched_setaffinity(2), Linux 6.2).
    pub fn apply_final(&self) -> Result<(), Error> {
        if self.before.is_none() && self.after.is_none() {
            // What cannot be widened stays as it is.
            let _ = sched::set_affinity(&ALL);
            return Ok(());
        }
        apply("final", self.after.as_deref())
    }
}

fn mask(key: &str, list: Option<&str>) -> Result<Option<Vec<u64>>, Error> {
    // Empty is as good as absent (runtime-spec, "execCPUAffinity").
    let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok(None) };
    match list::mask(list) {
        Some(mask) => Ok(Some(mask)),
        None => Err(Error::spec(format!("process.execCPUAffinity.{key}: {list:?} is no list of processors"))),
    }
}

fn apply(key: &str, mask: Option<&[u64]>) -> Result<(), Error> {
    let Some(mask) = mask else { return Ok(()) };
    sched::set_affinity(mask).map_err(|error| Error::io(format!("process.execCPUAffinity.{key}"), error))?;
    tracing::debug!("{key} CPU affinity: {}", hex(mask));
    Ok(())
}

/// As people write masks: the lowest processor is the last bit.
fn hex(mask: &[u64]) -> String {
    let words: Vec<&u64> = mask.iter().rev().skip_while(|word| **word == 0).collect();
    let Some((first, rest)) = words.split_first() else { return "0x0".to_owned() };
    rest.iter().fold(format!("0x{first:x}"), |text, word| text + &format!("{word:016x}"))
}

#[cfg(test)]
mod tests {
    use super::hex;

    #[test]
    fn a_mask_is_told_highest_processor_first() {
        assert_eq!(hex(&[0b11]), "0x3");
        assert_eq!(hex(&[1, 0b10, 0]), "0x20000000000000001");
        assert_eq!(hex(&[0]), "0x0");
    }
}
