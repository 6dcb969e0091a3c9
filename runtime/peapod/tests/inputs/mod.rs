//! Images made by hand, to be damaged by hand.

#![allow(dead_code)] // each test file uses its own part

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// `sha256:<hex>` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// This machine's architecture, as images call it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A tar archive, entry by entry, with names as they are: no check is in the way.
#[derive(Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn new() -> Tar {
        Tar::default()
    }

    pub fn raw(mut self, name: &str, link: &str, content: &[u8], change: impl FnOnce(&mut Header)) -> Tar {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_entry_type(EntryType::Regular);
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, content: &str) -> Tar {
        self.raw(name, "", content.as_bytes(), |_| {})
    }

    pub fn dir(self, name: &str) -> Tar {
        self.raw(name, "", b"", |header| {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
        })
    }

    pub fn link(self, kind: EntryType, name: &str, target: &str) -> Tar {
        self.raw(name, target, b"", |header| header.set_entry_type(kind))
    }

    /// Attributes of the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        let mut content = Vec::new();
        for (key, value) in records {
            // The length counts itself.
            let rest = key.len() + value.len() + 3;
            let length = (rest + 1..).find(|length| rest + length.to_string().len() == *length).unwrap();
            write!(content, "{length} {key}=").unwrap();
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.raw("pax", "", &content, |header| header.set_entry_type(EntryType::XHeader))
    }

    /// The archive with its end.
    pub fn done(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 0).unwrap()
}

/// A configuration for layers given as plain archives.
pub fn config(layers: &[Vec<u8>], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    let mut config = json!({
        "architecture": architecture(), "os": "linux", "created": "2024-01-02T03:04:05Z",
        "config": {"Cmd": ["/bin/sh"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    change(&mut config);
    serde_json::to_vec(&config).unwrap()
}

/// An OCI layout, file by file.
pub struct Layout {
    pub files: BTreeMap<String, Vec<u8>>,
    manifests: Vec<Value>,
}

impl Layout {
    pub fn new() -> Layout {
        let files = [("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())].into();
        Layout { files, manifests: Vec::new() }
    }

    /// Adds a blob and describes it.
    pub fn blob(&mut self, kind: &str, bytes: Vec<u8>) -> Value {
        let digest = digest(&bytes);
        let size = bytes.len();
        self.files.insert(format!("blobs/{}", digest.replace(':', "/")), bytes);
        json!({"mediaType": kind, "digest": digest, "size": size})
    }

    /// Adds an image with layers given as plain archives, stored through `compress`.
    pub fn image(&mut self, layers: &[Vec<u8>], config: Vec<u8>, compress: fn(&[u8]) -> Vec<u8>) -> Value {
        let stored: Vec<Value> = layers
            .iter()
            .map(|layer| self.blob("application/vnd.oci.image.layer.v1.tar+gzip", compress(layer)))
            .collect();
        let config = self.blob("application/vnd.oci.image.config.v1+json", config);
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": stored});
        self.blob(kind, serde_json::to_vec(&manifest).unwrap())
    }

    /// Adds an index of descriptors.
    pub fn index(&mut self, manifests: &[Value]) -> Value {
        let kind = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests});
        self.blob(kind, serde_json::to_vec(&index).unwrap())
    }

    /// Lists a descriptor in `index.json`, under an annotation.
    pub fn list(&mut self, mut descriptor: Value, annotation: &str, name: &str) {
        if !name.is_empty() {
            descriptor["annotations"] = json!({annotation: name});
        }
        self.manifests.push(descriptor);
    }

    /// One image of that name.
    pub fn simple(name: &str, layers: &[Vec<u8>], compress: fn(&[u8]) -> Vec<u8>) -> Layout {
        let mut layout = Layout::new();
        let image = layout.image(layers, config(layers, |_| {}), compress);
        layout.list(image, REF_NAME, name);
        layout
    }

    pub fn all_files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = self.files.clone();
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        files.insert("index.json".to_owned(), serde_json::to_vec(&index).unwrap());
        files
    }

    pub fn write_directory(&self, directory: &Path) {
        for (name, bytes) in self.all_files() {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    pub fn archive(&self) -> Vec<u8> {
        let pack = |tar: Tar, (name, bytes): (&String, &Vec<u8>)| tar.raw(&format!("./{name}"), "", bytes, |_| {});
        self.all_files().iter().fold(Tar::new().dir("./"), pack).done()
    }
}

pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Bytes as they are: no compression.
pub fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}
