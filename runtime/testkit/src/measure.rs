//! Figures of things that are timed in turn, so that what the machine does meanwhile hits all of them alike.

use std::time::Instant;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// What one contestant took, round by round, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// From the beginning to the end.
    pub wall: Vec<f64>,
    /// User and system time of all child processes that were waited for meanwhile.
    pub cpu: Vec<f64>,
}

impl Times {
    /// Does `work` and keeps what it took, unless it failed.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn time<T>(&mut self, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        let (begin, cpu) = (Instant::now(), cpu_of_children()?);
        let done = work()?;
        self.wall.push(begin.elapsed().as_secs_f64() * 1e3);
        self.cpu.push(cpu_of_children()? - cpu);
        Ok(done)
    }
}

/// User and system time of all children waited for, in milliseconds.
fn cpu_of_children() -> Result<f64, String> {
    let usage: Usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|error| format!("getrusage: {error}"))?;
    Ok((usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e3)
}

/// The middle value, or the mean of the two in the middle.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

/// The shortest.
#[must_use]
pub fn shortest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Prints a line for each contestant. Ratios are to the first one, round by round.
pub fn report<'a>(contestants: impl IntoIterator<Item = (&'a str, &'a Times)>) {
    println!("{:<24} {:>9} {:>9} {:>9} {:>7}", "", "median ms", "min ms", "cpu ms", "ratio");
    let mut first: Option<&Times> = None;
    for (name, times) in contestants {
        let first = *first.get_or_insert(times);
        let ratios: Vec<f64> = times.wall.iter().zip(&first.wall).map(|(own, first)| own / first).collect();
        let (wall, cpu) = (median(&times.wall), median(&times.cpu));
        println!("{name:<24} {wall:>9.2} {:>9.2} {cpu:>9.2} {:>7.2}", shortest(&times.wall), median(&ratios));
    }
}
