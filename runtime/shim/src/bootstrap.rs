//! What the one who starts a shim tells it, and the answer it expects: three dialects, one meaning.
//!
//! | containerd | it gives | it expects on stdout |
//! | --- | --- | --- |
//! | 1.6 | flags, `TTRPC_ADDRESS`; options as `Any` on stdin | the bare address |
//! | 1.7 to 2.2 | the same, and `GRPC_ADDRESS` | `{"version":2,"address":…,"protocol":"ttrpc"}`; 2.x wants 3 |
//! | from 2.3, peapod | the flags, and `BootstrapParams` as protobuf on stdin | `BootstrapResult` as protobuf |
//!
//! The bytes of an `Any` and of `BootstrapParams` parse as each other, so what is on stdin is told
//! apart by its content: params name the id and the namespace that the flags name too.

use std::ffi::OsString;
use std::path::PathBuf;

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;

use crate::caller;
use crate::error::Error;
use crate::options::TaskOptions;

/// The command line.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Arguments {
    /// `-namespace`: containerd's namespace.
    pub namespace: String,
    /// `-id`: the task's (or sandbox's) id.
    pub id: String,
    /// `-address`: containerd's gRPC address; empty for none.
    pub address: String,
    /// `-bundle`, given to `delete`.
    pub bundle: Option<PathBuf>,
    /// What to do.
    pub action: Action,
}

/// What to do.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Action {
    /// Nothing was asked for.
    #[default]
    None,
    /// Start the daemon (or find the one that serves the group already).
    Start,
    /// Clear up what a dead shim has left.
    Delete,
    /// `-v`.
    Version,
    /// `-info`.
    Info,
}

/// What a flag's value does.
type Set = fn(&mut Arguments, String);

/// The flags that take a value, as containerd spells them.
const VALUED: &[(&str, Set)] = &[
    ("address", |arguments, value| arguments.address = value),
    ("bundle", |arguments, value| arguments.bundle = Some(value.into())),
    ("id", |arguments, value| arguments.id = value),
    ("namespace", |arguments, value| arguments.namespace = value),
    // Events go over ttrpc; the binary that could publish them is not needed.
    ("publish-binary", |_, _| {}),
    // Meant for the daemon when it is started by hand; this one is only ever forked.
    ("socket", |_, _| {}),
];

/// The words that stand alone.
const WORDS: &[(&str, Option<Action>)] = &[
    ("-debug", None),
    ("-info", Some(Action::Info)),
    ("-v", Some(Action::Version)),
    ("delete", Some(Action::Delete)),
    ("start", Some(Action::Start)),
];

impl Arguments {
    /// Reads the command line (without the program's name): Go's flags, with one dash or two, then the action.
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, Error> {
        let mut parsed = Self::default();
        let mut arguments = arguments.map(|argument| {
            argument.into_string().map_err(|argument| Error::invalid(format!("argument {argument:?} is not UTF-8")))
        });
        while let Some(argument) = arguments.next() {
            let argument = argument?;
            let word = argument.strip_prefix('-').filter(|rest| rest.starts_with('-')).unwrap_or(&argument);
            if let Some((_, action)) = WORDS.iter().find(|(known, _)| *known == word) {
                parsed.action = action.unwrap_or(parsed.action);
                continue;
            }
            let (name, value) = match word.trim_start_matches('-').split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.trim_start_matches('-'), None),
            };
            let flag = VALUED.iter().find(|(known, _)| word.starts_with('-') && *known == name);
            let (_, set) = flag.ok_or_else(|| Error::invalid(format!("argument {argument:?} is not known")))?;
            let value = match value {
                Some(value) => value,
                None => arguments.next().ok_or_else(|| Error::invalid(format!("flag -{name} needs a value")))??,
            };
            set(&mut parsed, value);
        }
        parsed.check()
    }

    fn check(self) -> Result<Self, Error> {
        if matches!(self.action, Action::Start | Action::Delete) {
            for (flag, value) in [("-namespace", &self.namespace), ("-id", &self.id)] {
                if value.is_empty() {
                    return Err(Error::invalid(format!("{flag} is missing")));
                }
                // Both become names of directories.
                if value.contains('/') || value == "." || value == ".." {
                    return Err(Error::invalid(format!("{flag} {value:?} is no name")));
                }
            }
        }
        Ok(self)
    }
}

/// How the answer is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dialect {
    /// The address and nothing else.
    Bare,
    /// A line of JSON.
    Json {
        /// The task API's version that the shim is asked in.
        version: u32,
    },
    /// `BootstrapResult`.
    Protobuf,
}

/// What `start` was told, whatever the dialect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Start {
    /// containerd's namespace.
    pub namespace: String,
    /// The task's (or sandbox's) id.
    pub id: String,
    /// containerd's gRPC address: part of the socket's name, so that two daemons do not share shims.
    pub address: String,
    /// Where events go; empty for nowhere.
    pub events: String,
    /// Where the socket shall be; containerd's own directory when not given.
    pub socket_dir: Option<PathBuf>,
    /// The runtime's options.
    pub options: TaskOptions,
    /// How to answer.
    pub dialect: Dialect,
}

/// The variables of the environment that matter.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `TTRPC_ADDRESS`.
    pub ttrpc_address: Option<String>,
    /// `GRPC_ADDRESS`: set from 1.7 on.
    pub grpc_address: Option<String>,
    /// Whether [containerd 2](crate::caller) calls.
    pub containerd_2: bool,
}

impl Environment {
    /// Those of this process.
    pub fn of_process() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (ttrpc_address, grpc_address) = (variable("TTRPC_ADDRESS"), variable("GRPC_ADDRESS"));
        let containerd_2 = grpc_address.is_some() && caller::is_containerd_2();
        Self { ttrpc_address, grpc_address, containerd_2 }
    }
}

impl Start {
    /// Makes one of the command line, the environment and standard input.
    ///
    /// # Errors
    /// `InvalidArgument` when the runtime's options cannot be served.
    pub fn of(arguments: &Arguments, environment: &Environment, stdin: &[u8]) -> Result<Self, Error> {
        let common = Self {
            namespace: arguments.namespace.clone(),
            id: arguments.id.clone(),
            address: arguments.address.clone(),
            events: String::new(),
            socket_dir: None,
            options: TaskOptions::default(),
            dialect: Dialect::Bare,
        };
        let params = BootstrapParams::parse_from_bytes(stdin)
            .ok()
            .filter(|params| params.instance_id == common.id && params.namespace == common.namespace);
        if let Some(params) = params {
            let options = params.extensions.iter().filter_map(|extension| extension.value.as_ref());
            let options = options.into_iter().find(|any| TaskOptions::is_known(any));
            return Ok(Self {
                options: TaskOptions::from_any(options)?,
                socket_dir: params.socket_dir.filter(|dir| !dir.is_empty()).map(PathBuf::from),
                events: params.containerd_ttrpc_address,
                dialect: Dialect::Protobuf,
                ..common
            });
        }
        let dialect = match &environment.grpc_address {
            Some(_) => Dialect::Json { version: if environment.containerd_2 { 3 } else { 2 } },
            None => Dialect::Bare,
        };
        // containerd's convention for its ttrpc socket, for daemons too old to say.
        let derived = || if common.address.is_empty() { String::new() } else { format!("{}.ttrpc", common.address) };
        let any = Any::parse_from_bytes(stdin)
            .map_err(|source| Error::invalid(format!("runtime options on standard input: {source}")))?;
        let options = TaskOptions::from_any(Some(&any))?;
        Ok(Self { events: environment.ttrpc_address.clone().unwrap_or_else(derived), options, dialect, ..common })
    }

    /// The answer's bytes.
    pub fn answer(&self, address: &str) -> Result<Vec<u8>, Error> {
        match self.dialect {
            Dialect::Bare => Ok(address.as_bytes().to_vec()),
            Dialect::Json { version } => {
                let answer = serde_json::json!({ "version": version, "address": address, "protocol": "ttrpc" });
                Ok(answer.to_string().into_bytes())
            }
            Dialect::Protobuf => {
                let answer = BootstrapResult {
                    version: 3,
                    address: address.to_owned(),
                    protocol: "ttrpc".to_owned(),
                    ..Default::default()
                };
                answer.write_to_bytes().map_err(|source| Error::internal(format!("encode the answer: {source}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::bootstrap_api::Extension;
    use containerd_shim_protos::protobuf::MessageField;
    use containerd_shim_protos::shim::oci;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, Error> {
        Arguments::parse(line.split_whitespace().map(OsString::from))
    }

    fn start(environment: &Environment, stdin: &[u8]) -> Start {
        let line = "-namespace ns -address /run/c.sock -publish-binary /bin/containerd -id web -debug start";
        Start::of(&parse(line).unwrap(), environment, stdin).unwrap()
    }

    #[test]
    fn the_command_line_of_containerd_is_understood_with_one_dash_or_two() {
        let start = parse("-namespace k8s.io -address /run/c.sock -publish-binary c -id web start").unwrap();
        assert_eq!((start.namespace.as_str(), start.id.as_str(), start.action), ("k8s.io", "web", Action::Start));
        let delete = parse("--namespace=ns --id=web -bundle /b delete").unwrap();
        assert_eq!((delete.bundle, delete.action), (Some("/b".into()), Action::Delete));
        assert_eq!(parse("-v").unwrap().action, Action::Version);
        assert_eq!(parse("--info").unwrap().action, Action::Info);
        assert_eq!(parse("-namespace n -id i start -debug").unwrap().action, Action::Start);
    }

    #[test]
    fn an_empty_address_is_a_value_like_any_other() {
        let arguments = ["-namespace", "n", "-address", "", "-id", "i", "start"].map(OsString::from);
        assert_eq!(Arguments::parse(arguments.into_iter()).unwrap().id, "i");
    }

    #[test]
    fn misuse_is_named() {
        for (line, complaint) in [
            ("-id web start", "-namespace"),
            ("-namespace", "needs a value"),
            ("stop", "stop"),
            ("-x", "-x"),
            ("-namespace ../../etc -id x start", "../../etc"),
            ("-namespace n -id .. delete", ".."),
            ("-namespace n -id . start", "\".\""),
            ("id=x start", "id=x"),
        ] {
            assert!(parse(line).unwrap_err().to_string().contains(complaint), "{line}");
        }
    }

    #[test]
    fn containerd_1_6_is_answered_with_the_bare_address() {
        let environment = Environment { ttrpc_address: Some("/run/c.sock.ttrpc".into()), ..Default::default() };
        let start = start(&environment, b"");
        assert_eq!((start.events.as_str(), start.address.as_str()), ("/run/c.sock.ttrpc", "/run/c.sock"));
        assert_eq!(start.answer("unix:///s").unwrap(), b"unix:///s");
    }

    #[test]
    fn events_go_where_the_environment_says_or_beside_the_address_or_nowhere() {
        let said = Environment { ttrpc_address: Some("/elsewhere".into()), ..Default::default() };
        assert_eq!(start(&said, b"").events, "/elsewhere");
        assert_eq!(start(&Environment::default(), b"").events, "/run/c.sock.ttrpc");
        let alone = parse("-namespace ns -id web start").unwrap();
        assert_eq!(Start::of(&alone, &Environment::default(), b"").unwrap().events, "");
    }

    #[test]
    fn params_of_another_task_are_none_of_this_one() {
        let whole = BootstrapParams { instance_id: "web".into(), namespace: "ns".into(), ..Default::default() };
        for other in [
            BootstrapParams { instance_id: "db".into(), ..whole.clone() },
            BootstrapParams { namespace: "other".into(), ..whole },
        ] {
            let line = parse("-namespace ns -id web start").unwrap();
            let refused = Start::of(&line, &Environment::default(), &other.write_to_bytes().unwrap());
            assert!(refused.is_err_and(|error| error.code() == containerd_shim_protos::ttrpc::Code::INVALID_ARGUMENT));
        }
    }

    #[test]
    fn an_empty_directory_for_sockets_is_none() {
        let params = BootstrapParams {
            instance_id: "web".into(),
            namespace: "ns".into(),
            socket_dir: Some(String::new()),
            containerd_ttrpc_address: "unix:///t".into(),
            ..Default::default()
        };
        let start = start(&Environment::default(), &params.write_to_bytes().unwrap());
        assert_eq!((start.socket_dir, start.events.as_str()), (None, "unix:///t"));
    }

    #[test]
    fn containerd_1_7_and_2_are_answered_in_json() {
        for (containerd_2, version) in [(false, 2), (true, 3)] {
            let environment =
                Environment { grpc_address: Some("/run/c.sock".into()), containerd_2, ..Default::default() };
            let start = start(&environment, b"");
            let answer: serde_json::Value = serde_json::from_slice(&start.answer("unix:///s").unwrap()).unwrap();
            assert_eq!(answer, serde_json::json!({"version": version, "address": "unix:///s", "protocol": "ttrpc"}));
            assert_eq!(start.events, "/run/c.sock.ttrpc", "derived from -address");
        }
    }

    #[test]
    fn params_on_stdin_go_before_the_environment() {
        let params = BootstrapParams {
            instance_id: "web".into(),
            namespace: "ns".into(),
            socket_dir: Some("/run/x".into()),
            ..Default::default()
        };
        let (ttrpc_address, grpc_address) = (Some("/elsewhere".into()), Some("/y".into()));
        let environment = Environment { ttrpc_address, grpc_address, containerd_2: true };
        let start = start(&environment, &params.write_to_bytes().unwrap());
        assert_eq!((start.dialect, start.events.as_str()), (Dialect::Protobuf, ""));
        assert_eq!(start.socket_dir, Some("/run/x".into()));
        let answer = BootstrapResult::parse_from_bytes(&start.answer("unix:///s").unwrap()).unwrap();
        assert_eq!((answer.version, answer.address.as_str(), answer.protocol.as_str()), (3, "unix:///s", "ttrpc"));
    }

    fn options() -> Any {
        let value = oci::Options { shim_cgroup: "/shims".into(), ..Default::default() }.write_to_bytes().unwrap();
        Any { type_url: "containerd.runc.v1.Options".into(), value, ..Default::default() }
    }

    #[test]
    fn options_on_stdin_are_not_taken_for_params() {
        let start = start(&Environment::default(), &options().write_to_bytes().unwrap());
        assert_eq!(start.dialect, Dialect::Bare);
        assert_eq!(start.options.shim_cgroup, Some("/shims".into()));
    }

    #[test]
    fn params_carry_options_among_their_extensions() {
        let other = Any { type_url: "example.Config".into(), ..Default::default() };
        let extension = |any| Extension { value: MessageField::some(any), ..Default::default() };
        let params = BootstrapParams {
            instance_id: "web".into(),
            namespace: "ns".into(),
            extensions: vec![extension(other), extension(options())],
            ..Default::default()
        };
        let start = start(&Environment::default(), &params.write_to_bytes().unwrap());
        assert_eq!(start.options.shim_cgroup, Some("/shims".into()));
    }
}
