//! Reading what a cgroup uses. A file that is not there (a controller that is off, an older kernel) reads as zero.

mod v1;
mod v2;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::hierarchy::Layout;
use crate::error::Error;
use crate::stats::{MemoryCounter, PidsStats, Pressure, PressureLine, RdmaStats, Stats};

/// What v1 has for "no limit": the largest multiple of a page.
const V1_UNLIMITED: u64 = 0x7fff_ffff_ffff_f000;

/// Reads the statistics of the cgroup at `path`.
pub fn read(path: &Path) -> Result<Stats, Error> {
    let layout = Layout::read()?;
    let unified = Group(layout.unified().filter(|_| !path.as_os_str().is_empty()).map(|it| it.dir(path)));
    if layout.is_unified_alone() {
        let mut stats = v2::read(&unified);
        if unified.text("pids.current").is_empty() {
            // Without the controller processes can be counted, if not threads.
            stats.pids.current = super::pids(path)?.len() as u64;
        }
        return Ok(stats);
    }
    Ok(v1::read(&layout, path, &unified))
}

/// A cgroup's directory; none where its controller has no hierarchy.
struct Group(Option<PathBuf>);

impl Group {
    fn text(&self, file: &str) -> String {
        self.0.as_ref().and_then(|dir| fs::read_to_string(dir.join(file)).ok()).unwrap_or_default()
    }

    fn number(&self, file: &str) -> u64 {
        self.text(file).trim().parse().unwrap_or(0)
    }

    /// `None` for "max" and for v1's largest number.
    fn limit(&self, file: &str) -> Option<u64> {
        self.text(file).trim().parse().ok().filter(|limit| *limit < V1_UNLIMITED)
    }

    fn pressure(&self, file: &str) -> Option<Pressure> {
        Some(self.text(file)).filter(|text| !text.is_empty()).map(|text| parse_pressure(&text))
    }

    /// The four files of a v1 counter of memory.
    fn counter(&self, prefix: &str) -> MemoryCounter {
        MemoryCounter {
            usage: self.number(&format!("{prefix}.usage_in_bytes")),
            max_usage: self.number(&format!("{prefix}.max_usage_in_bytes")),
            limit: self.limit(&format!("{prefix}.limit_in_bytes")),
            failures: self.number(&format!("{prefix}.failcnt")),
        }
    }

    /// The sizes of huge pages there are files of, which begin with "hugetlb.SIZE." and end as said.
    fn page_sizes(&self, end: &str) -> Vec<String> {
        let entries = self.0.as_ref().and_then(|dir| fs::read_dir(dir).ok()).into_iter().flatten().flatten();
        let size = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(end)?;
            (!size.contains('.')).then(|| size.to_owned())
        };
        entries.filter_map(size).collect()
    }

    /// A file of "key value" lines.
    fn table(&self, file: &str) -> BTreeMap<String, u64> {
        parse_table(&self.text(file))
    }
}

fn parse_table(text: &str) -> BTreeMap<String, u64> {
    let entry = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(entry).collect()
}

fn value(table: &BTreeMap<String, u64>, key: &str) -> u64 {
    table.get(key).copied().unwrap_or(0)
}

fn pids(group: &Group) -> PidsStats {
    PidsStats { current: group.number("pids.current"), limit: group.limit("pids.max") }
}

/// "device hca_handle=1 hca_object=max", the same in both versions.
fn rdma(group: &Group) -> BTreeMap<String, RdmaStats> {
    let (current, limits) = (group.text("rdma.current"), group.text("rdma.max"));
    let find = |text: &str, device: &str, key: &str| -> Option<u64> {
        let mut words = text.lines().find(|line| line.split(' ').next() == Some(device))?.split(' ').skip(1);
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
    };
    let devices = current.lines().filter_map(|line| line.split(' ').next()).filter(|device| !device.is_empty());
    let stats = |device: &str| RdmaStats {
        handles: find(&current, device, "hca_handle").unwrap_or(0),
        objects: find(&current, device, "hca_object").unwrap_or(0),
        handle_limit: find(&limits, device, "hca_handle"),
        object_limit: find(&limits, device, "hca_object"),
    };
    devices.map(|device| (device.to_owned(), stats(device))).collect()
}

/// Lines of "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", for some and for all.
fn parse_pressure(text: &str) -> Pressure {
    let line = |kind: &str| {
        let words: Vec<_> =
            text.lines().find_map(|line| line.strip_prefix(kind)).unwrap_or_default().split(' ').collect();
        let word = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)).unwrap_or_default();
        PressureLine {
            avg10: word("avg10=").parse().unwrap_or(0.0),
            avg60: word("avg60=").parse().unwrap_or(0.0),
            avg300: word("avg300=").parse().unwrap_or(0.0),
            total: word("total=").parse().unwrap_or(0),
        }
    };
    Pressure { some: line("some "), full: line("full ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_has_two_lines() {
        let text =
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=12345\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let pressure = parse_pressure(text);
        assert_eq!(pressure.some, PressureLine { avg10: 1.5, avg60: 0.25, avg300: 0.0, total: 12_345 });
        assert_eq!(pressure.full.total, 7);
    }

    #[test]
    fn rdma_has_a_line_a_device() {
        let dir = testkit::scratch();
        fs::write(dir.path().join("rdma.current"), "mlx4_0 hca_handle=2 hca_object=2000\n").expect("a file");
        fs::write(dir.path().join("rdma.max"), "mlx4_0 hca_handle=3 hca_object=max\n").expect("a file");
        let stats = rdma(&Group(Some(dir.path().to_owned())))["mlx4_0"];
        assert_eq!(stats, RdmaStats { handles: 2, objects: 2000, handle_limit: Some(3), object_limit: None });
    }

    #[test]
    fn no_limit_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let group = Group(Some(dir.path().to_owned()));
        for (text, limit) in [("max\n", None), ("9223372036854771712\n", None), ("1048576\n", Some(1_048_576))] {
            fs::write(dir.path().join("memory.max"), text).expect("a file");
            assert_eq!(group.limit("memory.max"), limit, "{text}");
        }
        assert_eq!(group.limit("not.there"), None);
    }
}
