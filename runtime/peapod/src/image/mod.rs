//! Images: the content store on disk, and what a container needs of one.
//!
//! An image is loaded once from an OCI layout directory, an OCI archive or an archive of
//! `docker save`; each of its layers is unpacked once, however many images share it, into a
//! directory that overlayfs stacks as it is.

mod compression;
mod digest;
mod error;
mod found;
mod layout;
mod platform;
mod reference;
mod saved;
mod source;
mod store;
mod tree;
mod unpack;

use std::io;
use std::path::{Path, PathBuf};

use digest::Hashing;
pub use error::ImageError;
use found::{Found, LayerFile};
use oci_spec::image::{ImageConfiguration, ImageManifest};
pub use reference::Reference;
use source::Source;
use store::{Change, Entry, Index};

/// The content store under `<root>/images`.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// An image that is ready to be run.
#[derive(Clone, Debug)]
pub struct Image {
    /// The normalised reference it was found by, such as `docker.io/library/busybox:latest`.
    pub reference: String,
    /// The manifest's digest, `sha256:…`.
    pub digest: String,
    /// The image's configuration.
    pub config: ImageConfiguration,
    /// The unpacked layers, topmost first: overlayfs' `lowerdir` in order.
    pub layers: Vec<PathBuf>,
}

/// What [`Store::load`] found in a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The name it can be run by; its digest when the source gives it no name.
    pub reference: String,
    /// The manifest's digest, `sha256:…`.
    pub digest: String,
}

/// One image of the store, for a list.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ImageSummary {
    /// Its names; none when a later image took them.
    pub references: Vec<String>,
    /// The manifest's digest, `sha256:…`.
    pub digest: String,
    /// The size of its blobs (configuration and layers as stored in the source), in bytes.
    pub size: u64,
    /// When it was built (RFC 3339), when it says so.
    pub created: Option<String>,
    /// `os/architecture[/variant]`.
    pub platform: String,
}

/// What [`Store::load`] is doing, for a progress display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A layer is being unpacked.
    Unpacking {
        /// The layer's diff id.
        diff_id: String,
        /// Which one of how many, from 1.
        index: usize,
        /// How many the image has.
        total: usize,
    },
    /// A layer is there already.
    Shared {
        /// The layer's diff id.
        diff_id: String,
    },
}

impl Store {
    /// Opens the store under `root` (`--root`), making its directories where they are missing.
    ///
    /// # Errors
    ///
    /// When the directories cannot be made.
    pub fn open(root: &Path) -> Result<Store, ImageError> {
        let store = Store { root: root.join("images") };
        store.make_directories()?;
        Ok(store)
    }

    /// Loads every image of `source` for this machine's platform: an OCI layout directory, an OCI
    /// archive or a docker archive, plain or compressed. `name` replaces the name the source gives.
    ///
    /// # Errors
    ///
    /// When the source is none of these, is damaged (each digest is verified), or holds nothing
    /// for this platform. Nothing of it is then left in the store.
    pub fn load(
        &self,
        source: &Path,
        name: Option<&str>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Loaded>, ImageError> {
        let name = name.map(Reference::parse).transpose().map_err(ImageError::BadName)?;
        let mut change = self.change()?;
        let source = Source::open(source, change.scratch())?;
        let mut images = found::images(&source)?;
        match (name, images.as_mut_slice()) {
            (None, _) => {}
            (Some(name), [image]) => image.names = vec![name.to_string()],
            (Some(_), many) => {
                return Err(source.refused(format!("it holds {} images; one name cannot be given to them", many.len())));
            }
        }
        let mut index = self.index()?;
        let mut loaded = Vec::new();
        for image in images {
            layers(&mut change, &source, &image, progress)?;
            loaded.extend(enter(&mut change, &source, image, &mut index)?);
        }
        change.commit(&index)?;
        Ok(loaded)
    }

    /// The images of the store, by name.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<ImageSummary>, ImageError> {
        let summary = |entry: Entry| ImageSummary {
            references: entry.references,
            digest: entry.digest,
            size: entry.size,
            created: entry.created,
            platform: entry.platform,
        };
        let mut images: Vec<ImageSummary> = self.index()?.images.into_iter().map(summary).collect();
        images.sort_by(|one, other| (&one.references, &one.digest).cmp(&(&other.references, &other.digest)));
        Ok(images)
    }

    /// Finds an image by name (`busybox`, `busybox:1.36`, `ghcr.io/a/b@sha256:…`) or digest.
    ///
    /// # Errors
    ///
    /// [`ImageError::NotFound`] says how to load it.
    pub fn resolve(&self, reference: &str) -> Result<Image, ImageError> {
        let (reference, entry) = self.find(reference)?;
        let damaged = |error: oci_spec::OciSpecError| ImageError::Damaged {
            path: self.root.join("blobs/sha256").join(entry.digest.trim_start_matches("sha256:")),
            reason: error.to_string(),
        };
        let manifest = ImageManifest::from_reader(self.blob(&entry.digest)?.as_slice()).map_err(damaged)?;
        let config = self.blob(manifest.config().digest().as_ref())?;
        let config = ImageConfiguration::from_reader(config.as_slice()).map_err(damaged)?;
        let mut layers: Vec<PathBuf> = Vec::new();
        for diff_id in config.rootfs().diff_ids().iter().rev() {
            let Some(layer) = self.layer(diff_id)? else {
                let reason = format!("the layer {diff_id} of {reference} is missing");
                return Err(ImageError::Damaged { path: self.root.join("layers"), reason });
            };
            // overlayfs refuses a layer that comes twice, and the lower one shows nothing the upper one
            // does not.
            if !layers.contains(&layer) {
                layers.push(layer);
            }
        }
        if layers.is_empty() {
            layers.push(self.empty_layer());
        }
        Ok(Image { reference, digest: entry.digest, config, layers })
    }

    /// The entry of a name or digest, and the name in full.
    fn find(&self, text: &str) -> Result<(String, Entry), ImageError> {
        let index = self.index()?;
        let by_digest = |digest: &str| {
            let is = |entry: &&Entry| entry.digest == digest || entry.indexes.iter().any(|index| index == digest);
            index.images.iter().find(is).cloned()
        };
        let (name, entry) = if reference::is_digest(text) {
            (text.to_owned(), by_digest(text))
        } else {
            let reference = Reference::parse(text).map_err(ImageError::BadName)?;
            let name = reference.to_string();
            let entry = match &reference.digest {
                Some(digest) => by_digest(digest),
                None => index.images.iter().find(|entry| entry.references.contains(&name)).cloned(),
            };
            (name, entry)
        };
        match entry {
            Some(entry) => Ok((name, entry)),
            None => Err(ImageError::NotFound { reference: name }),
        }
    }
}

/// Unpacks the layers of an image that are not there yet.
fn layers(
    change: &mut Change<'_>,
    source: &Source,
    image: &Found,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ImageError> {
    let total = image.layers.len();
    for (number, layer) in image.layers.iter().enumerate() {
        let diff_id = layer.diff_id.clone();
        if change.has_layer(&diff_id)? {
            progress(Progress::Shared { diff_id });
            continue;
        }
        progress(Progress::Unpacking { diff_id: diff_id.clone(), index: number + 1, total });
        let directory = change.new_layer(&diff_id)?;
        unpack_layer(source, layer, &directory.join("fs"))?;
        change.add_layer(&diff_id, directory)?;
    }
    Ok(())
}

/// Unpacks one layer, and verifies both its digests: of the file, and of the plain archive in it.
fn unpack_layer(source: &Source, layer: &LayerFile, directory: &Path) -> Result<(), ImageError> {
    let damaged = |error: io::Error| source.refused(format!("the layer {} cannot be unpacked: {error}", layer.path));
    let Some((file, _)) = source.file(&layer.path)? else {
        return Err(source.refused(format!("{} is missing", layer.path)));
    };
    let mut file = Hashing::new(file);
    let mut plain = Hashing::new(compression::plain(&mut file).map_err(damaged)?);
    unpack::unpack(&mut plain, directory).map_err(damaged)?;
    let diff_id = plain.finish().map_err(damaged)?;
    let digest = file.finish().map_err(damaged)?;
    if layer.digest.as_ref().is_some_and(|expected| *expected != digest) {
        return Err(source.refused(format!("{} is damaged: its digest is {digest}", layer.path)));
    }
    if diff_id != layer.diff_id {
        let reason = format!("the layer {} is not {} but {diff_id}", layer.path, layer.diff_id);
        return Err(source.refused(reason));
    }
    Ok(())
}

/// Enters an image into the index. Its names are taken from whoever had them.
fn enter(change: &mut Change<'_>, source: &Source, image: Found, index: &mut Index) -> Result<Vec<Loaded>, ImageError> {
    let digest = image.digest();
    let size = image.size(source)?;
    let config = found::configuration(source, &image.config, image.layers.len())?;
    for entry in &mut index.images {
        entry.references.retain(|name| !image.names.contains(name));
    }
    let new = Entry {
        digest: digest.clone(),
        indexes: Vec::new(),
        references: Vec::new(),
        size,
        created: config.created().clone(),
        platform: platform::text(config.os(), config.architecture(), config.variant().as_deref()),
    };
    let position = index.images.iter().position(|entry| entry.digest == digest).unwrap_or_else(|| {
        index.images.push(new);
        index.images.len() - 1
    });
    let entry = &mut index.images[position];
    entry.references.extend(image.names.iter().cloned());
    entry.references.sort();
    if let Some(from) = image.index.filter(|from| !entry.indexes.contains(from)) {
        entry.indexes.push(from);
    }
    change.add_blob(&digest, image.manifest);
    change.add_blob(&digest::of(&image.config), image.config);
    let names = if image.names.is_empty() { vec![digest.clone()] } else { image.names };
    Ok(names.into_iter().map(|reference| Loaded { reference, digest: digest.clone() }).collect())
}
