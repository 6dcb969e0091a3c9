//! Compiled programs kept on disk.
//!
//! Compiling a profile of a container engine takes milliseconds, and thousands of containers share a few profiles. A
//! file holds what the program was compiled from, and the program. Whatever is wrong with a file or the directory, the
//! profile is compiled.
//!
//! ```text
//! <dir>/<hash of the key>    checksum of the rest (8 bytes), length of the key (8 bytes), key, program
//! ```

use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libseccomp::ScmpVersion;
use nix::unistd::geteuid;
use oci_spec::runtime::LinuxSeccomp;

use super::compile;
use crate::error::Error;
use crate::sys::seccomp::{Instruction, LONGEST};

/// To be counted up when the same profile compiles to another program.
const GENERATION: u32 = 3;

/// As many programs are kept; then the oldest goes.
const MOST: usize = 64;

/// No profile is longer; it would not compile.
const LONGEST_KEY: usize = 1 << 20;

/// One entry of the cache, there or not.
pub struct Cache {
    dir: PathBuf,
    /// All that the program depends on, in full: two profiles with one hash are no danger.
    key: Option<Vec<u8>>,
}

impl Cache {
    /// The entry for that profile in the directory `dir`.
    pub fn new(dir: &Path, seccomp: &LinuxSeccomp) -> Self {
        // All but what is for the loading: flags, listener.
        let default = (seccomp.default_action(), seccomp.default_errno_ret());
        let profile = (default, seccomp.architectures(), seccomp.syscalls());
        let library = ScmpVersion::current().map(|version| version.to_string()).unwrap_or_default();
        let version = (GENERATION, env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, library);
        let key = serde_json::to_vec(&(version, profile)).ok().filter(|key| key.len() <= LONGEST_KEY);
        Self { dir: dir.to_owned(), key }
    }

    /// The program kept, or what `compile` makes, which is kept then.
    pub fn get_or(&self, compile: impl FnOnce() -> Result<Vec<Instruction>, Error>) -> Result<Vec<Instruction>, Error> {
        let Some(key) = &self.key else { return compile() };
        let path = self.dir.join(format!("{:016x}", hash(&[key])));
        if let Some(program) = self.read(&path, key) {
            return Ok(program);
        }
        let program = compile()?;
        // A full or read-only disk costs time, not the container.
        let _ = self.write(&path, &encode(key, &program));
        Ok(program)
    }

    fn read(&self, path: &Path, key: &[u8]) -> Option<Vec<Instruction>> {
        if !is_private(&fs::symlink_metadata(&self.dir).ok().filter(fs::Metadata::is_dir)?) {
            return None;
        }
        let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).ok()?;
        let metadata = file.metadata().ok()?;
        let longest = (LONGEST_KEY + HEADER + LONGEST * compile::SIZE) as u64;
        if !metadata.is_file() || !is_private(&metadata) || metadata.len() > longest {
            return None;
        }
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        file.take(longest).read_to_end(&mut bytes).ok()?;
        decode(&bytes, key)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Some(parent) = self.dir.parent() {
            // As the state root is made, should this be the first container.
            DirBuilder::new().recursive(true).mode(0o711).create(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if !is_private(&fs::symlink_metadata(&self.dir)?) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.make_room(path)?;
        let temporary = path.with_extension(std::process::id().to_string());
        // Of a process that had this number and was killed here.
        let _ = fs::remove_file(&temporary);
        let mut options = File::options();
        let file = options.write(true).create_new(true).mode(0o600).open(&temporary);
        let written = file.and_then(|mut file| file.write_all(bytes)).and_then(|()| fs::rename(&temporary, path));
        written.inspect_err(|_| drop(fs::remove_file(&temporary)))
    }

    fn make_room(&self, path: &Path) -> io::Result<()> {
        let age = |entry: fs::DirEntry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()));
        let mut others: Vec<_> = fs::read_dir(&self.dir)?.flatten().filter_map(age).collect();
        others.retain(|(_, other)| other != path);
        others.sort();
        let surplus = (others.len() + 1).saturating_sub(MOST);
        others.iter().take(surplus).try_for_each(|(_, other)| fs::remove_file(other))
    }
}

/// Nobody else can have written it.
fn is_private(metadata: &fs::Metadata) -> bool {
    metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o077 == 0
}

fn hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.iter().for_each(|part| hasher.write(part));
    hasher.finish()
}

const HEADER: usize = 16;

fn encode(key: &[u8], program: &[Instruction]) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    bytes.extend((key.len() as u64).to_ne_bytes());
    bytes.extend(key);
    bytes.extend(compile::encode(program));
    let checksum = hash(&[&bytes[8..]]).to_ne_bytes();
    bytes[..8].copy_from_slice(&checksum);
    bytes
}

/// The program, when it is whole and was compiled from `key`.
fn decode(bytes: &[u8], key: &[u8]) -> Option<Vec<Instruction>> {
    let (checksum, rest) = bytes.split_first_chunk::<8>()?;
    let (length, content) = rest.split_first_chunk::<8>()?;
    let same_key = u64::from_ne_bytes(*length) == key.len() as u64 && content.starts_with(key);
    if !same_key || u64::from_ne_bytes(*checksum) != hash(&[rest]) {
        return None;
    }
    compile::decode(&content[key.len()..]).filter(|program| program.len() <= LONGEST)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use serde_json::json;

    use super::*;

    const PROGRAM: [Instruction; 2] =
        [Instruction { code: 0x20, jt: 0, jf: 0, k: 4 }, Instruction { code: 6, jt: 0, jf: 0, k: 0x7fff_0000 }];

    fn profile(errno: u32) -> LinuxSeccomp {
        let value = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": errno});
        serde_json::from_value(value).expect("a profile")
    }

    /// Whether getting the program took compiling it.
    fn compiles(dir: &Path, errno: u32) -> bool {
        let compiled = Cell::new(false);
        let program = Cache::new(dir, &profile(errno)).get_or(|| {
            compiled.set(true);
            Ok(PROGRAM.to_vec())
        });
        assert_eq!(program.expect("a program"), PROGRAM);
        compiled.get()
    }

    fn entry(dir: &Path) -> PathBuf {
        let mut entries: Vec<_> = fs::read_dir(dir).expect("the cache").flatten().map(|entry| entry.path()).collect();
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries.remove(0)
    }

    #[test]
    fn the_second_time_nothing_is_compiled() {
        let scratch = tempfile::tempdir().expect("a directory");
        let dir = scratch.path().join("root/@seccomp");
        assert!(compiles(&dir, 1));
        assert!(!compiles(&dir, 1));
        assert!(compiles(&dir, 2), "another profile");
        assert!(!compiles(&dir, 2));
        assert_eq!(fs::metadata(&dir).expect("it").mode() & 0o777, 0o700);
    }

    #[test]
    fn what_is_damaged_or_could_be_anothers_work_is_compiled_again() {
        let scratch = tempfile::tempdir().expect("a directory");
        let dir = scratch.path().join("@seccomp");
        compiles(&dir, 1);
        let path = entry(&dir);
        let good = fs::read(&path).expect("the entry");
        assert_eq!(fs::metadata(&path).expect("it").mode() & 0o777, 0o600);
        for damage in 0..good.len() {
            let mut bad = good.clone();
            bad[damage] ^= 4;
            fs::write(&path, &bad).expect("damaged");
            assert!(compiles(&dir, 1), "byte {damage}");
            fs::write(&path, &good[..damage]).expect("cut");
            assert!(compiles(&dir, 1), "cut at {damage}");
        }
        for (target, mode, good_mode) in [(&path, 0o640, 0o600), (&dir, 0o770, 0o700)] {
            fs::set_permissions(target, fs::Permissions::from_mode(mode)).expect("chmod");
            assert!(compiles(&dir, 1), "mode {mode:o} of {target:?}");
            fs::set_permissions(target, fs::Permissions::from_mode(good_mode)).expect("chmod");
        }
        assert!(!compiles(&dir, 1));
        let aside = scratch.path().join("aside");
        fs::rename(&path, &aside).expect("moved");
        symlink(&aside, &path).expect("a link");
        assert!(compiles(&dir, 1), "a symbolic link");
    }

    #[test]
    fn a_cache_that_cannot_be_is_no_error() {
        let scratch = tempfile::tempdir().expect("a directory");
        let file = scratch.path().join("file");
        fs::write(&file, "").expect("a file");
        assert!(compiles(&file, 1));
        assert!(compiles(&file.join("below"), 1));
    }

    #[test]
    fn old_entries_make_room() {
        let scratch = tempfile::tempdir().expect("a directory");
        let dir = scratch.path().join("@seccomp");
        for errno in 0..MOST as u32 + 3 {
            compiles(&dir, errno);
        }
        assert_eq!(fs::read_dir(&dir).expect("the cache").count(), MOST);
    }
}
