//! `resolv.conf(5)`, as far as a result's `dns` holds it.

use std::path::Path;

use crate::spec::{Dns, Error, code};

/// Reads the file `ipam.resolvConf` names.
///
/// # Errors
/// [`code::IO`] when it cannot be read.
pub fn read(path: &Path) -> Result<Dns, Error> {
    let text = crate::small_file::read(path)
        .map_err(|error| Error::new(code::IO, format!("cannot read resolvConf {}: {error}", path.display())))?;
    Ok(parse(&text))
}

/// Reads the text of the file.
pub fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace();
        let Some(key) = words.next() else { continue };
        let mut values = words.map(str::to_owned);
        match key {
            "nameserver" => dns.nameservers.extend(values.next()),
            "domain" => dns.domain = values.next().unwrap_or(dns.domain),
            "search" => dns.search.extend(values),
            "options" => dns.options.extend(values),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    // Behaviour 91.
    #[test]
    fn comments_are_left_out_and_lists_add_up() {
        let dns = super::parse(
            "# a\n; b\nnameserver 192.0.2.1\n nameserver 192.0.2.2\ndomain example.net\nsearch a b\noptions ndots:5 debug\nsortlist x\n",
        );
        assert_eq!(dns.nameservers, ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(
            (dns.domain.as_str(), dns.search, dns.options),
            ("example.net", vec!["a".into(), "b".into()], vec!["ndots:5".into(), "debug".into()])
        );
    }
}
