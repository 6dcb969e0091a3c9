//! Compression, recognised by its first bytes: what a media type says is not always so.

use std::io::{self, BufReader, Read};

use flate2::read::MultiGzDecoder;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Formats that are recognised only to be named.
const OTHERS: &[(&str, &[u8])] = &[("xz", &[0xfd, b'7', b'z', b'X', b'Z', 0]), ("bzip2", b"BZh")];

/// Whether bytes begin like a compressed stream.
pub(super) fn is_compressed(start: &[u8]) -> bool {
    [GZIP, ZSTD]
        .into_iter()
        .chain(OTHERS.iter().map(|(_, magic)| &magic[..4.min(magic.len())]))
        .any(|magic| start.starts_with(magic))
}

/// The plain bytes of a stream that may be compressed with gzip or zstd.
pub(super) fn plain<'a>(mut reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = Vec::new();
    reader.by_ref().take(6).read_to_end(&mut start)?;
    let kind = |magic: &[u8]| start.starts_with(magic);
    let (gzip, zstd) = (kind(GZIP), kind(ZSTD));
    if let Some((name, _)) = OTHERS.iter().find(|(_, magic)| kind(magic)) {
        let reason = format!("it is compressed with {name}, which OCI does not know; gzip and zstd are");
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    let whole = BufReader::new(io::Cursor::new(start).chain(reader));
    Ok(match (gzip, zstd) {
        (true, _) => Box::new(MultiGzDecoder::new(whole)),
        (_, true) => Box::new(zstd::stream::read::Decoder::with_buffer(whole)?),
        _ => Box::new(whole),
    })
}
