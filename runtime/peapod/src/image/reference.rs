//! Names of images, as the distribution specification and docker write them.

use std::fmt;

/// An image's name in full: `docker.io/library/busybox:latest`, `ghcr.io/a/b@sha256:…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Registry and repository: `docker.io/library/busybox`.
    pub repository: String,
    /// The tag. `latest` when neither tag nor digest was given.
    pub tag: Option<String>,
    /// The manifest's digest, `sha256:…`; it decides where both are given.
    pub digest: Option<String>,
}

impl Reference {
    /// Reads a name and completes it: `busybox` is `docker.io/library/busybox:latest`.
    ///
    /// # Errors
    ///
    /// Says which part does not follow the rules.
    pub fn parse(text: &str) -> Result<Reference, String> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash belongs to a registry's port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(format!("{text:?} is not an image name: {tag:?} is not a tag"));
        }
        if let Some(digest) = digest.filter(|digest| !is_digest(digest)) {
            return Err(format!(
                "{text:?} is not an image name: {digest:?} is not a digest (sha256: and 64 hexadecimal digits)"
            ));
        }
        let tag = tag.or(if digest.is_some() { None } else { Some("latest") });
        Ok(Reference {
            repository: repository(name).map_err(|reason| format!("{text:?} is not an image name: {reason}"))?,
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// `sha256:` and 64 hexadecimal digits in lower case: the one algorithm everybody uses.
pub(super) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit))
    })
}

/// Registry and path, with docker's defaults: no registry is `docker.io`, and there a single
/// component lies in `library/`.
fn repository(name: &str) -> Result<String, String> {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => ("docker.io", name),
    };
    let domain = if domain == "index.docker.io" { "docker.io" } else { domain };
    if !is_domain(domain) {
        return Err(format!("{domain:?} is not a registry"));
    }
    if let Some(part) = path.split('/').find(|part| !is_component(part)) {
        return Err(match part {
            "" => "a part of it is empty".to_owned(),
            part => format!("{part:?} may only have a-z, 0-9 and single separators '.', '_', '-' within"),
        });
    }
    if domain == "docker.io" && !path.contains('/') {
        return Ok(format!("docker.io/library/{path}"));
    }
    Ok(format!("{domain}/{path}"))
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = domain.split_once(':').unwrap_or((domain, "0"));
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    !host.is_empty() && host.bytes().all(inner) && !host.contains("..") && port.parse::<u16>().is_ok()
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_component(part: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut separators = part.split(|letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit());
    part.bytes().next().is_some_and(letter)
        && part.bytes().last().is_some_and(letter)
        && separators.all(|run| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|byte| byte == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("localhost/busybox", "localhost/busybox:latest".to_owned()),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c".to_owned()),
            ("ghcr.io/a/b__c-d.e", "ghcr.io/a/b__c-d.e:latest".to_owned()),
            (&format!("busybox@{digest}"), format!("docker.io/library/busybox@{digest}")),
            (&format!("quay.io/a/b:v1@{digest}"), format!("quay.io/a/b:v1@{digest}")),
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), full, "{text}");
            assert_eq!(Reference::parse(&full).unwrap().to_string(), full, "a full name stays as it is");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "Busybox",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:b:c",
            "a b",
            "../a",
            "a@sha256:12",
            "a:tag/..",
            "-a",
            "a_-b",
            "x.y:z/a",
        ] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }
}
