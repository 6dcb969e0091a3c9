//! From bytes to plain values: YAML with any number of documents, or JSON (which is YAML too).
//!
//! The reading follows what `kubectl` does with the same bytes, so that a manifest means the same
//! here and there: a key given twice is an error, `0644` is octal, an unquoted `yes` is a boolean
//! (and then refused where a string is wanted, rather than silently turned into one).

use serde_json::Value;

/// The documents of a manifest that hold something.
///
/// # Errors
///
/// What the parser found, with line and column.
pub(super) fn parse(text: &str) -> Result<Vec<Value>, String> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        legacy_octal_numbers: true,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
    };
    let documents: Vec<Value> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| one_line(&error.to_string()))?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// The parser's message without its advice to programmers.
fn one_line(message: &str) -> String {
    let message = message.replace(", set DuplicateKeyPolicy in Options if acceptable", "");
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn several_documents_are_read_and_empty_ones_are_not() {
        let documents = parse("# a comment\n---\na: 1\n---\n---\nb: 2\n").unwrap();
        assert_eq!(documents, [json!({"a": 1}), json!({"b": 2})]);
        assert_eq!(parse("").unwrap(), Vec::<Value>::new());
    }

    #[test]
    fn json_is_read_with_tabs_and_escapes() {
        let documents = parse("{\n\t\"a\": [\"x\\n\\u00e9\", 1.5, true, null]\n}\n").unwrap();
        assert_eq!(documents, [json!({"a": ["x\n\u{e9}", 1.5, true, null]})]);
    }

    #[test]
    fn a_key_given_twice_is_refused_with_its_place() {
        let error = parse("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert!(error.contains("line 3") && error.contains(": a"), "{error}");
        assert!(!error.contains("Policy"), "{error}");
        let error = parse("{\"a\": 1, \"a\": 2}").unwrap_err();
        assert!(error.contains("duplicate"), "{error}");
    }

    #[test]
    fn scalars_are_what_kubectl_takes_them_for() {
        let read = |text: &str| parse(&format!("v: {text}")).unwrap()[0]["v"].clone();
        assert_eq!(read("0644"), json!(420));
        assert_eq!(read("8080"), json!(8080));
        assert_eq!(read("0.5"), json!(0.5));
        assert_eq!(read("yes"), json!(true));
        assert_eq!(read("\"8080\""), json!("8080"));
        assert_eq!(read("500m"), json!("500m"));
        assert_eq!(read("1.2.3"), json!("1.2.3"));
        assert_eq!(read("~"), Value::Null);
        assert_eq!(read("|\n  two\n  lines\n"), json!("two\nlines\n"));
    }

    #[test]
    fn a_syntax_error_names_line_and_column() {
        let error = parse("a:\n  - b\n c: d\n").unwrap_err();
        assert!(error.contains("line 3"), "{error}");
        assert!(!error.contains('\n'));
    }
}
