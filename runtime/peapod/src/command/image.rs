//! `image load`, `image ls`.

use std::path::PathBuf;

use super::output::{print, table};
use super::{Code, Context};
use crate::error::Result;
use crate::image::{Progress, Store};

/// Load and list images.
#[derive(clap::Subcommand, Debug)]
pub enum Image {
    /// Load an OCI layout directory, an OCI archive, or an archive of `docker save`
    Load {
        /// The directory or archive
        path: PathBuf,
        /// The image's name, instead of the one it brings
        #[arg(long, value_name = "REF")]
        name: Option<String>,
    },
    /// List the images
    Ls,
}

impl Image {
    pub(super) fn run(&self, context: &Context) -> Result<Code> {
        let store = Store::open(&context.settings.root)?;
        match self {
            Image::Load { path, name } => {
                for loaded in store.load(path, name.as_deref(), &mut show)? {
                    print(format!("{} {}\n", loaded.reference, loaded.digest))?;
                }
            }
            Image::Ls => print(list(&store)?)?,
        }
        Ok(None)
    }
}

fn show(progress: Progress) {
    if let Progress::Unpacking { diff_id, index, total } = progress {
        eprintln!("unpacking layer {index} of {total}, {}", short(&diff_id));
    }
}

fn list(store: &Store) -> Result<String> {
    let head = ["REFERENCE", "DIGEST", "SIZE", "CREATED", "PLATFORM"].map(str::to_owned).to_vec();
    let mut rows = vec![head];
    for image in store.list()? {
        let created = image.created.clone().unwrap_or_else(|| "-".to_owned());
        let row = [short(&image.digest), size(image.size), created, image.platform.clone()];
        let names = if image.references.is_empty() { vec!["<none>".to_owned()] } else { image.references };
        rows.extend(names.into_iter().map(|name| [vec![name], row.to_vec()].concat()));
    }
    Ok(table(&rows))
}

/// The first twelve hexadecimal digits name an image well enough for people.
fn short(digest: &str) -> String {
    digest.strip_prefix("sha256:").unwrap_or(digest).chars().take(12).collect()
}

/// Bytes in the largest unit that leaves a number above 1.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    units.into_iter().find(|(shift, _)| bytes >> shift > 0).map_or_else(
        || format!("{bytes} B"),
        |(shift, unit)| {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
