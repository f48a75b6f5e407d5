//! The account: whether there is a token, and for a user, whether runs may act for them.

use super::Report;
use crate::config::{Config, UserAccount};
use crate::connection_name::ConnectionName;
use crate::itwin::{Authentication, Client, Connection};

/// Gets a token; whether there is one.
pub(super) async fn token(report: &mut Report, config: &Config, client: &Client) -> bool {
    let name = format!("token from {}", config.itwin.issuer_url);
    if let Err(error) = client.check_token().await {
        report.refused(&name, &error);
        return false;
    }
    let Some(user) = config.itwin.user() else {
        report.ok(&format!("{name} for {}", config.itwin.client_id));
        return true;
    };
    let who = match client.user_name().await {
        Ok(Some(who)) => who,
        Ok(None) => client.member(),
        Err(error) => {
            report.refused("name of the user", &error);
            client.member()
        }
    };
    report.ok(&format!(
        "{name}: signed in as {who}, with the application {}",
        config.itwin.client_id
    ));
    consent(report, client, user, &who).await;
    true
}

/// Whether runs may act for the user, and for how long.
async fn consent(report: &mut Report, client: &Client, user: &UserAccount, who: &str) {
    let Some(redirect) = user.redirect_urls.first() else {
        return;
    };
    match client.authorization(redirect).await {
        Ok(found) => match found.note(who, crate::clock::now()) {
            None => report.ok(&format!("runs may act for {who}")),
            Some(note) if found.is_authorized => report.note(&note.reason, &note.hint),
            Some(note) => report.wrong(&note.reason, Some(&note.hint)),
        },
        Err(error) => report.refused("consent of the user", &error),
    }
}

/// Whether a user may use the connections that have our name.
pub(super) fn connections(
    report: &mut Report,
    config: &Config,
    used: &[&ConnectionName],
    found: &[Connection],
) {
    let Some(user) = config.itwin.user() else {
        return;
    };
    for connection in found {
        let name = connection.display_name.as_deref().unwrap_or_default();
        let is_ours = used.iter().any(|used| used.fits(name));
        if !is_ours || connection.authentication() != Some(Authentication::Service) {
            continue;
        }
        if user.takeover {
            report.ok(&format!(
                "connection {name:?}: that of a service application; will act for the user (itwin.takeover)"
            ));
        } else {
            report.wrong(
                &format!("connection {name:?}: that of a service application, and its runs would not act for the user"),
                Some("set itwin.takeover = true to let it act for the user from now on, or another name in sync.connection"),
            );
        }
    }
}
