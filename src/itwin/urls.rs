//! Parts of URLs: host and port, path segments, ids in links.

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::untrusted_text::{as_id, sanitize};

/// Host and port; never the user part, which can contain a password.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Whether the host is this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// The API whose iModels the portal shows.
const PLATFORM: &str = "https://api.bentley.com";

/// The portal's list of iTwins. The page of an iModel has the ids of its iTwin and of itself below it.
///
/// Source: the links that the instructions of the iTwin CLI (github.com/iTwin/itwin-cli) give for a created iModel.
const PORTAL: &str = "https://developer.bentley.com/my-itwins/";

/// The portal's page of an iModel; None with another API than that of the platform.
pub(super) fn portal(api: &Url, itwin_id: &str, imodel_id: &str) -> Option<Url> {
    let is_platform = api.origin() == Url::parse(PLATFORM).ok()?.origin();
    let page = below(
        &Url::parse(PORTAL).ok()?,
        &[itwin_id, imodel_id, "home", ""],
    );
    is_platform.then_some(page)
}

pub(super) fn below(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    // The configuration accepts only URLs that can have a path.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

/// A URL for messages: without user, query and fragment.
pub(super) fn without_secrets(location: &str) -> String {
    match Url::parse(location) {
        Ok(mut url) => {
            url.set_query(None);
            url.set_fragment(None);
            // Fails for a URL without a host, which has no user either.
            url.set_username("").ok();
            url.set_password(None).ok();
            sanitize(url.as_str())
        }
        Err(_) => sanitize(location.split(['?', '#']).next().unwrap_or_default()),
    }
}

/// The path segment after `word`, which matches in any case, and the one after that.
pub(super) fn id_after(base: &Url, href: &str, word: &str) -> Option<(String, Option<String>)> {
    let url = base.join(href).ok()?;
    let mut segments = url.path_segments()?;
    segments
        .by_ref()
        .find(|segment| segment.eq_ignore_ascii_case(word))?;
    let mut decoded = segments.map(|segment| {
        percent_decode_str(segment)
            .decode_utf8()
            .map(std::borrow::Cow::into_owned)
    });
    let id = decoded.next()?.ok().filter(|id| !id.is_empty())?;
    let id = as_id(&id)?;
    Some((id, decoded.next().and_then(Result::ok)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn the_portal_shows_imodels_of_the_platform_only() {
        let page = |api: &str| portal(&Url::parse(api).unwrap(), "itwin", "imodel/../x");
        assert_eq!(
            page("https://api.bentley.com/").unwrap().as_str(),
            "https://developer.bentley.com/my-itwins/itwin/imodel%2F..%2Fx/home/"
        );
        for api in [
            "http://127.0.0.1:8291",
            "https://qa-api.bentley.com",
            "https://api.bentley.com.evil.example",
        ] {
            assert_eq!(page(api), None, "{api}");
        }
    }

    #[test]
    fn an_id_stays_one_segment_and_the_base_may_end_with_a_slash() {
        for base in [
            "https://api.example",
            "https://api.example/",
            "https://api.example/base/",
        ] {
            let url = below(&Url::parse(base).unwrap(), &["storage", "files", "-a/b?c"]);
            assert_eq!(
                url.as_str(),
                format!("{}/storage/files/-a%2Fb%3Fc", base.trim_end_matches('/'))
            );
        }
    }

    #[test]
    fn an_id_is_found_in_absolute_and_relative_links_in_any_case() {
        let base = Url::parse("https://api.example/").unwrap();
        for (href, word, expected) in [
            (
                "https://api.example/storage/files/-aB_c/complete",
                "files",
                Some(("-aB_c", Some("complete"))),
            ),
            (
                "/Storage/Files/a%2Fb/Complete?x=1",
                "files",
                Some(("a/b", Some("Complete"))),
            ),
            (
                "https://api.example/storage/folders/root/",
                "folders",
                Some(("root", Some(""))),
            ),
            (
                "https://api.example/storage/folders/root?x",
                "folders",
                Some(("root", None)),
            ),
            ("https://api.example/storage/files", "files", None),
            ("https://api.example/storage/files/", "files", None),
        ] {
            let found = id_after(&base, href, word);
            assert_eq!(
                found
                    .as_ref()
                    .map(|(id, then)| (id.as_str(), then.as_deref())),
                expected,
                "{href}"
            );
        }
    }
}
