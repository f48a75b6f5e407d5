//! Pages of lists: `$top`, `$skip`, `$continuationToken`, and the links between them.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::encoding::percent;
use super::reply::{Refusal, invalid};
use super::request::ApiRequest;
use super::switches::OversizedPage;

/// Maximum page size that can be requested.
///
/// Source: the published definitions of Storage and iModels.
const PAGE_MAX: usize = 1000;

/// Query parameters in the documented case; requests can have any case.
const PARAMETERS: [&str; 25] = [
    "$filter",
    "$orderBy",
    "$search",
    "$select",
    "afterIndex",
    "changesetId",
    "displayName",
    "iTwinAccountId",
    "iTwinId",
    "imodelId",
    "includeInactive",
    "lastIndex",
    "name",
    "number",
    "parentId",
    "projectId",
    "redirectUrl",
    "runId",
    "state",
    "status",
    "subClass",
    "taskId",
    "type",
    "versionId",
    "x-correlation-id",
];

/// How a list is paged.
#[derive(Debug)]
pub(super) struct Pages {
    /// Default page size.
    pub(super) default: usize,
    /// Upper bound, whatever is requested.
    pub(super) cap: Option<usize>,
    /// Which pages have a `next` link.
    pub(super) next: Next,
    /// Whether `$continuationToken` is supported.
    pub(super) has_tokens: bool,
    /// Error code of an invalid request.
    pub(super) code: &'static str,
}

/// Which pages of a list have a `next` link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// All, even the last one.
    Always,
    /// All but the last one.
    WhileMore,
}

impl Pages {
    /// Pages with a `next` link even on the last one.
    pub(super) fn always(default: usize, code: &'static str) -> Self {
        Self {
            default,
            cap: None,
            next: Next::Always,
            has_tokens: false,
            code,
        }
    }

    /// Pages with a `next` link except on the last one.
    pub(super) fn while_more(default: usize, code: &'static str) -> Self {
        Self {
            next: Next::WhileMore,
            ..Self::always(default, code)
        }
    }
}

impl ApiRequest<'_> {
    /// A page of a list, with links that keep all parameters of the request.
    pub(super) fn page<T>(&self, items: Vec<T>, pages: &Pages) -> Result<(Vec<T>, Value), Refusal> {
        let code = pages.code;
        let number = |name: &'static str, default: usize| match self.query(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| invalid(code, name, "The value must be a number.")),
        };
        let continued = match self.query("$continuationToken") {
            Some(token) if pages.has_tokens => Some(continuation(token, code)?),
            _ => None,
        };
        let (top, skip) = (number("$top", pages.default)?, number("$skip", 0)?);
        let is_oversized = top > PAGE_MAX;
        if top == 0 || is_oversized && self.switches.oversized_page == OversizedPage::Refused {
            let what = "The page size must be between 1 and 1000.";
            return Err(invalid(code, "$top", what));
        }
        let skip = continued.unwrap_or(skip);
        let top = top.min(PAGE_MAX).min(pages.cap.unwrap_or(PAGE_MAX));
        let more = items.len() > skip.saturating_add(top);
        let page = items.into_iter().skip(skip).take(top).collect();
        let link = |skip: usize| {
            let mut pairs: Vec<String> = Vec::new();
            for (name, value) in &self.query {
                if !["$skip", "$top", "$continuationtoken"].contains(&name.as_str()) {
                    pairs.push(format!("{}={}", documented(name), percent(value)));
                }
            }
            pairs.push(match continued {
                Some(_) => format!("$continuationToken={}", token(skip)),
                None => format!("$skip={skip}"),
            });
            pairs.push(format!("$top={top}"));
            let path = self.segments.iter().map(|segment| percent(segment));
            let path = path.collect::<Vec<_>>().join("/");
            json!({ "href": format!("{}/{path}?{}", self.shared.api_url, pairs.join("&")) })
        };
        let mut links = json!({ "self": link(skip), "prev": link(skip.saturating_sub(top)) });
        if more || pages.next == Next::Always {
            links["next"] = link(skip.saturating_add(top));
        }
        Ok((page, links))
    }
}

/// A parameter's name in the documented case.
fn documented(name: &str) -> &str {
    let mut known = PARAMETERS.iter();
    known
        .find(|known| known.eq_ignore_ascii_case(name))
        .unwrap_or(&name)
}

/// An opaque token for a position in a list.
fn token(skip: usize) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("skip {skip}"))
}

/// The position of a token; the empty token is the start of the list.
fn continuation(token: &str, code: &'static str) -> Result<usize, Refusal> {
    if token.is_empty() {
        return Ok(0);
    }
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let skip = text.and_then(|text| text.strip_prefix("skip ")?.parse().ok());
    skip.ok_or_else(|| invalid(code, "$continuationToken", "The token is unknown."))
}
