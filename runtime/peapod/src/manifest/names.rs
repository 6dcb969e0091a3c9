//! The rules for names, each as a function that says what is wrong.

/// Where a name has to be usable as a host name: RFC 1123 label, 63 characters.
pub(super) fn label(name: &str) -> Result<(), String> {
    if name.len() <= 63 && is_label(name) {
        return Ok(());
    }
    Err(format!(
        "{name:?} is not a valid name: at most 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit \
         (RFC 1123)"
    ))
}

/// RFC 1123 subdomain: labels joined by dots, 253 characters.
pub(super) fn subdomain(name: &str) -> Result<(), String> {
    if name.len() <= 253 && name.split('.').all(is_label) {
        return Ok(());
    }
    Err(format!(
        "{name:?} is not a valid name: at most 253 of a-z, 0-9, '-' and '.', each part beginning and ending with a \
         letter or digit (RFC 1123)"
    ))
}

fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// A port's name: an IANA service name (RFC 6335, section 5.1) in lower case.
pub(super) fn port(name: &str) -> Result<(), String> {
    let has_letter = name.bytes().any(|byte| byte.is_ascii_lowercase());
    if name.len() <= 15 && is_label(name) && has_letter && !name.contains("--") {
        return Ok(());
    }
    Err(format!("{name:?} is not a port name: at most 15 of a-z, 0-9 and '-', with a letter among them (RFC 6335)"))
}

/// An environment variable's name: printable ASCII without `=`, as Kubernetes has it since 1.34.
pub(super) fn variable(name: &str) -> Result<(), String> {
    let fits = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'=';
    if !name.is_empty() && name.bytes().all(fits) {
        return Ok(());
    }
    Err(format!("{name:?} is not a name of an environment variable: printable ASCII characters except '='"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_rfc_1123() {
        for name in ["a", "web-1", "0", &"x".repeat(63)] {
            assert_eq!(label(name), Ok(()), "{name}");
            assert_eq!(subdomain(name), Ok(()), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a_b", "a/b", "..", "é", &"x".repeat(64), "a.b"] {
            assert!(label(name).is_err(), "{name}");
        }
        assert_eq!(subdomain("a.b-c.d"), Ok(()));
        for name in ["", ".", "a..b", "a.", "../a", "a_b", &"x".repeat(254)] {
            assert!(subdomain(name).is_err(), "{name}");
        }
    }

    #[test]
    fn port_and_variable_names_have_rules_of_their_own() {
        assert_eq!(port("http-2"), Ok(()));
        for name in ["80", "a--b", "averyveryverylong", "HTTP", ""] {
            assert!(port(name).is_err(), "{name}");
        }
        assert_eq!(variable("my.VAR-1"), Ok(()));
        for name in ["", "A=B", "A\nB", "é"] {
            assert!(variable(name).is_err(), "{name}");
        }
    }
}
