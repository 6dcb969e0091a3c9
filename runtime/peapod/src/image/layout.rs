//! An OCI image layout (image specification, `image-layout.md`): `index.json` and `blobs/sha256/*`.

use std::path::Path;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};

use super::found::{Found, LayerFile, configuration};
use super::source::Source;
use super::{ImageError, Reference, digest, platform, reference};

/// The annotation with an image's tag or name (image specification, `annotations.md`).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation with an image's full name, as containerd and docker write it.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// How deep indexes may lie in each other.
const DEEPEST: usize = 4;

/// A manifest on the way to an image, and the index of the source it was found in, if not the outermost.
struct Candidate {
    name: Option<String>,
    descriptor: Descriptor,
    index: Option<String>,
}

/// The images of a layout that run on this machine: of each name the one for its platform.
pub(super) fn images(source: &Source, index: &[u8]) -> Result<Vec<Found>, ImageError> {
    let index = parse(source, index)?;
    let mut candidates = Vec::new();
    for descriptor in index.manifests() {
        gather(source, descriptor, name(source, descriptor), None, DEEPEST, &mut candidates)?;
    }
    let mut names: Vec<Option<String>> = Vec::new();
    for candidate in &candidates {
        if !names.contains(&candidate.name) {
            names.push(candidate.name.clone());
        }
    }
    let mut found = Vec::new();
    for name in names {
        let mut named: Vec<&Candidate> = candidates.iter().filter(|one| one.name == name && suits(one)).collect();
        named.sort_by_key(|one| platform::rank(variant(&one.descriptor)));
        // Without a name there is nothing to choose among: each is an image of its own.
        let taken = if name.is_some() { 1 } else { named.len() };
        for candidate in named.into_iter().take(taken) {
            found.push(image(source, candidate)?);
        }
    }
    match found.is_empty() {
        false => Ok(found),
        true => Err(source.refused(nothing(&candidates))),
    }
}

fn nothing(candidates: &[Candidate]) -> String {
    let platforms: Vec<String> = candidates
        .iter()
        .filter_map(|one| one.descriptor.platform().as_ref())
        .map(|is| platform::text(is.os(), is.architecture(), is.variant().as_deref()))
        .collect();
    match platforms.is_empty() {
        true => "its index lists no image".to_owned(),
        false => format!("it is for {}, this machine is linux/{}", platforms.join(", "), platform::machine()),
    }
}

/// Walks down the indexes to the manifests.
fn gather(
    source: &Source,
    descriptor: &Descriptor,
    name: Option<String>,
    index: Option<String>,
    deeper: usize,
    candidates: &mut Vec<Candidate>,
) -> Result<(), ImageError> {
    match descriptor.media_type().to_string().as_str() {
        "application/vnd.oci.image.manifest.v1+json" | "application/vnd.docker.distribution.manifest.v2+json" => {
            candidates.push(Candidate { name, descriptor: descriptor.clone(), index });
            Ok(())
        }
        "application/vnd.oci.image.index.v1+json" | "application/vnd.docker.distribution.manifest.list.v2+json" => {
            if deeper == 0 {
                return Err(source.refused(format!("its indexes lie more than {DEEPEST} deep in each other")));
            }
            let inner = parse(source, &blob(source, descriptor)?)?;
            let index = index.or_else(|| Some(descriptor.digest().to_string()));
            for descriptor in inner.manifests() {
                gather(source, descriptor, name.clone(), index.clone(), deeper - 1, candidates)?;
            }
            Ok(())
        }
        // Whatever else there is (signatures, artifacts) is no image.
        _ => Ok(()),
    }
}

/// Whether a manifest may be for this machine; what does not say so is judged by its configuration.
/// Attestations say `unknown/unknown`.
fn suits(candidate: &Candidate) -> bool {
    let platform = candidate.descriptor.platform();
    platform.as_ref().is_none_or(|is| platform::fits(is.os(), is.architecture()))
}

fn variant(descriptor: &Descriptor) -> Option<&str> {
    descriptor.platform().as_ref().and_then(|platform| platform.variant().as_deref())
}

fn image(source: &Source, candidate: &Candidate) -> Result<Found, ImageError> {
    let bytes = blob(source, &candidate.descriptor)?;
    let manifest = ImageManifest::from_reader(bytes.as_slice()).map_err(|error| {
        source.refused(format!("the manifest {} cannot be read: {error}", candidate.descriptor.digest()))
    })?;
    if let Some(layer) = manifest.layers().iter().find(|layer| encrypted(layer.media_type())) {
        return Err(source.refused(format!("the layer {} is encrypted", layer.digest())));
    }
    let config = blob(source, manifest.config())?;
    let diff_ids = configuration(source, &config, manifest.layers().len())?.rootfs().diff_ids().clone();
    let layers = manifest.layers().iter().zip(diff_ids).map(|(layer, diff_id)| {
        Ok(LayerFile { path: path(source, layer)?, digest: Some(layer.digest().to_string()), diff_id })
    });
    Ok(Found {
        names: candidate.name.iter().cloned().collect(),
        layers: layers.collect::<Result<_, ImageError>>()?,
        manifest: bytes,
        index: candidate.index.clone(),
        config,
    })
}

fn encrypted(kind: &MediaType) -> bool {
    kind.to_string().ends_with("+encrypted")
}

fn parse(source: &Source, bytes: &[u8]) -> Result<ImageIndex, ImageError> {
    ImageIndex::from_reader(bytes).map_err(|error| source.refused(format!("its index cannot be read: {error}")))
}

/// The file of the source that holds a blob.
fn path(source: &Source, descriptor: &Descriptor) -> Result<String, ImageError> {
    let digest = descriptor.digest().to_string();
    match digest.split_once(':') {
        Some(("sha256", hex)) if reference::is_digest(&digest) => Ok(format!("blobs/sha256/{hex}")),
        _ => Err(source.refused(format!("{digest:?} is not a digest; only sha256 is supported"))),
    }
}

/// A small blob, verified.
fn blob(source: &Source, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
    let path = path(source, descriptor)?;
    let bytes = source.small(&path)?.ok_or_else(|| source.refused(format!("{path} is missing")))?;
    let is = digest::of(&bytes);
    if is != descriptor.digest().to_string() {
        return Err(source.refused(format!("{path} is damaged: its digest is {is}")));
    }
    Ok(bytes)
}

/// The full name an index gives an image.
///
/// A bare word is a tag without a name (`skopeo copy … oci:busybox:1.36` writes `1.36`); the name is
/// then that of the file or directory.
fn name(source: &Source, descriptor: &Descriptor) -> Option<String> {
    let annotations = descriptor.annotations().as_ref()?;
    if let Some(name) = annotations.get(CONTAINERD_NAME) {
        return Reference::parse(name).ok().map(|name| name.to_string());
    }
    let name = annotations.get(REF_NAME)?;
    let whole = if name.contains(['/', ':']) { name.clone() } else { format!("{}:{name}", stem(source.path())?) };
    Reference::parse(&whole).ok().map(|name| name.to_string())
}

/// `busybox` of `/x/busybox.tar.gz`.
fn stem(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    Some(name.split_once('.').map_or(name, |(stem, _)| stem))
}
