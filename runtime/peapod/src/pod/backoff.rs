//! Whether, and how soon, an ended container is started again. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::manifest::RestartPolicy;

/// The first pause, as kubelet's `containerBackOffPeriod`.
const FIRST: Duration = Duration::from_secs(10);
/// The longest pause, as kubelet's `MaxContainerBackOff`.
const LONGEST: Duration = Duration::from_secs(300);
/// Running this long makes a container's past forgiven: twice the longest pause, as kubelet does.
const FORGIVEN: Duration = Duration::from_secs(600);

/// How often a container has failed of late.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// How many restarts were granted since the last long run.
    granted: u32,
}

impl Backoff {
    /// The pause before the next restart of a container that ran for `ran`: none the first time, then 10 s, doubled
    /// each time up to 5 min; from the start again after a run of 10 min.
    pub fn pause(&mut self, ran: Duration) -> Duration {
        if ran >= FORGIVEN {
            self.granted = 0;
        }
        let pause = match self.granted {
            0 => Duration::ZERO,
            // 10 s times 2^5 is above the longest already: larger powers need not be reckoned, and cannot overflow.
            n => (FIRST * 2u32.pow((n - 1).min(5))).min(LONGEST),
        };
        self.granted = self.granted.saturating_add(1);
        pause
    }
}

/// Which of a pod's two lists a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Run to its end, before the others.
    Init,
    /// One of those the pod is for.
    Main,
}

/// Whether a container that ended with `exit_code` is started again.
///
/// An init container that succeeded never is; one that failed is retried under `Always` as under `OnFailure`,
/// since the pod cannot go on without it.
pub fn restarts(policy: RestartPolicy, kind: Kind, exit_code: i32) -> bool {
    match (policy, kind) {
        (RestartPolicy::Never, _) => false,
        (RestartPolicy::Always, Kind::Main) => true,
        (RestartPolicy::Always, Kind::Init) | (RestartPolicy::OnFailure, _) => exit_code != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_later_ones_wait_longer_up_to_five_minutes() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> = (0..9).map(|_| backoff.pause(Duration::from_secs(1)).as_secs()).collect();
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn ten_minutes_of_running_start_the_pauses_over() {
        let mut backoff = Backoff::default();
        for _ in 0..4 {
            backoff.pause(Duration::from_secs(1));
        }
        assert_eq!(backoff.pause(FORGIVEN - Duration::from_secs(1)).as_secs(), 80);
        assert_eq!(backoff.pause(FORGIVEN), Duration::ZERO);
        assert_eq!(backoff.pause(Duration::ZERO).as_secs(), 10);
    }

    #[test]
    fn the_restart_policy_decides_and_an_init_container_that_succeeded_is_never_run_again() {
        use Kind::{Init, Main};
        use RestartPolicy::{Always, Never, OnFailure};
        let table = [
            (Always, Main, 0, true),
            (Always, Main, 1, true),
            (Always, Init, 0, false),
            (Always, Init, 1, true),
            (OnFailure, Main, 0, false),
            (OnFailure, Main, 137, true),
            (OnFailure, Init, 0, false),
            (OnFailure, Init, 1, true),
            (Never, Main, 0, false),
            (Never, Main, 1, false),
            (Never, Init, 1, false),
        ];
        for (policy, kind, code, expected) in table {
            assert_eq!(restarts(policy, kind, code), expected, "{policy:?} {kind:?} exit code {code}");
        }
    }
}
