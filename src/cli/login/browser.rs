//! Opens an address in the user's browser.

use std::process::{Command, Stdio};

use url::Url;

/// Opens it with the program that desktops have for that. Whether there is one, and a screen.
pub(super) fn open(address: &Url) -> bool {
    let has = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    // Without a screen it would start a browser for terminals, in this one.
    if !has("DISPLAY") && !has("WAYLAND_DISPLAY") {
        return false;
    }
    Command::new("xdg-open")
        .arg(address.as_str())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .is_ok()
}
