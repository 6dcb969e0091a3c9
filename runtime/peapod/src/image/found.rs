//! What a source holds: images, described and verified but for their layers.

use oci_spec::image::{ImageConfiguration, ImageManifest};

use super::source::Source;
use super::{ImageError, digest, layout, platform, saved};

/// An image of a source.
pub(super) struct Found {
    /// The names it is to have, in full.
    pub(super) names: Vec<String>,
    /// The manifest, as it is kept.
    pub(super) manifest: Vec<u8>,
    /// The digest of an index it was chosen from: a name with that digest means this image, too.
    pub(super) index: Option<String>,
    /// The configuration, as it is kept.
    pub(super) config: Vec<u8>,
    /// Where its layers are, the lowest first.
    pub(super) layers: Vec<LayerFile>,
}

/// A layer of a source.
pub(super) struct LayerFile {
    /// The file of the source.
    pub(super) path: String,
    /// The digest of that file, where the source says so.
    pub(super) digest: Option<String>,
    /// The digest of its plain tar archive, by which the store knows it.
    pub(super) diff_id: String,
}

/// The images of a source that run on this machine.
///
/// What newer versions of `docker save` write is both; the OCI layout in it says more.
pub(super) fn images(source: &Source) -> Result<Vec<Found>, ImageError> {
    if let Some(index) = source.small("index.json")? {
        return layout::images(source, &index);
    }
    if let Some(list) = source.small("manifest.json")? {
        return saved::images(source, &list);
    }
    Err(source.refused("it holds no image: neither index.json (OCI layout) nor manifest.json (docker save) is in it"))
}

impl Found {
    /// The manifest's digest.
    pub(super) fn digest(&self) -> String {
        digest::of(&self.manifest)
    }

    /// The size of the configuration and the layers as the source has them.
    pub(super) fn size(&self, source: &Source) -> Result<u64, ImageError> {
        let manifest = ImageManifest::from_reader(self.manifest.as_slice())
            .map_err(|error| source.refused(format!("the manifest cannot be read: {error}")))?;
        Ok(manifest.layers().iter().map(oci_spec::image::Descriptor::size).sum::<u64>() + manifest.config().size())
    }
}

/// Reads a configuration, and refuses one of another machine or with another number of layers.
pub(super) fn configuration(source: &Source, bytes: &[u8], layers: usize) -> Result<ImageConfiguration, ImageError> {
    let config = ImageConfiguration::from_reader(bytes)
        .map_err(|error| source.refused(format!("the image's configuration cannot be read: {error}")))?;
    if !platform::fits(config.os(), config.architecture()) {
        let is = platform::text(config.os(), config.architecture(), config.variant().as_deref());
        return Err(source.refused(format!("the image is for {is}, this machine is linux/{}", platform::machine())));
    }
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != layers {
        let reason = format!("the image has {layers} layers, but its configuration lists {}", diff_ids.len());
        return Err(source.refused(reason));
    }
    if let Some(bad) = diff_ids.iter().find(|id| !super::reference::is_digest(id)) {
        return Err(source.refused(format!("{bad:?} is not a digest of a layer; only sha256 is supported")));
    }
    Ok(config)
}
