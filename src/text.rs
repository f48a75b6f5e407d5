//! Text that several interfaces share.

/// A count with its noun: "1 file", "3 files".
pub(crate) fn plural(count: u64, one: &str, many: &str) -> String {
    if count == 1 {
        format!("1 {one}")
    } else {
        format!("{count} {many}")
    }
}

/// A span in its largest sensible unit: "90 s", "5 min".
pub(crate) fn span_of(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

/// Every variant of an error as it is printed, with its causes and its hint. A variant without a line does not compile.
///
/// `render_variants!(Type, |error| error.hint(), { Type::One => Type::One, Type::Two(_) => Type::Two(7) })`
#[cfg(test)]
macro_rules! render_variants {
    ($type:ty, $hint:expr, { $($pattern:pat => $value:expr),+ $(,)? }) => {{
        #[allow(unreachable_patterns, reason = "a variant may have several lines")]
        let _exhaustive = |error: &$type| match error { $($pattern => (),)+ };
        let hint: fn(&$type) -> Option<String> = $hint;
        let mut text = String::new();
        $(
            let error: $type = $value;
            text += &crate::text::rendered(&error, hint(&error));
        )+
        text
    }};
}
#[cfg(test)]
pub(crate) use render_variants;

/// An error as it is printed, with its causes and its hint.
#[cfg(test)]
pub(crate) fn rendered(error: &dyn std::error::Error, hint: Option<String>) -> String {
    let hint = hint.map(|hint| format!("  hint: {hint}\n"));
    let text = crate::error_chain::chain(error);
    format!("{text}\n{}", hint.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_is_singular() {
        assert_eq!(plural(0, "file", "files"), "0 files");
        assert_eq!(plural(1, "file", "files"), "1 file");
        assert_eq!(plural(2, "file", "files"), "2 files");
    }
}
