//! The root file system: the image's layers under a writable one.

use std::path::Path;

use super::ContainerError;
use crate::image::Image;
use crate::volume::ContainerFiles;

/// mount(2) copies one page of options, the last byte a zero.
const MOST_OPTIONS: usize = 4095;

/// A root file system for the shim to mount: one `containerd.types.Mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rootfs {
    /// The file system's type, `overlay`.
    pub kind: String,
    /// The mount's source, which overlayfs does not look at.
    pub source: String,
    /// The mount's options.
    pub options: Vec<String>,
}

/// The root file system of one start of a container.
///
/// # Errors
///
/// When the layers are more than the kernel takes in one mount.
pub fn rootfs(image: &Image, files: &ContainerFiles) -> Result<Rootfs, ContainerError> {
    let layers: Vec<String> = image.layers.iter().map(|layer| escaped(layer)).collect();
    let options = vec![
        format!("lowerdir={}", layers.join(":")),
        format!("upperdir={}", escaped(&files.upper)),
        format!("workdir={}", escaped(&files.work)),
    ];
    let length = options.join(",").len();
    if length > MOST_OPTIONS {
        let image = image.reference.clone();
        return Err(ContainerError::TooManyLayers { image, layers: layers.len(), length });
    }
    Ok(Rootfs { kind: "overlay".to_owned(), source: "overlay".to_owned(), options })
}

/// A path as overlayfs reads it: `:` separates layers and `,` options.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
}
