//! What `docker save` writes: `manifest.json`, a list of images, each with the files it is made of.

use oci_spec::image::{DescriptorBuilder, ImageManifestBuilder, MediaType};
use serde::Deserialize;

use super::found::{Found, LayerFile, configuration};
use super::source::Source;
use super::{ImageError, Reference, digest};

/// An entry of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// The images of an archive. Each gets an OCI manifest, since there is none in it.
pub(super) fn images(source: &Source, list: &[u8]) -> Result<Vec<Found>, ImageError> {
    let list: Vec<Saved> = serde_json::from_slice(list)
        .map_err(|error| source.refused(format!("its manifest.json cannot be read: {error}")))?;
    if list.is_empty() {
        return Err(source.refused("its manifest.json lists no image"));
    }
    list.iter().map(|saved| image(source, saved)).collect()
}

fn image(source: &Source, saved: &Saved) -> Result<Found, ImageError> {
    let missing = |name: &str| source.refused(format!("{name} is missing"));
    let config = source.small(&saved.config)?.ok_or_else(|| missing(&saved.config))?;
    verify(source, &saved.config, &config)?;
    let diff_ids = configuration(source, &config, saved.layers.len())?.rootfs().diff_ids().clone();
    let mut names = Vec::new();
    for name in saved.repo_tags.iter().flatten() {
        names.push(Reference::parse(name).map_err(|reason| source.refused(reason))?.to_string());
    }
    let mut layers = Vec::new();
    let mut sizes = Vec::new();
    for (path, diff_id) in saved.layers.iter().zip(diff_ids) {
        let (_, size) = source.file(path)?.ok_or_else(|| missing(path))?;
        sizes.push((diff_id.clone(), size));
        layers.push(LayerFile { path: path.clone(), digest: None, diff_id });
    }
    let manifest = manifest(&config, &sizes)
        .map_err(|error| source.refused(format!("no manifest can be made for it: {error}")))?;
    Ok(Found { names, manifest, index: None, config, layers })
}

/// The configuration's file is named by its digest, in old archives (`<hex>.json`) and new ones
/// (`blobs/sha256/<hex>`) alike.
fn verify(source: &Source, path: &str, config: &[u8]) -> Result<(), ImageError> {
    let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".json");
    let named = format!("sha256:{name}");
    let is = digest::of(config);
    if super::reference::is_digest(&named) && named != is {
        return Err(source.refused(format!("{path} is damaged: its digest is {is}")));
    }
    Ok(())
}

/// The same bytes for the same image, whenever and wherever it is loaded.
fn manifest(config: &[u8], layers: &[(String, u64)]) -> Result<Vec<u8>, oci_spec::OciSpecError> {
    let descriptor = |kind: MediaType, digest: &str, size: u64| {
        DescriptorBuilder::default()
            .media_type(kind)
            .digest(digest.parse::<oci_spec::image::Digest>()?)
            .size(size)
            .build()
    };
    let layers = layers.iter().map(|(diff_id, size)| descriptor(MediaType::ImageLayer, diff_id, *size));
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(descriptor(MediaType::ImageConfig, &digest::of(config), config.len() as u64)?)
        .layers(layers.collect::<Result<Vec<_>, _>>()?)
        .build()?;
    Ok(serde_json::to_vec(&manifest)?)
}
