//! Times several commands against each other, in turn, so that what the machine does meanwhile hits all of them alike.
//!
//! ```text
//! paired ROUNDS NAME=COMMAND NAME=COMMAND...
//! ```
//!
//! A command is split at spaces; ` ; ` separates programs that are run one after the other and timed together; `{}` is a
//! fresh name each time. Ratios are to the first command, round by round.

use std::process::{Command, ExitCode, Stdio};

use testkit::measure::{Times, report};

/// One command and what it took.
struct Contestant {
    name: String,
    programs: Vec<Vec<String>>,
    times: Times,
}

impl Contestant {
    fn parse(argument: &str) -> Result<Self, String> {
        let (name, command) = argument.split_once('=').ok_or_else(|| format!("{argument:?} is not NAME=COMMAND"))?;
        let programs: Vec<Vec<String>> =
            command.split(" ; ").map(|program| program.split_whitespace().map(str::to_owned).collect()).collect();
        match programs.iter().any(Vec::is_empty) {
            true => Err(format!("{name}: an empty command")),
            false => Ok(Self { name: name.to_owned(), programs, times: Times::default() }),
        }
    }

    fn run(&mut self, round: usize) -> Result<(), String> {
        let fresh = format!("bench-{}-{round}", std::process::id());
        let (name, programs) = (&self.name, &self.programs);
        self.times.time(|| programs.iter().try_for_each(|program| execute(name, program, &fresh)))
    }
}

fn execute(name: &str, program: &[String], fresh: &str) -> Result<(), String> {
    let words: Vec<String> = program.iter().map(|word| word.replace("{}", fresh)).collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.status().map_err(|error| format!("{name}: {}: {error}", words[0]))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{name}: {}: {status}", words.join(" "))),
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
    contestants.iter_mut().for_each(|each| each.times = Times::default());
    for round in 1..=rounds {
        for each in &mut contestants {
            each.run(round)?;
        }
    }
    if contestants.is_empty() {
        return Err("nobody could do it".to_owned());
    }
    report(contestants.iter().map(|each| (each.name.as_str(), &each.times)));
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
