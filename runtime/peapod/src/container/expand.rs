//! `$(NAME)` in commands, arguments and values of the environment, as Kubernetes expands it.

/// Replaces each `$(NAME)` that `find` knows. `$$` is a `$` that begins nothing; a name that is not
/// known, and anything else, stays as it was written.
pub(super) fn expand(text: &str, find: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        expanded.push_str(before);
        if let Some(after) = from.strip_prefix("$$") {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = from.strip_prefix("$(").and_then(|inside| inside.split_once(')')) {
            match find(name) {
                Some(value) => expanded.push_str(&value),
                None => expanded.push_str(&from[..from.len() - after.len()]),
            }
            rest = after;
        } else {
            expanded.push('$');
            rest = &from[1..];
        }
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_expanded_as_kubernetes_does() {
        let find = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "B" => Some("$(A)".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("[$(EMPTY)]", "[]"),
            ("$(NONE)", "$(NONE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$(A)", "$$(A)"),
            ("$A", "$A"),
            ("$", "$"),
            ("$(A", "$(A"),
            ("cost: $5", "cost: $5"),
            ("$(B)", "$(A)"),
            ("$()", "$()"),
            ("é$(A)é", "é1é"),
        ] {
            assert_eq!(expand(text, find), expected, "{text}");
        }
    }
}
