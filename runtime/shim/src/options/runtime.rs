//! The runtime options of containerd, in the two types they come in.
//!
//! | type | value | from |
//! | --- | --- | --- |
//! | `containerd.runc.v1.Options` | protobuf | `ctr --runc-*`, clients that know of runc; CRI for its own shim's name |
//! | `runtimeoptions.v1.Options` | a TOML text (`config_body`), or the path of one (`config_path`) | CRI for every other runtime |
//!
//! In TOML the keys are those of containerd's configuration: `SystemdCgroup`, `Root` and so on.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::UnknownValueRef;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci;

use crate::error::Error;
use crate::fields::Fields;

/// The most that is read of a file of options, in bytes; they are a few lines.
const LONGEST_CONFIG: u64 = 1 << 20;
const RUNC: &str = "containerd.runc.v1.Options";
const GENERIC: &str = "runtimeoptions.v1.Options";
/// `criu_path` of `containerd.runc.v1.Options` before containerd 2.0.
const CRIU_PATH: u32 = 8;

/// The runtime options that this shim serves.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TaskOptions {
    /// The state root to use instead of the default one.
    pub root: Option<PathBuf>,
    /// Whether systemd makes the control groups; where nothing is said, `cgroupsPath` decides by its spelling.
    pub systemd_cgroup: Option<bool>,
    /// See [`pea::CreateOptions::no_pivot`].
    pub no_pivot: bool,
    /// See [`pea::CreateOptions::no_new_keyring`].
    pub no_new_keyring: bool,
    /// Who owns the pipes of the container's standard streams.
    pub io_owner: (u32, u32),
    /// The program CRIU; looked for in `PATH` when absent.
    pub criu_path: Option<PathBuf>,
    /// The directory of CRIU's logs; one in the bundle when absent.
    pub criu_work: Option<PathBuf>,
    /// Images to restore the container from, where the request itself names none.
    pub criu_images: Option<PathBuf>,
    /// The control group the shim itself goes into.
    pub shim_cgroup: Option<PathBuf>,
}

impl TaskOptions {
    /// Reads the options of a request.
    ///
    /// # Errors
    /// `InvalidArgument` for a type or a key this shim does not know: an option ignored is worse than a container refused.
    pub fn from_any(any: Option<&Any>) -> Result<Self, Error> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else { return Ok(Self::default()) };
        match bare_name(any) {
            RUNC => Self::from_runc(&any.value),
            GENERIC => Self::from_generic(&any.value),
            name => {
                Err(Error::invalid(format!("runtime options of type {name:?} are not known; {RUNC} and {GENERIC} are")))
            }
        }
    }

    /// Whether an `Any` is of one of the two types.
    pub fn is_known(any: &Any) -> bool {
        [RUNC, GENERIC].contains(&bare_name(any))
    }

    fn from_runc(value: &[u8]) -> Result<Self, Error> {
        let wrong = |source| Error::invalid(format!("runtime options {RUNC}: {source}"));
        let options = oci::Options::parse_from_bytes(value).map_err(wrong)?;
        refuse_binary(&options.binary_name)?;
        let criu_path = match options.special_fields.unknown_fields().get(CRIU_PATH) {
            Some(UnknownValueRef::LengthDelimited(path)) => String::from_utf8_lossy(path).into_owned(),
            _ => String::new(),
        };
        Ok(Self {
            root: given(&options.root),
            // Of this type, "no" and nothing are the same.
            systemd_cgroup: options.systemd_cgroup.then_some(true),
            no_pivot: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            io_owner: (options.io_uid, options.io_gid),
            criu_path: given(&criu_path),
            criu_work: given(&options.criu_work_path),
            criu_images: given(&options.criu_image_path),
            shim_cgroup: given(&options.shim_cgroup),
        })
    }

    fn from_generic(value: &[u8]) -> Result<Self, Error> {
        let fields = Fields::parse(GENERIC, value)?;
        let (path, body) = (fields.text(2), fields.text(3));
        if !body.is_empty() || path.is_empty() {
            return Self::from_toml(&body, "options of the runtime in containerd's configuration");
        }
        let text = read_config(Path::new(&path));
        let text = text.map_err(|source| Error::invalid(format!("runtime options: ConfigPath {path}: {source}")))?;
        Self::from_toml(&text, &path)
    }

    /// Reads the TOML text; `whence` is how errors name it.
    pub fn from_toml(text: &str, whence: &str) -> Result<Self, Error> {
        let keys: Keys = toml::from_str(text).map_err(|error| {
            let error = error.to_string();
            Error::invalid(format!("{whence}: {}", error.trim_end()))
        })?;
        refuse_binary(&keys.binary_name)?;
        Ok(Self {
            root: given(&keys.root),
            systemd_cgroup: keys.systemd_cgroup,
            no_pivot: keys.no_pivot_root,
            no_new_keyring: keys.no_new_keyring,
            io_owner: (keys.io_uid, keys.io_gid),
            criu_path: given(&keys.criu_path),
            criu_work: given(&keys.criu_work_path),
            criu_images: None,
            shim_cgroup: given(&keys.shim_cgroup),
        })
    }
}

/// Reads a file of options. In the one thread of the pod a FIFO would be waited for, and a device never ends.
fn read_config(path: &Path) -> io::Result<String> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut text = String::new();
    file.take(LONGEST_CONFIG).read_to_string(&mut text)?;
    Ok(text)
}

/// Options that name the program CRIU and nothing else, for a client.
pub fn naming_criu(program: &Path) -> Any {
    let mut options = oci::Options::default();
    let path = program.display().to_string().into_bytes();
    options.special_fields.mut_unknown_fields().add_length_delimited(CRIU_PATH, path);
    // Encoding to memory fails for messages without a required field alone, and there are none.
    let value = options.write_to_bytes().unwrap_or_default();
    Any { type_url: RUNC.to_owned(), value, ..Default::default() }
}

/// The keys of the TOML text. `CriuImagePath` is accepted for the sake of configurations written for runc, and means
/// nothing here: the text is that of all containers, and not all of them can come from the same images.
#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
struct Keys {
    binary_name: String,
    #[serde(rename = "ConfigPath")]
    _config_path: String,
    #[serde(rename = "CriuImagePath")]
    _criu_image_path: String,
    criu_path: String,
    criu_work_path: String,
    io_gid: u32,
    io_uid: u32,
    no_new_keyring: bool,
    no_pivot_root: bool,
    root: String,
    shim_cgroup: String,
    systemd_cgroup: Option<bool>,
    #[serde(rename = "TypeUrl")]
    _type_url: String,
}

/// containerd writes the bare name, gRPC tools a URL that ends in it; containerd 1.5 put `cri.` before the second.
fn bare_name(any: &Any) -> &str {
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    name.strip_prefix("cri.").unwrap_or(name)
}

fn given(path: &str) -> Option<PathBuf> {
    (!path.is_empty()).then(|| path.into())
}

fn refuse_binary(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "runtime option BinaryName = {name:?}: this shim is its own runtime; for another one use io.containerd.runc.v2"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: Vec<u8>) -> Any {
        Any { type_url: type_url.to_owned(), value, ..Default::default() }
    }

    fn runc(options: &oci::Options) -> Any {
        any(RUNC, options.write_to_bytes().unwrap())
    }

    /// The generic type with that text as field 2 or 3.
    fn generic(field: u8, text: &str) -> Any {
        // A varint of two bytes, whatever the length.
        let length = u16::try_from(text.len()).unwrap();
        let length = [(length & 0x7f) as u8 | 0x80, (length >> 7) as u8];
        any(GENERIC, [&[field << 3 | 2], length.as_slice(), text.as_bytes()].concat())
    }

    #[test]
    fn no_options_are_the_defaults() {
        assert_eq!(TaskOptions::from_any(None).unwrap(), TaskOptions::default());
        assert_eq!(TaskOptions::from_any(Some(&Any::default())).unwrap(), TaskOptions::default());
        assert_eq!(TaskOptions::from_any(Some(&any(GENERIC, Vec::new()))).unwrap(), TaskOptions::default());
    }

    #[test]
    fn options_of_runc_are_understood_under_both_spellings_of_their_type() {
        let mut options = oci::Options { root: "/run/x".into(), io_uid: 7, systemd_cgroup: true, ..Default::default() };
        options.special_fields.mut_unknown_fields().add_length_delimited(CRIU_PATH, b"/opt/criu".to_vec());
        for url in [RUNC, "types.containerd.io/containerd.runc.v1.Options"] {
            let options = TaskOptions::from_any(Some(&any(url, options.write_to_bytes().unwrap()))).unwrap();
            assert_eq!(options.root.as_deref(), Some("/run/x".as_ref()));
            assert_eq!(options.systemd_cgroup, Some(true));
            assert!(!options.no_pivot && !options.no_new_keyring);
            assert_eq!(options.io_owner, (7, 0));
            assert_eq!(options.criu_path.as_deref(), Some("/opt/criu".as_ref()));
        }
    }

    #[test]
    fn each_switch_of_runc_is_its_own() {
        let read = |options: oci::Options| TaskOptions::from_any(Some(&runc(&options))).unwrap();
        let default = TaskOptions::default();
        let pivot = read(oci::Options { no_pivot_root: true, ..Default::default() });
        assert_eq!(pivot, TaskOptions { no_pivot: true, ..default.clone() });
        let keyring = read(oci::Options { no_new_keyring: true, ..Default::default() });
        assert_eq!(keyring, TaskOptions { no_new_keyring: true, ..default.clone() });
        let cgroup = read(oci::Options { shim_cgroup: "/s".into(), io_gid: 8, ..Default::default() });
        assert_eq!(cgroup, TaskOptions { shim_cgroup: Some("/s".into()), io_owner: (0, 8), ..default });
    }

    #[test]
    fn each_switch_in_toml_is_its_own() {
        let read = |text: &str| TaskOptions::from_any(Some(&generic(3, text))).unwrap();
        let default = TaskOptions::default();
        assert_eq!(read("NoPivotRoot = true"), TaskOptions { no_pivot: true, ..default.clone() });
        assert_eq!(read("NoNewKeyring = true"), TaskOptions { no_new_keyring: true, ..default.clone() });
        assert_eq!(read("SystemdCgroup = true"), TaskOptions { systemd_cgroup: Some(true), ..default.clone() });
        assert_eq!(read("ShimCgroup = \"/s\""), TaskOptions { shim_cgroup: Some("/s".into()), ..default });
    }

    #[test]
    fn the_text_goes_before_the_path_and_the_old_name_of_the_type_is_known() {
        let both = [generic(2, "/no/such.toml").value, generic(3, "IoUid = 7").value].concat();
        for name in [GENERIC, "cri.runtimeoptions.v1.Options"] {
            let options = TaskOptions::from_any(Some(&any(name, both.clone()))).unwrap();
            assert_eq!(options.io_owner, (7, 0), "{name}");
        }
    }

    #[test]
    fn options_in_toml_say_the_same() {
        let text =
            "Root = \"/run/x\"\nSystemdCgroup = true\nNoPivotRoot = true\nNoNewKeyring = true\nIoUid = 7\nIoGid = 8\n";
        let text = format!("{text}CriuPath = \"/c\"\nCriuWorkPath = \"/w\"\n");
        let expected = TaskOptions {
            root: Some("/run/x".into()),
            systemd_cgroup: Some(true),
            no_pivot: true,
            no_new_keyring: true,
            io_owner: (7, 8),
            criu_path: Some("/c".into()),
            criu_work: Some("/w".into()),
            criu_images: None,
            shim_cgroup: None,
        };
        assert_eq!(TaskOptions::from_any(Some(&generic(3, &text))).unwrap(), expected);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &text).unwrap();
        let by_path = generic(2, file.path().to_str().unwrap());
        assert_eq!(TaskOptions::from_any(Some(&by_path)).unwrap(), expected);
        let nowhere = TaskOptions::from_any(Some(&generic(2, "/no/such.toml"))).unwrap_err();
        assert!(nowhere.to_string().contains("/no/such.toml"));
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for odd in [fifo.to_str().unwrap(), "/dev/zero", "/"] {
            let refused = TaskOptions::from_any(Some(&generic(2, odd))).unwrap_err().to_string();
            assert!(refused.contains(odd) && refused.contains("regular file"), "{refused}");
        }
    }

    #[test]
    fn another_runtime_and_unknown_options_are_refused_by_name() {
        let other = oci::Options { binary_name: "crun".into(), ..Default::default() };
        for (any, name) in [
            (runc(&other), "crun"),
            (generic(3, "BinaryName = \"crun\""), "crun"),
            (generic(3, "SystemdCgruop = true"), "SystemdCgruop"),
            (any("example.Options", Vec::new()), "example.Options"),
        ] {
            assert!(TaskOptions::from_any(Some(&any)).unwrap_err().to_string().contains(name), "{name}");
        }
    }
}
