//! One ledger for each storage folder: two daemons with two ledgers would create each file twice, because storage
//! accepts several files of one name and lists a new one only after a while.
//!
//! In: a watch that wants to upload. Out: whether its storage folder belongs to this ledger. A folder named after the
//! iModel, in the storage folder, is the *claim*: its description names the ledger and its host. Who comes first
//! creates it. If two come at the same time, the older claim counts, for both. What was read counts for a while
//! ([`HOLDS`]); uploads of other ledgers wait until `resume` takes the folder over, and then until the other daemon
//! must have noticed ([`GRACE`]).
//!
//! A daemon that does not get the folder writes that into the claim, so that the one that has it can say so as well.

mod claim;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Mutex as AsyncMutex, OnceCell};
use tracing::{debug, error, info, warn};

use super::Shared;
use super::destination::DESCRIPTION;
use super::error::UploadError;
use super::folders::Place;
use crate::config::Watch;
use crate::failpoint::{failpoint, lease_time};
use crate::itwin::Folder;
use crate::lease::boot_time;
use crate::ledger::{self, Contest, Ledger, WatchId};
use crate::next_attempt;
use claim::{Claim, Refused, claim_name, word};
pub(crate) use claim::{creator, read_claim};

/// How long a claim counts after it was read.
const HOLDS: Duration = Duration::from_secs(30);

/// After a claim was taken over, the other daemon may continue for [`HOLDS`], its last request takes up to a minute,
/// and storage lists what that created 10 s later.
const GRACE: Duration = Duration::from_secs(100);

/// How often a daemon reads a claim that another one has or wants, and writes that it does not get it.
const RECHECK: Duration = Duration::from_secs(300);

/// For how long another daemon is reported after it was seen last.
const RIVAL: Duration = Duration::from_secs(900);

/// What is known of the claims on the storage folders of watches.
#[derive(Debug, Default)]
pub(super) struct Claims {
    own: OnceCell<String>,
    held: Mutex<HashMap<WatchId, Arc<AsyncMutex<Held>>>>,
    /// When to look again, by [`boot_time`].
    contested: Mutex<HashMap<WatchId, i64>>,
}

/// What is known of one claim. Times are those of [`boot_time`].
#[derive(Debug, Default)]
struct Held {
    /// Ours until then.
    until: i64,
    /// It was created a moment ago, so an older one may not have been listed.
    is_new: bool,
    /// It was read before.
    seen: bool,
    refused: Option<Refused>,
    /// Until when the other daemon is reported.
    rival_until: Option<i64>,
    /// When it was written that this daemon does not get it.
    told: Option<i64>,
}

/// Whether this ledger takes a storage folder that is claimed for another ledger or host. Pure.
///
/// A claim of its own for another host is one that it moved from; but if it `had_it` on this host before, or waits for
/// that claim, it was copied.
fn may_take(claim: &Claim, own: &str, contest: &Contest, had_it: bool) -> bool {
    let is_moved = claim.ledger == own && !had_it && contest.other_ledger.is_none();
    is_moved || contest.takes_over.as_ref() == Some(&claim.ledger)
}

/// Where the claim of a watch is, below the root folder.
fn claim_path(watch: &Watch) -> String {
    let name = claim_name(watch);
    let path = watch.storage_folder.iter().map(String::as_str);
    let path: Vec<&str> = path.chain([name.as_str()]).collect();
    path.join("/")
}

/// A time of [`boot_time`], so much later.
fn later(time: i64, by: Duration) -> i64 {
    time.saturating_add(i64::try_from(lease_time(by).as_millis()).unwrap_or(i64::MAX))
}

impl Claims {
    /// The id of the ledger of this daemon.
    async fn own(&self, ledger: &Ledger) -> Result<&str, ledger::Error> {
        let read = async || Ok::<_, ledger::Error>(ledger.id().await?.unwrap_or_default());
        Ok(self.own.get_or_try_init(read).await?)
    }

    /// The description of a new storage file of a watch.
    pub(super) async fn description(
        &self,
        ledger: &Ledger,
        watch: &Watch,
        marker: &str,
    ) -> Result<String, ledger::Error> {
        if !watch.is_exclusive {
            return Ok(format!("{DESCRIPTION} {marker}"));
        }
        let own = self.own(ledger).await?;
        Ok(format!("{DESCRIPTION} {own} {marker}"))
    }

    fn of(&self, watch: WatchId) -> Arc<AsyncMutex<Held>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(held.entry(watch).or_default())
    }

    /// These claims are read at once, and then at times.
    pub(super) fn contest(&self, watches: Vec<WatchId>) {
        let mut contested = self.contested();
        contested.extend(watches.into_iter().map(|watch| (watch, 0)));
    }

    fn contested(&self) -> std::sync::MutexGuard<'_, HashMap<WatchId, i64>> {
        self.contested
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The watches whose claim must be read again now.
    pub(super) fn due(&self) -> Vec<WatchId> {
        let now = boot_time();
        let mut due = Vec::new();
        for (watch, at) in self.contested().iter_mut().filter(|(_, at)| **at <= now) {
            *at = later(now, RECHECK);
            due.push(*watch);
        }
        due
    }
}

impl Shared {
    /// Makes sure that the storage folder of a watch belongs to this ledger.
    pub(super) async fn hold_place(&self, id: WatchId, watch: &Watch) -> Result<(), UploadError> {
        if self.standby.is_some() {
            return self.check_place(id, watch).await;
        }
        if !watch.is_exclusive {
            return Ok(());
        }
        let held = self.claims.of(id);
        let mut held = held.lock().await;
        let asked = boot_time();
        if asked < held.until {
            return Ok(());
        }
        let own = self.claims.own(&self.ledger).await?;
        let place = self.folders.place(watch, &[]).await?;
        let folder = self
            .claim_folder((id, watch), &place, own, &mut held)
            .await?;
        let claim = folder.description.as_deref().and_then(Claim::parse);
        let host = Claim::own(own).host;
        let is_shared = self.ledger.lease().is_some();
        let is_own = |claim: &Claim| claim.ledger == own && (is_shared || claim.host == host);
        let claim = match claim {
            Some(claim) if is_own(&claim) => {
                self.await_grace(id).await?;
                self.note_rival(id, watch, claim.refused, &mut held).await?;
                if self.ledger.end_yield(id).await? {
                    self.folders.forget_files().await;
                    info!(watch = %watch.name, "its storage folder belongs to this ledger; uploads continue");
                    self.wake.notify_one();
                }
                held.until = later(asked, HOLDS);
                return Ok(());
            }
            claim => claim,
        };
        let contest = self.ledger.contest(id).await?;
        // Of a process that had the folder before, a copy of the ledger has it now.
        let had_it = std::mem::take(&mut held.seen);
        match claim {
            Some(claim) if !may_take(&claim, own, &contest, had_it) => {
                let folder_id = &folder.id;
                self.yield_place((id, watch), folder_id, claim, own, &mut held)
                    .await
            }
            claim => {
                let from = claim.map(|claim| claim.ledger).unwrap_or_default();
                self.take_over(id, watch, &folder.id, &from, own).await
            }
        }
    }

    /// Whether the storage folder of a watch belongs to this ledger. Changes nothing: of several processes, only the
    /// active one does.
    pub(super) async fn is_claimed(&self, id: WatchId, watch: &Watch) -> Result<bool, UploadError> {
        let held = self.claims.of(id);
        let mut held = held.lock().await;
        let asked = boot_time();
        if asked < held.until {
            return Ok(true);
        }
        let own = self.claims.own(&self.ledger).await?;
        let place = self.folders.place(watch, &[]).await?;
        let (root, path) = (&place.root_folder_id, claim_path(watch));
        let Some(known) = self.ledger.folder(root, &path).await? else {
            return Ok(false);
        };
        let folder = match self.client.folder(&known).await {
            Err(error) if error.is_not_found() => return Ok(false),
            folder => folder?,
        };
        let claim = folder.description.as_deref().and_then(Claim::parse);
        let now = crate::clock::now();
        let is_own = claim.is_some_and(|claim| claim.ledger == own)
            && self.ledger.taking_over_since(id, now).await?.is_none();
        if is_own {
            held.until = later(asked, HOLDS);
        }
        Ok(is_own)
    }

    /// The claim on a storage folder, created if there is none.
    async fn claim_folder(
        &self,
        (id, watch): (WatchId, &Watch),
        place: &Place,
        own: &str,
        held: &mut Held,
    ) -> Result<Folder, UploadError> {
        let name = claim_name(watch);
        let root = &place.root_folder_id;
        let path = claim_path(watch);
        let known = self.ledger.folder(root, &path).await?;
        if let Some(known) = known.filter(|_| !std::mem::take(&mut held.is_new)) {
            match self.client.folder(&known).await {
                Err(error) if error.is_not_found() => {
                    debug!(watch = %watch.name, "the claim on the storage folder was deleted");
                    // A daemon that has read it may still use it.
                    let now = crate::clock::now();
                    self.ledger.begin_take_over(id, "", now).await?;
                }
                folder => return Ok(folder?),
            }
        }
        let listed = self.folders.named(place, &name).await?.into_iter().next();
        let folder = match listed {
            Some(folder) => folder,
            None => {
                let text = Claim::own(own).text();
                let created = self
                    .client
                    .create_folder(&place.folder_id, &name, Some(&text))
                    .await;
                failpoint("claim created");
                // Another daemon may have been faster by a moment.
                let listed = self.folders.named(place, &name).await?.into_iter().next();
                held.is_new = true;
                match (listed, created) {
                    (Some(folder), _) | (None, Ok(folder)) => folder,
                    (None, Err(error)) => return Err(error.into()),
                }
            }
        };
        self.ledger.remember_folder(root, &path, &folder.id).await?;
        if folder.description.is_some() {
            return Ok(folder);
        }
        Ok(self.client.folder(&folder.id).await?)
    }

    /// An error as long as the daemon from which a claim was taken over may not have noticed.
    async fn await_grace(&self, id: WatchId) -> Result<(), UploadError> {
        let Some(since) = self
            .ledger
            .taking_over_since(id, crate::clock::now())
            .await?
        else {
            return Ok(());
        };
        let until = next_attempt::after(since, lease_time(GRACE));
        if crate::clock::now() < until {
            return Err(UploadError::TakingOver { until });
        }
        Ok(())
    }

    async fn take_over(
        &self,
        id: WatchId,
        watch: &Watch,
        folder_id: &str,
        from: &str,
        own: &str,
    ) -> Result<(), UploadError> {
        let begin = async || {
            let now = crate::clock::now();
            self.ledger.begin_take_over(id, from, now).await?;
            Ok::<Timestamp, UploadError>(next_attempt::after(now, lease_time(GRACE)))
        };
        begin().await?;
        failpoint("take-over recorded");
        let text = Claim::own(own).text();
        self.client.describe_folder(folder_id, &text).await?;
        failpoint("claim taken over");
        let until = begin().await?;
        info!(
            watch = %watch.name, ledger = from,
            "storage folder taken over; uploads begin when the other itwin-syncd must have noticed"
        );
        Err(UploadError::TakingOver { until })
    }

    /// Another ledger has the storage folder: records that here and in its claim.
    async fn yield_place(
        &self,
        (id, watch): (WatchId, &Watch),
        folder_id: &str,
        claim: Claim,
        own: &str,
        held: &mut Held,
    ) -> Result<(), UploadError> {
        let other = claim.owner();
        if self.ledger.yield_to(id, &other).await? {
            error!(
                watch = %watch.name, host = other.host, ledger = other.id, hint = other.hint(&watch.name),
                "uploads of this watch wait: {}", other.reason()
            );
        }
        let now = boot_time();
        self.claims.contested().insert(id, later(now, RECHECK));
        if held.told.is_none_or(|told| now >= later(told, RECHECK / 2)) {
            let text = Claim {
                refused: Some(Refused {
                    ledger: own.to_owned(),
                    host: word(&ledger::host_name()),
                    at: crate::clock::now().as_second(),
                }),
                ..claim
            }
            .text();
            match self.client.describe_folder(folder_id, &text).await {
                Ok(_) => held.told = Some(now),
                Err(error) => {
                    debug!(watch = %watch.name, %error, "cannot tell the daemon of the other ledger");
                }
            }
        }
        Err(UploadError::OtherLedger(other))
    }

    /// Reports a daemon that wants the storage folder of this ledger, as long as it does.
    async fn note_rival(
        &self,
        id: WatchId,
        watch: &Watch,
        refused: Option<Refused>,
        held: &mut Held,
    ) -> Result<(), UploadError> {
        let now = boot_time();
        // The first one that is read may be old.
        let is_new = held.seen && refused.is_some() && held.refused != refused;
        if !held.seen || is_new {
            held.rival_until = Some(later(now, RIVAL));
        }
        held.seen = true;
        held.refused = refused;
        if let Some(refused) = held.refused.as_ref().filter(|_| is_new) {
            if self.ledger.record_rival(id, Some(&refused.host)).await? {
                let rival = ledger::Rival {
                    host: refused.host.clone(),
                };
                warn!(
                    watch = %watch.name, host = rival.host, ledger = refused.ledger,
                    hint = rival.hint(), "{}", rival.reason()
                );
            }
        } else if held.rival_until.is_some_and(|until| until <= now) {
            held.rival_until = None;
            if self.ledger.record_rival(id, None).await? {
                info!(watch = %watch.name, "no other itwin-syncd wants its storage folder any more");
            }
        }
        if held.refused.is_some() && held.rival_until.is_some() {
            self.claims.contested().insert(id, later(now, RECHECK));
        } else {
            self.claims.contested().remove(&id);
        }
        Ok(())
    }

    /// Reads the claim on the storage folder of a watch again, whether it has something to upload or not.
    pub(super) async fn recheck_claim(&self, id: WatchId) -> Result<(), ledger::Error> {
        let Some(watch) = self.watches.get(&id) else {
            return Ok(());
        };
        self.claims.of(id).lock().await.until = 0;
        match self.hold_place(id, watch).await {
            Ok(()) | Err(UploadError::OtherLedger(_)) => Ok(()),
            Err(UploadError::Ledger(error)) => Err(error),
            Err(error) => {
                debug!(watch = %watch.name, %error, "cannot read the claim on its storage folder");
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_after_a_move_or_if_the_operator_says_so_and_never_from_a_copy() {
        let (own, other) = ("0a".repeat(16), "0b".repeat(16));
        let claim = |ledger: &str| Claim {
            ledger: ledger.to_owned(),
            host: "cad2".to_owned(),
            refused: None,
        };
        let waits = |other: &str| Contest {
            other_ledger: Some(other.to_owned()),
            takes_over: None,
        };
        let approved = |other: &str| Contest {
            other_ledger: None,
            takes_over: Some(other.to_owned()),
        };
        for (ledger, contest, had_it, expected) in [
            (&own, Contest::default(), false, true),
            (&own, Contest::default(), true, false),
            (&own, waits(&own), false, false),
            (&own, approved(&own), true, true),
            (&other, Contest::default(), false, false),
            (&other, waits(&other), false, false),
            (&other, approved(&other), true, true),
            (&other, approved(&own), false, false),
        ] {
            let taken = may_take(&claim(ledger), &own, &contest, had_it);
            assert_eq!(taken, expected, "{ledger} {contest:?} {had_it}");
        }
    }
}
