//! Command lines as Go's flag package accepts them, brought into the form that ours does.
//!
//! Container engines were written against runc, whose flags may have one dash or two (`-no-subreaper`), a value behind
//! `=` or in the next word (even one that begins with a dash), and for switches a truth value (`--detach=false`).

use clap::{Arg, Command};

/// Rewrites the words after the program's name: long options get two dashes and their value behind `=`.
///
/// What belongs to somebody else is left alone: after `--`, and in verbs that take another program's arguments after
/// the container's id.
pub fn normalise(command: &Command, words: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut words = words.into_iter();
    let mut done = Vec::new();
    let mut verb = None;
    while let Some(word) = words.next() {
        let current = verb.unwrap_or(command);
        if word == "--" || word == "-" || !word.starts_with('-') {
            let ends = word == "--" || verb.is_some_and(takes_foreign_words);
            let found = if verb.is_none() { command.find_subcommand(&word) } else { None };
            verb = verb.or(found);
            done.push(word);
            if ends {
                break;
            }
            continue;
        }
        done.extend(option(current, word, &mut words));
    }
    done.extend(words);
    done
}

/// Verbs whose last argument is somebody else's command line.
fn takes_foreign_words(verb: &Command) -> bool {
    verb.get_positionals().any(Arg::is_trailing_var_arg_set)
}

/// One option, with its value if it takes one; nothing for a switch that is turned off.
fn option(command: &Command, word: String, rest: &mut impl Iterator<Item = String>) -> Option<String> {
    let bare = word.trim_start_matches('-');
    let (name, value) = match bare.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (bare, None),
    };
    let Some((spelling, takes_value)) = known(command, name) else {
        // A cluster of short options such as -it, or an error for clap to tell of.
        return Some(word);
    };
    match (takes_value, value) {
        (true, Some(value)) => Some(format!("{spelling}={value}")),
        (true, None) => Some(match rest.next() {
            Some(value) => format!("{spelling}={value}"),
            None => spelling,
        }),
        (false, None) => Some(spelling),
        (false, Some(value)) => match truth(value) {
            Some(true) => Some(spelling),
            Some(false) => None,
            None => Some(word),
        },
    }
}

/// How the option of that name is spelt, and whether it takes a value.
fn known(command: &Command, name: &str) -> Option<(String, bool)> {
    let takes_value = |arg: &Arg| arg.get_action().takes_values();
    if let Some(arg) = command.get_arguments().find(|arg| arg.get_long() == Some(name)) {
        return Some((format!("--{name}"), takes_value(arg)));
    }
    let mut letters = name.chars();
    let (Some(letter), None) = (letters.next(), letters.next()) else { return None };
    let arg = command.get_arguments().find(|arg| arg.get_short() == Some(letter))?;
    Some((format!("-{letter}"), takes_value(arg)))
}

/// As Go's strconv.ParseBool.
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::parser;
    use super::normalise;

    fn normal(line: &str) -> String {
        normalise(&parser([].iter()), line.split(' ').map(str::to_owned)).join(" ")
    }

    #[test]
    fn one_dash_is_as_good_as_two() {
        for (given, wanted) in [
            ("-root /r run -bundle=b -no-subreaper c", "--root=/r run --bundle=b --no-subreaper c"),
            ("--log-format json create -b x c", "--log-format=json create -b=x c"),
            ("list -format json", "list --format=json"),
            ("kill -all c 9", "kill --all c 9"),
            ("kill c KILL --all", "kill c KILL --all"),
        ] {
            assert_eq!(normal(given), wanted, "{given}");
        }
    }

    #[test]
    fn a_value_may_begin_with_a_dash() {
        assert_eq!(normal("exec -e -x --cwd -d c true"), "exec -e=-x --cwd=-d c true");
    }

    #[test]
    fn switches_take_a_truth_value() {
        assert_eq!(normal("run --detach=true --keep=false c"), "run --detach c");
    }

    #[test]
    fn clusters_stay_clusters() {
        assert_eq!(normal("exec -td c sh"), "exec -td c sh");
    }

    #[test]
    fn the_words_of_an_executed_program_are_its_own() {
        for line in ["exec c ls -env x --pid-file=1", "exec -t c -user", "ps c -all", "exec -- c -env x"] {
            assert_eq!(normal(line), line);
        }
    }
}
