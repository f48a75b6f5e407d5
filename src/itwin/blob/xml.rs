//! Elements of Azure's small XML documents.

/// The text of the first element of this name. The document can be anything: a proxy can have replaced it.
pub(super) fn element(xml: &str, name: &str) -> Option<String> {
    elements(xml, name).next().map(str::to_owned)
}

/// The texts of all elements of this name without child elements.
pub(super) fn elements<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (begin, end) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&begin)?;
        let (text, after) = after.split_once(&end)?;
        rest = after;
        Some(text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_an_error_document_is_found_after_a_byte_order_mark() {
        let xml = "\u{feff}<?xml version=\"1.0\"?><Error><Code>ServerBusy</Code><Message>x</Message></Error>";
        assert_eq!(element(xml, "Code").as_deref(), Some("ServerBusy"));
        assert_eq!(element("<html>", "Code"), None);
    }
}
