//! Times CNI plugins against each other: called as libcni calls them, in turn, each on a node of its own.
//!
//! ```text
//! cni-bench ROUNDS PODS NAME=PATH...
//! ```
//!
//! PATH is a directory with the plugins `bridge`, `host-local` and `portmap`, or a program that does for one fixed
//! network what they do for any (`scripts/bench.d/bare-cni.c`); it stays out of where it has no part. The nodes and the
//! pods are network namespaces without names. They are made before anything is timed, and go away after it: both are
//! work that the kernel does behind the back of whoever asked. Ratios are to the first contestant, round by round. PODS
//! is how many pods are attached one after the other to see whether the last one takes longer than the first.

use std::fs::File;
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};

use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};
use testkit::measure::{Times, median, report, shortest};

type Outcome<T> = Result<T, String>;

/// How many are attached at once.
const AT_ONCE: usize = 50;

/// A network, and what is asked of it.
struct Scenario {
    title: &'static str,
    dual: bool,
    masquerade: bool,
    ports: bool,
}

const SCENARIOS: [Scenario; 4] = [
    Scenario { title: "IPv4", dual: false, masquerade: false, ports: false },
    Scenario { title: "dual stack", dual: true, masquerade: false, ports: false },
    Scenario { title: "IPv4, masquerade", dual: false, masquerade: true, ports: false },
    Scenario { title: "IPv4, masquerade, a port mapping", dual: false, masquerade: true, ports: true },
];

impl Scenario {
    /// The chain for one pod.
    fn plugins(&self, leases: &Path, pod: usize) -> Vec<Value> {
        let mut ranges = vec![json!([{"subnet": "10.1.0.0/16"}])];
        let mut routes = vec![json!({"dst": "0.0.0.0/0"})];
        if self.dual {
            ranges.push(json!([{"subnet": "fd01::/64"}]));
            routes.push(json!({"dst": "::/0"}));
        }
        let bridge = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "cni0", "isGateway": true, "mtu": 1450,
            "ipMasq": self.masquerade,
            "ipam": {"type": "host-local", "dataDir": leases, "ranges": ranges, "routes": routes},
        });
        let mapping = json!({"hostPort": 20_000 + pod, "containerPort": 80, "protocol": "tcp"});
        let portmap = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "portmap", "snat": true,
            "runtimeConfig": {"portMappings": [mapping]},
        });
        [Some(bridge), self.ports.then_some(portmap)].into_iter().flatten().collect()
    }
}

/// What plays a node or a pod.
struct Namespace(File);

impl Namespace {
    fn new() -> Outcome<Self> {
        let make = || -> Outcome<Self> {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("a network namespace: {error}"))?;
            File::open("/proc/thread-self/ns/net").map(Self).map_err(|error| format!("the namespace: {error}"))
        };
        std::thread::spawn(make).join().map_err(|_| "the thread panicked".to_owned())?
    }

    fn enter(&self) -> Outcome<()> {
        setns(&self.0, CloneFlags::CLONE_NEWNET).map_err(|error| format!("cannot enter a namespace: {error}"))
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// One contestant on its node, with pods that wait to be attached.
struct Contestant<'a> {
    name: &'a str,
    path: &'a Path,
    scenario: &'a Scenario,
    node: Namespace,
    pods: Vec<Namespace>,
    results: Vec<Value>,
    leases: tempfile::TempDir,
    add: Times,
    del: Times,
}

impl<'a> Contestant<'a> {
    /// None of one that has no part in this.
    fn new((name, path): &'a (String, PathBuf), scenario: &'a Scenario, pods: usize) -> Outcome<Option<Self>> {
        if path.is_file() && (scenario.masquerade || scenario.ports) {
            return Ok(None);
        }
        let pods: Vec<Namespace> = (0..pods).map(|_| Namespace::new()).collect::<Outcome<_>>()?;
        let (results, leases) = (vec![Value::Null; pods.len()], testkit::scratch());
        let (add, del) = Default::default();
        Ok(Some(Self { name, path, scenario, node: Namespace::new()?, pods, results, leases, add, del }))
    }

    /// The chain for a pod, in the order of ADD.
    fn plugins(&self, pod: usize) -> Vec<Value> {
        match self.path.is_file() {
            true => vec![Value::Null],
            false => self.scenario.plugins(self.leases.path(), pod),
        }
    }

    fn start(&self, verb: &str, pod: usize, plugin: &Value) -> Outcome<Call> {
        let mut command = match plugin["type"].as_str() {
            Some(kind) => Command::new(self.path.join(kind)),
            None => {
                let mut command = Command::new(self.path);
                command.arg(self.leases.path()).arg(if self.scenario.dual { "dual" } else { "v4" });
                command
            }
        };
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", format!("pod{pod}")).env("CNI_IFNAME", "eth0");
        command.env("CNI_NETNS", self.pods[pod].path()).env("CNI_PATH", self.path);
        Call::start(command, plugin.to_string().as_bytes()).map_err(|error| format!("{}: {error}", self.name))
    }

    fn finish(&self, call: Call) -> Outcome<String> {
        call.finish().map_err(|error| format!("{}: {error}", self.name))
    }

    fn attach(&self, pod: usize) -> Outcome<Value> {
        let mut result = Value::Null;
        for mut plugin in self.plugins(pod) {
            if !result.is_null() {
                plugin["prevResult"] = result;
            }
            let said = self.finish(self.start("ADD", pod, &plugin)?)?;
            result = serde_json::from_str(&said).map_err(|error| format!("{}: {error}: {said}", self.name))?;
        }
        Ok(result)
    }

    fn detach(&self, pod: usize) -> Outcome<()> {
        for mut plugin in self.plugins(pod).into_iter().rev() {
            if plugin.is_object() {
                plugin["prevResult"] = self.results[pod].clone();
            }
            self.finish(self.start("DEL", pod, &plugin)?)?;
        }
        Ok(())
    }

    fn timed_add(&mut self, pod: usize) -> Outcome<()> {
        self.node.enter()?;
        let mut add = std::mem::take(&mut self.add);
        self.results[pod] = add.time(|| self.attach(pod))?;
        self.add = add;
        Ok(())
    }

    fn timed_del(&mut self, pod: usize) -> Outcome<()> {
        self.node.enter()?;
        let mut del = std::mem::take(&mut self.del);
        del.time(|| self.detach(pod))?;
        self.del = del;
        Ok(())
    }

    /// All these pods at once; the chain is one plugin.
    fn at_once(&self, verb: &str, pods: std::ops::Range<usize>) -> Outcome<()> {
        let plugin = &self.plugins(0)[0];
        let calls: Vec<Call> = pods.map(|pod| self.start(verb, pod, plugin)).collect::<Outcome<_>>()?;
        calls.into_iter().try_for_each(|call| self.finish(call).map(drop))
    }
}

/// A plugin that runs.
struct Call {
    child: Child,
    stdout: PipeReader,
}

impl Call {
    fn start(mut command: Command, stdin: &[u8]) -> std::io::Result<Self> {
        let (theirs, mut ours) = pipe()?;
        // It fits into the pipe, so nobody has to be reading yet.
        ours.write_all(stdin)?;
        drop(ours);
        let (stdout, answer) = pipe()?;
        let child = command.stdin(theirs).stdout(answer).spawn()?;
        // The command holds the other end of stdout: only without it there is an end of file.
        drop(command);
        Ok(Self { child, stdout })
    }

    fn finish(mut self) -> Outcome<String> {
        let mut said = String::new();
        self.stdout.read_to_string(&mut said).map_err(|error| error.to_string())?;
        let status = self.child.wait().map_err(|error| error.to_string())?;
        if status.success() { Ok(said) } else { Err(format!("{status}: {said}")) }
    }
}

/// Those that can do it: the first pod of each fills caches and makes the bridge, and is not counted.
fn ready<'a>(entries: &'a [(String, PathBuf)], scenario: &'a Scenario, pods: usize) -> Outcome<Vec<Contestant<'a>>> {
    let mut ready = Vec::new();
    for entry in entries {
        let Some(mut contestant) = Contestant::new(entry, scenario, pods + 1)? else { continue };
        match contestant.timed_add(0) {
            Ok(()) => ready.push(contestant),
            Err(error) => println!("left out: {}", error.trim_end()),
        }
    }
    ready.iter_mut().for_each(|each| each.add = Times::default());
    Ok(ready)
}

/// `work` for each contestant in each round; who begins changes from round to round.
fn in_turn<'a>(
    contestants: &mut [Contestant<'a>],
    rounds: usize,
    mut work: impl FnMut(&mut Contestant<'a>, usize) -> Outcome<()>,
) -> Outcome<()> {
    for round in 1..=rounds {
        for turn in 0..contestants.len() {
            let whose = (round + turn) % contestants.len();
            work(&mut contestants[whose], round)?;
        }
    }
    Ok(())
}

fn one_after_the_other(entries: &[(String, PathBuf)], scenario: &Scenario, rounds: usize) -> Outcome<()> {
    let mut contestants = ready(entries, scenario, rounds)?;
    in_turn(&mut contestants, rounds, Contestant::timed_add)?;
    in_turn(&mut contestants, rounds, Contestant::timed_del)?;
    println!("\nADD: {}", scenario.title);
    report(contestants.iter().map(|each| (each.name, &each.add)));
    println!("\nDEL: {}", scenario.title);
    report(contestants.iter().map(|each| (each.name, &each.del)));
    Ok(())
}

fn many_at_once(entries: &[(String, PathBuf)], rounds: usize) -> Outcome<()> {
    let mut contestants = ready(entries, &SCENARIOS[0], AT_ONCE)?;
    in_turn(&mut contestants, rounds, |each, _| {
        each.node.enter()?;
        let mut times = std::mem::take(&mut each.add);
        times.time(|| each.at_once("ADD", 1..AT_ONCE + 1))?;
        each.add = times;
        let mut times = std::mem::take(&mut each.del);
        times.time(|| each.at_once("DEL", 1..AT_ONCE + 1))?;
        each.del = times;
        Ok(())
    })?;
    println!("\n{AT_ONCE} ADDs at once, until the last one has ended");
    report(contestants.iter().map(|each| (each.name, &each.add)));
    println!("\n{AT_ONCE} DELs at once, until the last one has ended");
    report(contestants.iter().map(|each| (each.name, &each.del)));
    Ok(())
}

/// Whether the last of many takes longer than the first. On a busy machine the shortest tell more than the medians.
fn growth(entries: &[(String, PathBuf)], pods: usize) -> Outcome<()> {
    let sample = 20.min(pods / 2);
    let mut contestants = ready(entries, &SCENARIOS[0], pods)?;
    in_turn(&mut contestants, pods, Contestant::timed_add)?;
    println!(
        "\nADD: IPv4, {pods} pods on one bridge; the first and the last {sample} of them, their medians and the shortest"
    );
    println!(
        "{:<24} {:>9} {:>9} {:>7} {:>9} {:>9} {:>7}",
        "", "first ms", "last ms", "ratio", "first ms", "last ms", "ratio"
    );
    for each in &contestants {
        let [first, last] = [&each.add.wall[..sample], &each.add.wall[pods - sample..]];
        print!("{:<24}", each.name);
        for of in [median, shortest] {
            print!(" {:>9.2} {:>9.2} {:>7.2}", of(first), of(last), of(last) / of(first));
        }
        println!();
    }
    Ok(())
}

fn measure(arguments: &[String]) -> Outcome<()> {
    let usage = || "usage: cni-bench ROUNDS PODS NAME=PATH...".to_owned();
    let [rounds, pods, entries @ ..] = arguments else { return Err(usage()) };
    let rounds = rounds.parse().map_err(|_| usage())?;
    let pods: usize = pods.parse().map_err(|_| usage())?;
    let entries: Vec<(String, PathBuf)> = entries
        .iter()
        .map(|entry| entry.split_once('=').map(|(name, path)| (name.to_owned(), path.into())).ok_or_else(usage))
        .collect::<Outcome<_>>()?;
    if entries.is_empty() || rounds == 0 {
        return Err(usage());
    }
    for scenario in &SCENARIOS {
        one_after_the_other(&entries, scenario, rounds)?;
    }
    many_at_once(&entries, rounds.div_ceil(4))?;
    if pods > 1 {
        growth(&entries, pods)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match measure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cni-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
