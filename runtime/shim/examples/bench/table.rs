//! Times, by what was done, then by who did it; both in the order in which they were first told.

use std::time::Duration;

/// Whom the others are compared with.
const PEERS: [&str; 4] = ["runc", "crun", "runc, cni-bridge", "crun, cni-bridge"];

#[derive(Default)]
pub struct Table(Vec<(&'static str, Row)>);

type Row = Vec<(&'static str, Vec<Duration>)>;

impl Table {
    pub fn add(&mut self, what: &'static str, who: &'static str, time: Duration) {
        entry(entry(&mut self.0, what), who).push(time);
    }

    pub fn print(&self) {
        for (what, row) in &self.0 {
            println!("{what}");
            for (who, times) in row {
                let (middle, least) = summary(times);
                let others =
                    row.iter().filter(|(other, _)| PEERS.contains(other) && other != who && !PEERS.contains(who));
                let ratios = others.map(|(other, times)| format!("  {:.2} x {other}", middle / summary(times).0));
                println!("  {who:<18} {middle:>7.1} ({least:.1}){}", ratios.collect::<String>());
            }
        }
    }

    /// The medians of one contestant in a line.
    pub fn line(&self) -> String {
        let median = |(what, row): &(&str, Row)| format!("{what} {:.1}", summary(&row[0].1).0);
        self.0.iter().map(median).collect::<Vec<_>>().join(", ")
    }
}

fn entry<'a, T: Default>(list: &'a mut Vec<(&'static str, T)>, name: &'static str) -> &'a mut T {
    let place = list.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
        list.push((name, T::default()));
        list.len() - 1
    });
    &mut list[place].1
}

/// Median and least, in milliseconds.
fn summary(times: &[Duration]) -> (f64, f64) {
    let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[0])
}
