//! Behaviors that the platform's documentation leaves open, as switches. The first value of each is the default,
//! the others are equally possible on the platform: a client has to work with all of them.

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

/// Defines each switch once: its type, its values, and how it is set by name.
macro_rules! switches {
    ($( $(#[doc = $doc:literal])+ $field:ident: $name:literal, $kind:ident {
        $(#[doc = $first_doc:literal])+ $first:ident = $first_value:literal,
        $( $(#[doc = $variant_doc:literal])+ $variant:ident = $value:literal, )+
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

        /// The value of each switch.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Switches {
            $( $(#[doc = $doc])+ pub $field: $kind, )+
        }

        impl Switches {
            /// Every switch by name, with its values; the first one is the default.
            pub const ALL: &'static [(&'static str, &'static [&'static str])] =
                &[ $( ($name, &[$first_value, $($value),+]) ),+ ];

            /// Sets a switch by name.
            ///
            /// # Errors
            /// When the name or the value is unknown; the message lists the known ones.
            pub fn set(&mut self, name: &str, value: &str) -> Result<(), UnknownSwitch> {
                match name {
                    $( $name => self.$field = match value {
                        $first_value => $kind::$first,
                        $( $value => $kind::$variant, )+
                        _ => return Err(UnknownSwitch::value(name, value)),
                    }, )+
                    _ => return Err(UnknownSwitch::name(name)),
                }
                Ok(())
            }

            fn values(&self) -> Vec<(&'static str, &'static str)> {
                vec![ $( ($name, match self.$field {
                    $kind::$first => $first_value,
                    $( $kind::$variant => $value, )+
                }) ),+ ]
            }
        }
    };
}

switches! {
    /// An `Accept` header that is missing or accepts anything.
    accept_missing: "accept-missing", AcceptMissing {
        /// The newest version is served.
        Served = "served",
        /// 404.
        NotFound = "not-found",
    }
    /// The media type of responses.
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
        /// The second is renamed.
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
    /// Whether names that differ only by case are equal, where names must be unique.
    name_case: "name-case", NameCase {
        /// They differ.
        Sensitive = "sensitive",
        /// They are equal.
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
    /// The last change of a file that is restored from the recycle bin.
    restored_time: "restored-time", RestoredTime {
        /// As before.
        Kept = "kept",
        /// The restoration.
        Changed = "changed",
    }
    /// How an invalid name is rejected.
    name_error: "name-error", NameError {
        /// `InvalidCreateFileRequest`, with the property in the details.
        Documented = "documented",
        /// `InvalidStorageRequest`, without a target, as observed once.
        Observed = "observed",
    }
    /// Files that were created and never completed.
    incomplete_files: "incomplete-files", IncompleteFiles {
        /// They are listed.
        Listed = "listed",
        /// They can be read by id only.
        Unlisted = "unlisted",
        /// They cannot be read.
        Hidden = "hidden",
    }
    /// Whether list items have the description.
    listed_description: "listed-description", ListedDescription {
        /// They do.
        Shown = "shown",
        /// They do not.
        Absent = "absent",
    }
    /// New content for a file that was never completed.
    update_incomplete: "update-incomplete", UpdateIncomplete {
        /// An upload address is issued.
        Taken = "taken",
        /// 409.
        Conflict = "conflict",
        /// 404.
        NotFound = "not-found",
    }
    /// The blob of new content.
    update_blob: "update-blob", UpdateBlob {
        /// A new one each time.
        Fresh = "fresh",
        /// The previous one: written content is visible at once, before it is completed.
        Same = "same",
    }
    /// An upload is completed without content.
    complete_without_content: "complete-without-content", CompleteWithoutContent {
        /// 422.
        Refused = "refused",
        /// 200, and the file is empty.
        Taken = "taken",
    }
    /// An upload is completed a second time.
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
        /// Writing: uploaded blocks cannot be listed.
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
    /// The initialization of a new empty iModel.
    new_imodel: "new-imodel", NewImodelState {
        /// It is initialized at once.
        Initialized = "initialized",
        /// It is *notInitialized* until it was read three times.
        Later = "later",
        /// It stays *notInitialized*, and its creation has failed.
        Failed = "failed",
    }
    /// Lists of iModels after one was created.
    new_imodel_list: "new-imodel-list", NewImodelList {
        /// They have it.
        Current = "current",
        /// They have it once its name was refused as taken.
        Lagging = "lagging",
        /// They never have it.
        Absent = "absent",
    }
    /// New iModels of an iTwin within a minute.
    create_limit: "create-limit", CreateLimit {
        /// Not limited.
        None = "none",
        /// Five; 429 above.
        Five = "five",
    }
    /// The storage of an unknown iTwin.
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
    /// A retired connector type.
    retired_connector: "retired-connector", RetiredConnector {
        /// Accepted.
        Taken = "taken",
        /// 422.
        Refused = "refused",
    }
    /// An unknown connector type.
    unknown_connector: "unknown-connector", UnknownConnector {
        /// Accepted; its tasks fail.
        Taken = "taken",
        /// 422.
        Refused = "refused",
    }
    /// A file with another extension of a format that MSTN reads: `step` for stp, `iges` for igs.
    undocumented_extension: "undocumented-extension", UndocumentedExtension {
        /// MSTN reads it.
        Read = "read",
        /// Its tasks fail.
        Failed = "failed",
    }
    /// A setting of a connection or an iModel that the platform does not know.
    unknown_setting: "unknown-setting", UnknownSetting {
        /// 422.
        Refused = "refused",
        /// It is dropped without an error.
        Ignored = "ignored",
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
        /// Kept.
        Kept = "kept",
        /// Reset to the default, `User`.
        Reset = "reset",
    }
    /// For whom a connection acts after another user than its creator has set it to `User`.
    changed_owner: "changed-owner", ChangedOwner {
        /// The one who has set it.
        Caller = "caller",
        /// Its creator, as before.
        Creator = "creator",
    }
    /// The elements of a storage file whose source file or connection was deleted.
    removed_source_file: "removed-source-file", RemovedSourceFile {
        /// Kept.
        Kept = "kept",
        /// Deleted with the next run of the iModel, or with the connection.
        ElementsDeleted = "elements-deleted",
    }
    /// A connection is deleted while it runs.
    delete_in_run: "delete-in-run", DeleteInRun {
        /// 204.
        Taken = "taken",
        /// 409.
        Conflict = "conflict",
    }
    /// What can have only one active run.
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
    /// The address of a run in the response to *run*.
    location: "location", Location {
        /// With scheme and host.
        Absolute = "absolute",
        /// Without scheme and host.
        Relative = "relative",
        /// Missing if a run is already active.
        Absent = "absent",
    }
    /// The body of the response to *run*.
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
        /// It has none: the run reports nothing about that file.
        Absent = "absent",
    }
    /// A shapefile whose `.dbf` or `.shx` is not in its storage folder.
    geospatial_companions: "geospatial-companions", GeospatialCompanions {
        /// Its task fails.
        Needed = "needed",
        /// It is read without them.
        Ignored = "ignored",
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
        /// Each works once and is replaced by the next.
        Rotated = "rotated",
        /// One works until it is revoked.
        Kept = "kept",
    }
}

/// An unknown switch or value.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UnknownSwitch(String);

impl UnknownSwitch {
    fn name(name: &str) -> Self {
        let known: Vec<&str> = Switches::ALL.iter().map(|(name, _)| *name).collect();
        Self(format!(
            "unknown switch {name:?}: expected one of {}",
            known.join(", ")
        ))
    }

    fn value(name: &str, value: &str) -> Self {
        let known = Switches::ALL.iter().find(|(known, _)| *known == name);
        let values = known
            .map(|(_, values)| values.join(", "))
            .unwrap_or_default();
        Self(format!(
            "unknown value {value:?} for switch {name}: expected one of {values}"
        ))
    }
}

impl Serialize for Switches {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let values = self.values();
        let mut map = serializer.serialize_map(Some(values.len()))?;
        for (name, value) in values {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_every_switch_can_be_set_and_is_serialized() {
        for (name, values) in Switches::ALL {
            for value in *values {
                let mut switches = Switches::default();
                switches.set(name, value).unwrap();
                let json = serde_json::to_value(switches).unwrap();
                assert_eq!(json[name], **value);
                assert_eq!(
                    switches == Switches::default(),
                    *value == values[0],
                    "{name}={value}"
                );
            }
        }
    }

    #[test]
    fn an_unknown_switch_or_value_lists_the_known_ones() {
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
