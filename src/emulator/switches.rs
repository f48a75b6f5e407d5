//! What the platform's documentation leaves open, as switches: the first word of each is what the emulator does unless
//! told otherwise, the others are what the platform may do just as well. A client has to live with all of them.

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

/// Defines all switches, each once: its type, its words, and how it is set by name.
macro_rules! switches {
    ($( $(#[doc = $doc:literal])+ $field:ident: $name:literal, $kind:ident {
        $(#[doc = $first_doc:literal])+ $first:ident = $first_word:literal,
        $( $(#[doc = $variant_doc:literal])+ $variant:ident = $word:literal, )+
    } )+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
            pub enum $kind {
                $(#[doc = $first_doc])+
                #[default]
                $first,
                $( $(#[doc = $variant_doc])+ $variant, )+
            }
        )+

        /// How each switch is set.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Switches {
            $( $(#[doc = $doc])+ pub $field: $kind, )+
        }

        impl Switches {
            /// Every switch by name, with its words; the first one is the default.
            pub const ALL: &'static [(&'static str, &'static [&'static str])] =
                &[ $( ($name, &[$first_word, $($word),+]) ),+ ];

            /// Sets a switch by its name and a word.
            ///
            /// # Errors
            /// When the name or the word is unknown, with those that are known.
            pub fn set(&mut self, name: &str, word: &str) -> Result<(), UnknownSwitch> {
                match name {
                    $( $name => self.$field = match word {
                        $first_word => $kind::$first,
                        $( $word => $kind::$variant, )+
                        _ => return Err(UnknownSwitch::word(name, word)),
                    }, )+
                    _ => return Err(UnknownSwitch::name(name)),
                }
                Ok(())
            }

            fn words(&self) -> Vec<(&'static str, &'static str)> {
                vec![ $( ($name, match self.$field {
                    $kind::$first => $first_word,
                    $( $kind::$variant => $word, )+
                }) ),+ ]
            }
        }
    };
}

switches! {
    /// An `Accept` header that is missing, or takes anything.
    accept_missing: "accept-missing", AcceptMissing {
        /// The newest version is served.
        Served = "served",
        /// 404.
        NotFound = "not-found",
    }
    /// The media type of answers.
    media_type: "media-type", MediaType {
        /// `application/json`.
        Plain = "plain",
        /// The vendor type with the version.
        Vendor = "vendor",
    }
    /// A page size above 1000.
    oversized_page: "oversized-page", OversizedPage {
        /// 422.
        Refused = "refused",
        /// A page of 1000 is served.
        Clamped = "clamped",
    }
    /// A file is created with the name of another one in its folder.
    duplicate_file: "duplicate-file", DuplicateFile {
        /// Two files of one name.
        Twin = "twin",
        /// The second gets a name of its own.
        Renamed = "renamed",
        /// 409.
        Conflict = "conflict",
        /// 422.
        Refused = "refused",
    }
    /// A folder is created with the name of another one in its folder.
    duplicate_folder: "duplicate-folder", DuplicateFolder {
        /// Two folders of one name.
        Twin = "twin",
        /// 409.
        Conflict = "conflict",
        /// 422.
        Refused = "refused",
    }
    /// Whether names that differ by case only count as one, where names may not repeat.
    name_case: "name-case", NameCase {
        /// They differ.
        Sensitive = "sensitive",
        /// They are one.
        Insensitive = "insensitive",
    }
    /// A file or folder is moved to where another one has its name.
    move_name_taken: "move-name-taken", MoveNameTaken {
        /// Two of one name.
        Twin = "twin",
        /// 409.
        Conflict = "409",
        /// 422.
        Refused = "422",
    }
    /// A new file gets the name of one in the recycle bin.
    recycled_name: "recycled-name", RecycledName {
        /// The name is free.
        Free = "free",
        /// 409.
        Conflict = "conflict",
    }
    /// How a name that is not taken is refused.
    name_error: "name-error", NameError {
        /// `InvalidCreateFileRequest`, with the property in the details.
        Documented = "documented",
        /// `InvalidStorageRequest`, without a target, as it was seen once.
        Observed = "observed",
    }
    /// Files that were created and never completed.
    incomplete_files: "incomplete-files", IncompleteFiles {
        /// They are listed.
        Listed = "listed",
        /// They can be asked for by id only.
        Unlisted = "unlisted",
        /// They are not there.
        Hidden = "hidden",
    }
    /// Whether items of lists carry the description.
    listed_description: "listed-description", ListedDescription {
        /// They do.
        Shown = "shown",
        /// They do not.
        Absent = "absent",
    }
    /// New content for a file that was never completed.
    update_incomplete: "update-incomplete", UpdateIncomplete {
        /// Addresses are given.
        Taken = "taken",
        /// 409.
        Conflict = "conflict",
        /// 404.
        NotFound = "not-found",
    }
    /// The blob that new content goes to.
    update_blob: "update-blob", UpdateBlob {
        /// A new one each time.
        Fresh = "fresh",
        /// The one before: what is written there counts at once, before it is completed.
        Same = "same",
    }
    /// An upload is completed before content has arrived.
    complete_without_content: "complete-without-content", CompleteWithoutContent {
        /// 422.
        Refused = "refused",
        /// 200, and the file is empty.
        Taken = "taken",
    }
    /// An upload is completed once more.
    complete_again: "complete-again", CompleteAgain {
        /// 200.
        Taken = "taken",
        /// 409.
        Conflict = "conflict",
        /// 422.
        Refused = "refused",
    }
    /// An upload of no bytes is completed.
    complete_empty: "complete-empty", CompleteEmpty {
        /// 200.
        Taken = "taken",
        /// 422.
        Refused = "refused",
    }
    /// An upload is completed after its address has expired.
    complete_expired: "complete-expired", CompleteExpired {
        /// 200.
        Taken = "taken",
        /// 422.
        Refused = "refused",
    }
    /// New content for a locked file.
    locked_file: "locked-file", LockedFile {
        /// 409.
        Conflict = "conflict",
        /// 403.
        Forbidden = "forbidden",
        /// As if it were not locked.
        Taken = "taken",
    }
    /// What upload addresses permit.
    sas_permissions: "sas-permissions", SasPermissions {
        /// Reading and writing.
        ReadWrite = "rw",
        /// Writing: blocks that have arrived cannot be asked for.
        Write = "w",
    }
    /// The storage of an iTwin without permission.
    storage_forbidden: "storage-forbidden", StorageForbidden {
        /// 403.
        Forbidden = "403",
        /// 404.
        NotFound = "404",
        /// 401.
        Unauthorized = "401",
    }
    /// The storage of an iTwin that is not there.
    itwin_unknown: "itwin-unknown", ItwinUnknown {
        /// 404.
        NotFound = "404",
        /// 422.
        Invalid = "422",
        /// 403.
        Forbidden = "403",
    }
    /// A connection is created without source files.
    empty_connection: "empty-connection", EmptyConnection {
        /// 422.
        Refused = "refused",
        /// 201.
        Taken = "taken",
    }
    /// A connector type that the platform once had.
    retired_connector: "retired-connector", RetiredConnector {
        /// Taken like any other.
        Taken = "taken",
        /// 422.
        Refused = "refused",
    }
    /// A connector type that the platform never had.
    unknown_connector: "unknown-connector", UnknownConnector {
        /// Taken like any other; its tasks fail.
        Taken = "taken",
        /// 422.
        Refused = "refused",
    }
    /// Too many connections or source files.
    limit: "limit", Limit {
        /// 422.
        Unprocessable = "422",
        /// 409.
        Conflict = "409",
        /// 403.
        Forbidden = "403",
    }
    /// A connection is updated without its authentication type.
    omitted_authentication: "omitted-authentication", OmittedAuthentication {
        /// It stays.
        Kept = "kept",
        /// It becomes the default, `User`.
        Reset = "reset",
    }
    /// What an iModel holds of a storage file whose source file or connection was deleted.
    removed_source_file: "removed-source-file", RemovedSourceFile {
        /// It stays.
        Kept = "kept",
        /// It is gone with the next run of the iModel, or with the connection.
        ElementsDeleted = "elements-deleted",
    }
    /// A connection is deleted while it runs.
    delete_in_run: "delete-in-run", DeleteInRun {
        /// 204.
        Taken = "taken",
        /// 409.
        Conflict = "conflict",
    }
    /// What may have one active run at a time.
    run_scope: "run-scope", RunScope {
        /// An iModel.
        Imodel = "imodel",
        /// A connection.
        Connection = "connection",
    }
    /// *Run* is requested while another request for the same iModel is being processed, within a second of it.
    simultaneous_run: "simultaneous-run", SimultaneousRun {
        /// 303, like later ones.
        SeeOther = "see-other",
        /// 409.
        Conflict = "conflict",
    }
    /// A connection without source files is run.
    empty_run: "empty-run", EmptyRun {
        /// 202, and the run has no task.
        Taken = "taken",
        /// 422.
        Refused = "refused",
    }
    /// The address of a run in answers to *run*.
    location: "location", Location {
        /// With scheme and host.
        Absolute = "absolute",
        /// From the host's root.
        Relative = "relative",
        /// Left out where a run is active already.
        Absent = "absent",
    }
    /// The body of answers to *run*.
    run_body: "run-body", RunBody {
        /// None.
        Empty = "empty",
        /// JSON.
        Json = "json",
    }
    /// Whether a run has a task for a file that has no new content since a run that processed it.
    unchanged_task: "unchanged-task", UnchangedTask {
        /// It has one, with the result *Success*.
        Listed = "listed",
        /// It has none: the run says nothing about that file.
        Absent = "absent",
    }
    /// A connection's link to its last run.
    last_run: "last-run", LastRun {
        /// Names the newest run.
        Current = "current",
        /// Names the one before the newest.
        Lagging = "lagging",
    }
    /// Refresh tokens.
    refresh_token: "refresh-token", RefreshToken {
        /// Each is good once and answered with the next.
        Rotated = "rotated",
        /// One stays good.
        Kept = "kept",
    }
}

/// A switch or a word that there is not.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UnknownSwitch(String);

impl UnknownSwitch {
    fn name(name: &str) -> Self {
        let known: Vec<&str> = Switches::ALL.iter().map(|(name, _)| *name).collect();
        Self(format!(
            "there is no switch {name:?}; there are {}",
            known.join(", ")
        ))
    }

    fn word(name: &str, word: &str) -> Self {
        let known = Switches::ALL.iter().find(|(known, _)| *known == name);
        let words = known.map(|(_, words)| words.join(", ")).unwrap_or_default();
        Self(format!(
            "the switch {name} has no setting {word:?}; it has {words}"
        ))
    }
}

impl Serialize for Switches {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let words = self.words();
        let mut map = serializer.serialize_map(Some(words.len()))?;
        for (name, word) in words {
            map.serialize_entry(name, word)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_every_switch_can_be_set_and_is_told() {
        for (name, words) in Switches::ALL {
            for word in *words {
                let mut switches = Switches::default();
                switches.set(name, word).unwrap();
                let told = serde_json::to_value(switches).unwrap();
                assert_eq!(told[name], **word);
                assert_eq!(
                    switches == Switches::default(),
                    *word == words[0],
                    "{name}={word}"
                );
            }
        }
    }

    #[test]
    fn an_unknown_switch_is_answered_with_those_there_are() {
        let mut switches = Switches::default();
        let error = switches.set("locaton", "relative").unwrap_err().to_string();
        assert!(
            error.contains("locaton") && error.contains("location"),
            "{error}"
        );
        let error = switches.set("location", "far").unwrap_err().to_string();
        assert!(
            error.contains("far") && error.contains("relative"),
            "{error}"
        );
    }
}
