//! Lists of the API, read page by page.

use serde::de::DeserializeOwned;

use super::api::Api;
use super::call::Call;
use super::error::Error;
use super::limits::Limit;

/// Page size to request.
const PAGE: usize = 100;

/// Maximum number of pages of a list; more count as endless.
const PAGES_MAX: usize = 10_000;

/// Maximum size of all pages of a list, in bytes; more counts as endless.
const LIST_MAX: usize = 128 * 1024 * 1024;

/// Maximum memory for the items of a list, in bytes. Enough for a folder of about 37,000 files.
const KEPT_MAX: usize = 22 * 1024 * 1024;

/// Memory of an item beside itself and the characters of its strings: their allocations, and its digest in a table that
/// may be half empty.
const ITEM_OVERHEAD: usize = 128;

impl Api {
    /// The items of a list, page by page.
    ///
    /// Storage has a `next` link even on the last page, so the list ends with a page without new items. Links in
    /// responses are not followed, so the token cannot be sent elsewhere. Only one page is in memory at a time.
    pub(super) async fn list<T: DeserializeOwned + Item>(
        &self,
        call: Call,
        field: &str,
    ) -> Result<Vec<T>, Error> {
        self.list_until(call, field, |_| false).await
    }

    /// The same, but only until an item is the last one that is needed.
    pub(super) async fn list_until<T: DeserializeOwned + Item>(
        &self,
        call: Call,
        field: &str,
        mut is_last: impl FnMut(&T) -> bool,
    ) -> Result<Vec<T>, Error> {
        let mut call = Call {
            limit: Limit::List,
            ..call
        };
        let base = call.url.clone();
        let mut items: Vec<T> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let (mut skip, mut received, mut kept) = (0, 0, 0);
        for pages in 1..=PAGES_MAX {
            call.url = base.clone();
            call.url
                .query_pairs_mut()
                .append_pair("$top", &PAGE.to_string())
                .append_pair("$skip", &skip.to_string());
            let reply = self.send(&call).await?;
            received += reply.len();
            let page = reply.page::<T>(field)?;
            skip += page.items.len();
            let mut has_new_items = false;
            for item in page.items {
                let weight = item.weight() + size_of::<T>() + ITEM_OVERHEAD;
                if seen.insert(digest(item.id())) {
                    kept += weight;
                    // Doubling would need three times the memory for a moment.
                    if items.len() == items.capacity() {
                        items.reserve_exact(items.len() / 8 + PAGE);
                    }
                    let is_last = is_last(&item);
                    items.push(item);
                    if is_last {
                        return Ok(items);
                    }
                    has_new_items = true;
                }
            }
            if !has_new_items || !page.more {
                return Ok(items);
            }
            if received > LIST_MAX || kept > KEPT_MAX || pages == PAGES_MAX {
                let mib = received / (1024 * 1024);
                return Err(reply.too_large(format!(
                    "endless list: {pages} pages with {} items and {mib} MiB so far",
                    items.len()
                )));
            }
        }
        Ok(items)
    }
}

/// An item of a list.
pub(super) trait Item {
    /// A unique id.
    fn id(&self) -> &str;
    /// Approximate size of its strings, in bytes.
    fn weight(&self) -> usize;
}

/// Identifies an id in a list in 8 bytes.
fn digest(id: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}
