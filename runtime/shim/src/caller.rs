//! Which containerd has called: its 1.x, or 2.
//!
//! Nothing that containerd says to `start` tells 1.7 and 2.0 to 2.2 apart (`MAX_SHIM_VERSION` is 2 in all of them), and the
//! answer matters. 1.7 refuses a shim of version 3 ("unsupported shim version"). 2.x takes one of version 2 for a shim without
//! the sandbox API, and runs this program twice more for every container of a pod: once to be told the address that it has
//! already, and once to clear up what the shim has cleared up. (`supportSandboxAPIVersion` in containerd's
//! `core/runtime/v2`.)
//!
//! So the caller's program is asked: Go's linker puts the path of the main module, and those of all it is made of, into a
//! section of the binary (what `go version -m` prints; the format is that of Go's package `debug/buildinfo`), and containerd 2 has
//! another path than 1.x. That also tells what is in k3s, where containerd is one of many modules. Running `containerd
//! --version` would cost the start of one more Go program.

use std::fs::File;

use containerd_shim_protos::protobuf::CodedInputStream;
use object::{Object, ObjectSection, ReadCache};

/// The module of containerd 2 (and of 3, which would have another path: for that one 2 is the safe answer).
const TWO: &str = "github.com/containerd/containerd/v2";
/// That of 1.x, as modules are listed: between tabulators.
const ONE: &str = "\tgithub.com/containerd/containerd\t";
const SECTION: &str = ".go.buildinfo";
/// What the section begins with.
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Where the flags are, and the one which says that the texts follow (Go 1.18 and newer).
const FLAGS: usize = 15;
const INLINE: u8 = 2;
/// Where the texts begin: Go's version, then the modules, each after its length.
const TEXTS: usize = 32;

/// Whether the parent of this process is containerd 2. `false` also where that cannot be seen.
pub fn is_containerd_2() -> bool {
    // Its running program, whatever an upgrade has put in its place on disk since.
    let program = format!("/proc/{}/exe", nix::unistd::getppid());
    File::open(program).ok().and_then(modules).is_some_and(|modules| names_containerd_2(&modules))
}

fn names_containerd_2(modules: &str) -> bool {
    let named = |text: &str| text.starts_with(['\t', '\n', '/']);
    // Somebody's 1.x may well have a library that needs a part of 2.
    !modules.contains(ONE) && modules.match_indices(TWO).any(|(at, path)| named(&modules[at + path.len()..]))
}

/// The list of modules in a Go program.
fn modules(program: File) -> Option<String> {
    let cache = ReadCache::new(program);
    let parsed = object::File::parse(&cache).ok()?;
    let section = parsed.section_by_name(SECTION)?;
    listed(section.data().ok()?)
}

fn listed(section: &[u8]) -> Option<String> {
    if !section.starts_with(MAGIC) || section.get(FLAGS)? & INLINE == 0 {
        return None;
    }
    // Go and protobuf write a text and its length alike.
    let mut texts = CodedInputStream::from_bytes(section.get(TEXTS..)?);
    let _version = texts.read_bytes().ok()?;
    Some(String::from_utf8_lossy(&texts.read_bytes().ok()?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Go's linker writes them, with marks of 16 bytes before and after the list.
    fn section(flags: u8, modules: &str) -> Vec<u8> {
        let mut bytes = [MAGIC, &[8, flags], &[0; 16], &[8], b"go1.24.4"].concat();
        let list = format!("0123456789abcdef{modules}0123456789abcdef");
        assert!((128..16384).contains(&list.len()), "a length of two bytes is what is tried");
        bytes.extend([(list.len() & 0x7f) as u8 | 0x80, (list.len() >> 7) as u8]);
        bytes.extend(list.bytes());
        bytes
    }

    const DISTRIBUTED: &str = "path\tgithub.com/containerd/containerd/v2/cmd/containerd\nmod\tgithub.com/containerd/containerd/v2\t(devel)\t\n";
    const GOPATH: &str = "path\tgithub.com/containerd/containerd/v2/cmd/containerd\nbuild\t-buildmode=exe\nbuild\t-compiler=gc\nbuild\t-trimpath=true\n";
    const K3S: &str = "path\tgithub.com/k3s-io/k3s/cmd/server\nmod\tgithub.com/k3s-io/k3s\t(devel)\t\ndep\tgithub.com/containerd/containerd/v2\tv2.0.5\n=>\tgithub.com/k3s-io/containerd/v2\tv2.0.5-k3s1\t\n";
    const OLD: &str = "path\tgithub.com/containerd/containerd/cmd/containerd\nmod\tgithub.com/containerd/containerd\t(devel)\t\ndep\tgithub.com/containerd/containerd/api\tv1.8.0\t\n";
    const OLD_WITH_NEW_LIBRARY: &str = "path\tgithub.com/k3s-io/k3s/cmd/server\ndep\tgithub.com/containerd/containerd\tv1.7.23\t\ndep\tgithub.com/containerd/containerd/v2\tv2.0.0\t\n";
    const OTHER: &str = "path\texample.org/wrapper\nmod\texample.org/wrapper\tv1.0.0\t\ndep\tgithub.com/containerd/containerd/v22\tv22.0.0\t\nbuild\t-compiler=gc\n";

    #[test]
    fn containerd_2_is_known_by_its_module_wherever_it_is_linked_in() {
        for (modules, two) in [
            (DISTRIBUTED, true),
            (GOPATH, true),
            (K3S, true),
            (OLD, false),
            (OLD_WITH_NEW_LIBRARY, false),
            (OTHER, false),
        ] {
            let listed = listed(&section(INLINE, modules)).unwrap();
            assert_eq!(names_containerd_2(&listed), two, "{modules}");
        }
    }

    #[test]
    fn what_is_no_list_of_modules_is_none() {
        let whole = section(INLINE, DISTRIBUTED);
        assert_eq!(listed(&section(0, DISTRIBUTED)), None, "Go 1.17 has addresses there");
        for length in 0..whole.len() {
            assert_eq!(listed(&whole[..length]), None, "{length} bytes");
        }
        assert_eq!(modules(File::open("/proc/self/exe").unwrap()), None, "this is no Go program");
        assert_eq!(modules(File::open("/etc/passwd").unwrap()), None);
    }
}
