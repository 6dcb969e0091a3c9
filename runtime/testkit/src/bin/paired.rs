//! Times several commands against each other, in turn, so that what the machine does meanwhile hits all of them alike.
//!
//! ```text
//! paired ROUNDS NAME=COMMAND NAME=COMMAND...
//! ```
//!
//! A command is split at spaces; ` ; ` separates programs that are run one after the other and timed together; `{}` is a
//! fresh name each time. Ratios are to the first command, round by round.

use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// One command and what it took, in milliseconds.
struct Contestant {
    name: String,
    programs: Vec<Vec<String>>,
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

impl Contestant {
    fn parse(argument: &str) -> Result<Self, String> {
        let (name, command) = argument.split_once('=').ok_or_else(|| format!("{argument:?} is not NAME=COMMAND"))?;
        let programs: Vec<Vec<String>> =
            command.split(" ; ").map(|program| program.split_whitespace().map(str::to_owned).collect()).collect();
        match programs.iter().any(Vec::is_empty) {
            true => Err(format!("{name}: an empty command")),
            false => Ok(Self { name: name.to_owned(), programs, wall: Vec::new(), cpu: Vec::new() }),
        }
    }

    fn run(&mut self, round: usize) -> Result<(), String> {
        let fresh = format!("bench-{}-{round}", std::process::id());
        let (begin, cpu) = (Instant::now(), cpu_of_children()?);
        for program in &self.programs {
            let words: Vec<String> = program.iter().map(|word| word.replace("{}", &fresh)).collect();
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null());
            let status = command.status().map_err(|error| format!("{}: {}: {error}", self.name, words[0]))?;
            if !status.success() {
                return Err(format!("{}: {}: {status}", self.name, words.join(" ")));
            }
        }
        self.wall.push(begin.elapsed().as_secs_f64() * 1e3);
        self.cpu.push(cpu_of_children()? - cpu);
        Ok(())
    }
}

/// User and system time of all children waited for, in milliseconds.
fn cpu_of_children() -> Result<f64, String> {
    let usage: Usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|error| format!("getrusage: {error}"))?;
    Ok((usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e3)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

fn report(contestants: &[Contestant]) {
    println!("{:<24} {:>9} {:>9} {:>9} {:>7}", "", "median ms", "min ms", "cpu ms", "ratio");
    for each in contestants {
        let ratios: Vec<f64> = each.wall.iter().zip(&contestants[0].wall).map(|(own, first)| own / first).collect();
        let min = each.wall.iter().copied().fold(f64::INFINITY, f64::min);
        println!(
            "{:<24} {:>9.2} {:>9.2} {:>9.2} {:>7.2}",
            each.name,
            median(&each.wall),
            min,
            median(&each.cpu),
            median(&ratios)
        );
    }
}

fn measure(arguments: &[String]) -> Result<(), String> {
    let usage = "usage: paired ROUNDS NAME=COMMAND...";
    let [rounds, commands @ ..] = arguments else { return Err(usage.to_owned()) };
    let rounds: usize = rounds.parse().map_err(|_| usage.to_owned())?;
    let mut contestants: Vec<Contestant> =
        commands.iter().map(|each| Contestant::parse(each)).collect::<Result<_, _>>()?;
    if contestants.is_empty() || rounds == 0 {
        return Err(usage.to_owned());
    }
    // The first round fills caches and is not counted. Who cannot do it at all here is left out.
    contestants.retain_mut(|each| match each.run(0) {
        Ok(()) => true,
        Err(error) => {
            println!("left out: {error}");
            false
        }
    });
    contestants.iter_mut().for_each(|each| (each.wall, each.cpu) = Default::default());
    for round in 1..=rounds {
        for each in &mut contestants {
            each.run(round)?;
        }
    }
    if contestants.is_empty() {
        return Err("nobody could do it".to_owned());
    }
    report(&contestants);
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match measure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("paired: {error}");
            ExitCode::FAILURE
        }
    }
}
