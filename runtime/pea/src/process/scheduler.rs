//! `process.scheduler` and `process.ioPriority` (sched(7), ioprio_set(2)).

use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxSchedulerFlag as Flag, LinuxSchedulerPolicy as Policy, Scheduler,
};

use crate::error::{Error, ErrorKind};
use crate::sys::sched::{self, Attributes};

/// The attributes the specification asks for, as the kernel takes them.
pub fn attributes(given: &Scheduler) -> Result<Attributes, Error> {
    let policy = *given.policy();
    check(given, policy)?;
    Ok(Attributes {
        policy: number(policy)?,
        flags: given.flags().iter().flatten().fold(0, |flags, each| flags | flag(*each)),
        nice: given.nice().unwrap_or(0),
        priority: given.priority().map_or(Ok(0), u32::try_from).map_err(|_| refusal("priority: is negative"))?,
        runtime: given.runtime().unwrap_or(0),
        deadline: given.deadline().unwrap_or(0),
        period: given.period().unwrap_or(0),
        ..Attributes::default()
    })
}

/// Applies them to this process.
pub fn apply(attributes: Attributes) -> Result<(), Error> {
    sched::set_attributes(attributes).map_err(|error| {
        let hint = match error.raw_os_error() {
            Some(libc::EPERM) if attributes.priority > 0 => {
                " (on cgroup v1, linux.resources.cpu.realtimeRuntime is its real-time budget)"
            }
            _ => "",
        };
        Error::io(format!("process.scheduler: sched_setattr{hint}"), error)
    })
}

/// linux/sched.h
fn number(policy: Policy) -> Result<u32, Error> {
    match policy {
        Policy::SchedOther => Ok(0),
        Policy::SchedFifo => Ok(1),
        Policy::SchedRr => Ok(2),
        Policy::SchedBatch => Ok(3),
        Policy::SchedIdle => Ok(5),
        Policy::SchedDeadline => Ok(6),
        Policy::SchedIso => {
            let text = "process.scheduler.policy: SCHED_ISO is reserved, no kernel implements it";
            Err(Error::new(ErrorKind::Unsupported, text))
        }
    }
}

fn flag(flag: Flag) -> u64 {
    match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    }
}

fn refusal(text: &str) -> Error {
    Error::spec(format!("process.scheduler.{text}"))
}

/// The kernel says no more than "invalid argument".
fn check(given: &Scheduler, policy: Policy) -> Result<(), Error> {
    let fair = matches!(policy, Policy::SchedOther | Policy::SchedBatch);
    let nice = given.nice().unwrap_or(0);
    if fair && !(-20..=19).contains(&nice) {
        return Err(refusal(&format!("nice: {nice} is not between -20 and 19")));
    }
    let real_time = matches!(policy, Policy::SchedFifo | Policy::SchedRr);
    if !real_time && given.priority().is_some_and(|priority| priority != 0) {
        return Err(refusal(&format!("priority: is for SCHED_FIFO and SCHED_RR, the policy is {policy}")));
    }
    if policy == Policy::SchedDeadline {
        return check_deadline(given);
    }
    let times = [("runtime", given.runtime()), ("deadline", given.deadline()), ("period", given.period())];
    match times.iter().find(|(_, time)| time.is_some_and(|time| time != 0)) {
        Some((key, _)) => Err(refusal(&format!("{key}: is for SCHED_DEADLINE, the policy is {policy}"))),
        None => Ok(()),
    }
}

/// sched(7), "SCHED_DEADLINE": 1024 ns <= runtime <= deadline <= period < 2^63 ns; no period means the deadline.
fn check_deadline(given: &Scheduler) -> Result<(), Error> {
    const LEAST: u64 = 1024;
    const MOST: u64 = 1 << 63;
    let refuse = |text: String| Err(Error::spec(format!("process.scheduler: sched_setattr: `SCHED_DEADLINE` {text}")));
    let Some(runtime) = *given.runtime() else { return refuse("requires `runtime`".to_owned()) };
    let Some(deadline) = *given.deadline() else { return refuse("requires `deadline`".to_owned()) };
    let period = given.period().filter(|period| *period != 0);
    for (key, value) in [("runtime", runtime), ("deadline", deadline)] {
        if value == 0 {
            return refuse(format!("{key} must be greater than 0"));
        }
    }
    if runtime > deadline {
        return refuse(format!("runtime ({runtime}) must be <= deadline ({deadline})"));
    }
    if let Some(period) = period.filter(|period| deadline > *period) {
        return refuse(format!("deadline ({deadline}) must be <= period ({period})"));
    }
    for (key, value) in [("runtime", runtime), ("deadline", deadline), ("period", period.unwrap_or(deadline))] {
        if !(LEAST..MOST).contains(&value) {
            return refuse(format!("{key} ({value}) must be between {LEAST} and {}", MOST - 1));
        }
    }
    Ok(())
}

/// A class of ioprio_set(2) and a level in it.
#[derive(Clone, Copy, Debug)]
pub struct IoPriority {
    class: u32,
    level: u32,
}

impl IoPriority {
    pub fn new(given: LinuxIOPriority) -> Result<Self, Error> {
        let class = match given.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = given.priority();
        match u32::try_from(level) {
            Ok(level) if level <= 7 => Ok(Self { class, level }),
            _ => Err(Error::spec(format!("process.ioPriority.priority: {level} is not between 0 and 7"))),
        }
    }

    /// Applies it to this process.
    pub fn apply(self) -> Result<(), Error> {
        sched::set_io_priority(self.class, self.level).map_err(|error| Error::io("process.ioPriority", error))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(value: Value) -> Result<Attributes, String> {
        let given: Scheduler = serde_json::from_value(value).expect("a scheduler");
        attributes(&given).map_err(|error| error.to_string())
    }

    #[test]
    fn policies_and_flags_have_the_kernels_numbers() {
        let flags = json!(["SCHED_RESET_ON_FORK", "SCHED_FLAG_KEEP_PARAMS"]);
        let round_robin = parse(json!({"policy": "SCHED_RR", "priority": 9, "flags": flags})).expect("fits");
        assert_eq!((round_robin.policy, round_robin.priority, round_robin.flags), (2, 9, 0x11));
        let batch = parse(json!({"policy": "SCHED_BATCH", "nice": -7})).expect("fits");
        assert_eq!((batch.policy, batch.nice), (3, -7));
        let deadline = parse(json!({"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 3000, "period": 4000}));
        let deadline = deadline.expect("fits");
        assert_eq!((deadline.policy, deadline.runtime, deadline.deadline, deadline.period), (6, 2000, 3000, 4000));
    }

    #[test]
    fn what_the_kernel_would_refuse_without_a_word_is_refused_with_one() {
        let deadline = |runtime: u64, deadline: u64, period: u64| json!({"policy": "SCHED_DEADLINE", "runtime": runtime, "deadline": deadline, "period": period});
        let refused = [
            (json!({"policy": "SCHED_OTHER", "nice": 20}), "nice: 20"),
            (json!({"policy": "SCHED_BATCH", "priority": 1}), "priority"),
            (json!({"policy": "SCHED_FIFO", "runtime": 5}), "runtime"),
            (json!({"policy": "SCHED_ISO"}), "SCHED_ISO"),
            (json!({"policy": "SCHED_DEADLINE", "deadline": 5}), "requires `runtime`"),
            (json!({"policy": "SCHED_DEADLINE", "runtime": 5}), "requires `deadline`"),
            (deadline(0, 5000, 0), "runtime must be greater than 0"),
            (deadline(6000, 5000, 0), "must be <= deadline"),
            (deadline(4000, 5000, 4500), "must be <= period"),
            (deadline(1000, 5000, 0), "must be between"),
            (deadline(1 << 63, 1 << 63, 0), "must be between"),
        ];
        for (given, phrase) in refused {
            let text = parse(given.clone()).expect_err("refused");
            assert!(text.contains(phrase), "{given}: {text}");
        }
    }
}
