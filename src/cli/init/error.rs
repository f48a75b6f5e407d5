//! Why `init` ended early, with hints.

use std::io;
use std::path::PathBuf;

use super::SERVICE_USER;
use super::folder::Problem;
use crate::cli::login;
use crate::itwin;

use crate::config::CLIENT_SECRET_VARIABLE;

/// Why no configuration was written, or no service installed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("standard input is not a terminal: no question can be answered")]
    NoTerminal,
    #[error("the input ended; nothing was written")]
    Ended,
    #[error("interrupted; nothing was written")]
    Interrupted,
    #[error("the answer is too long")]
    TooLong,
    #[error("cannot read the answer")]
    Input(#[source] io::Error),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("the configuration {0:?} exists already")]
    Exists(PathBuf),
    #[error("another client secret is in {0:?} already")]
    SecretExists(PathBuf),
    #[error("{option}: {what}")]
    Invalid {
        option: String,
        what: String,
        hint: Option<String>,
    },
    #[error(transparent)]
    Platform(#[from] itwin::Error),
    #[error(transparent)]
    SignIn(login::Error),
    #[error("signing in as a user needs a terminal and a browser")]
    NoBrowser,
    #[error("the platform cannot be reached")]
    Unreachable,
    #[error("the application is not a member of any iTwin")]
    NoItwin {
        /// Its e-mail address.
        member: String,
    },
    #[error("the iTwin has no iModel that the application can see")]
    NoImodel { itwin_id: String, member: String },
    #[error("no {noun} has the id or the name {wanted:?}")]
    NoneNamed { noun: &'static str, wanted: String },
    #[error("several {noun}s have the name {wanted:?}")]
    SeveralNamed {
        noun: &'static str,
        wanted: String,
        ids: Vec<String>,
    },
    #[error(transparent)]
    Folder(#[from] Problem),
    #[error("a check failed; nothing was written")]
    Checks,
    #[error("cannot write {path:?}")]
    Write { path: PathBuf, source: io::Error },
    #[error("`{command}` failed")]
    Command { command: String, source: io::Error },
    #[error("the service cannot be installed: {0}")]
    NoService(&'static str),
}

impl Error {
    pub(super) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoTerminal => "run it in a terminal, or with --non-interactive, --client-id, --client-secret-file, \
                                 --imodel and --folder"
                .to_owned(),
            Self::Missing("--itwin") => {
                "add --itwin: the name of an iModel is unique in its iTwin only; or give --imodel an id".to_owned()
            }
            Self::Missing("--client-secret-file") => {
                format!("name the file with the secret, or set {CLIENT_SECRET_VARIABLE}")
            }
            Self::Missing(option) => format!("add {option}, or leave --non-interactive out to be asked"),
            Self::Exists(_) => {
                "edit it and run `itwin-syncd check`, replace it with --force, or write another file with --config"
                    .to_owned()
            }
            Self::SecretExists(path) => format!(
                "replace it with --force, or use it: leave --client-secret-file out, unset {CLIENT_SECRET_VARIABLE}; to keep both, \
                 move {} away",
                path.display()
            ),
            Self::Invalid { hint, .. } => return hint.clone(),
            Self::Platform(error) => return error.hint(),
            Self::SignIn(error) => return error.hint(),
            Self::NoBrowser => "leave --non-interactive out; or write the configuration by hand, with sign_in = \"user\", and \
                                run `itwin-syncd login --no-browser`"
                .to_owned(),
            Self::Unreachable => "do what the hint above says; behind a proxy, add --proxy URL, and --ca-file FILE if it \
                                  intercepts TLS"
                .to_owned(),
            Self::NoItwin { member } => format!(
                "an administrator of the iTwin adds {member} as a member with a role, at developer.bentley.com/my-itwins; \
                 docs/getting-started.md, step 5, has the permissions"
            ),
            Self::NoImodel { itwin_id, member } => format!(
                "create one at https://developer.bentley.com/my-itwins/{itwin_id}/home/, or give {member} a role with the \
                 permission imodels_webview"
            ),
            Self::NoneNamed { noun, .. } => format!(
                "run without --{} to choose from a list, or give the application access to it",
                noun.to_lowercase()
            ),
            Self::SeveralNamed { noun, ids, .. } => {
                format!("set --{} to one of these ids: {}", noun.to_lowercase(), ids.join(", "))
            }
            Self::Folder(problem) => problem.hint(),
            Self::Checks => "do what the hints above say, then run the command again".to_owned(),
            Self::Write { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run the command with sudo, or write another file with --config".to_owned()
            }
            Self::Command { command, .. } => {
                let unit = command.strip_prefix("systemctl restart ").unwrap_or(SERVICE_USER);
                format!("do what its output above says; `journalctl -eu {unit}` shows the log of the service")
            }
            Self::NoService(_) => "run the command with sudo, without --config and on a machine with systemd; or without \
                                   --install, and start `itwin-syncd run` as you like"
                .to_owned(),
            Self::Ended | Self::Interrupted | Self::TooLong | Self::Input(_) | Self::Write { .. } => {
                return None;
            }
        })
    }

    /// Whether other answers can help.
    pub(super) fn is_of_the_answers(&self) -> bool {
        match self {
            Self::Invalid { .. } => true,
            Self::Platform(error) => error
                .status()
                .is_some_and(|status| (400..500).contains(&status)),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::render_variants;

    #[test]
    fn messages() {
        let io = || io::Error::from(io::ErrorKind::PermissionDenied);
        let errors = render_variants!(Error, Error::hint, {
            Error::NoTerminal => Error::NoTerminal,
            Error::Ended => Error::Ended,
            Error::Interrupted => Error::Interrupted,
            Error::TooLong => Error::TooLong,
            Error::Input(_) => Error::Input(io()),
            Error::Missing(_) => Error::Missing("--folder"),
            Error::Missing(_) => Error::Missing("--itwin"),
            Error::Missing(_) => Error::Missing("--client-secret-file"),
            Error::Exists(_) => Error::Exists("/etc/itwin-syncd/config.toml".into()),
            Error::SecretExists(_) => Error::SecretExists("/etc/itwin-syncd/client-secret".into()),
            Error::Invalid { .. } => Error::Invalid {
                option: "name".to_owned(),
                what: "must not be empty".to_owned(),
                hint: Some("write a name".to_owned()),
            },
            Error::Platform(_) => Error::Platform(itwin::unreachable_platform()),
            Error::SignIn(_) => Error::SignIn(login::Error::Late),
            Error::NoBrowser => Error::NoBrowser,
            Error::Unreachable => Error::Unreachable,
            Error::NoItwin { .. } => Error::NoItwin { member: "service-x@apps.imsoidc.bentley.com".to_owned() },
            Error::NoImodel { .. } => Error::NoImodel {
                itwin_id: "11111111-2222-4333-8444-555555555555".to_owned(),
                member: "service-x@apps.imsoidc.bentley.com".to_owned(),
            },
            Error::NoneNamed { .. } => Error::NoneNamed { noun: "iModel", wanted: "North".to_owned() },
            Error::SeveralNamed { .. } => Error::SeveralNamed {
                noun: "iTwin",
                wanted: "North".to_owned(),
                ids: vec!["id-1".to_owned(), "id-2".to_owned()],
            },
            Error::Folder(_) => Error::Folder(Problem::Silent("/mnt/north".into())),
            Error::Checks => Error::Checks,
            Error::Write { .. } => Error::Write { path: "/etc/itwin-syncd/config.toml".into(), source: io() },
            Error::Write { .. } => Error::Write {
                path: "/etc/itwin-syncd/config.toml".into(),
                source: io::ErrorKind::StorageFull.into(),
            },
            Error::Command { .. } => Error::Command {
                command: "systemctl daemon-reload".to_owned(),
                source: io::Error::other("exit status: 1"),
            },
            Error::Command { .. } => Error::Command {
                command: "systemctl restart itwin-syncd@plant".to_owned(),
                source: io::Error::other("exit status: 1"),
            },
            Error::NoService(_) => Error::NoService("this user is not root"),
        });
        let problems = render_variants!(Problem, |problem| Some(problem.hint()), {
            Problem::Windows(_) => Problem::Windows("C:\\designs".to_owned()),
            Problem::Missing(_) => Problem::Missing("/srv/a b".into()),
            Problem::File(_) => Problem::File("/srv/north/house.ifc".into()),
            Problem::Unreadable { .. } => Problem::Unreadable { path: "/srv/north".into(), source: io() },
            Problem::Silent(_) => Problem::Silent("/mnt/north".into()),
            Problem::ServiceUser(_) => Problem::ServiceUser("/srv/north".into()),
            Problem::Hidden { .. } => Problem::Hidden { below: "/home", unit: "itwin-syncd@.service" },
        });
        insta::assert_snapshot!(format!("{errors}\n{problems}"));
    }
}
