//! What the service manager is told, when there is one (sd_notify(3)): that the process serves, which process that is,
//! that it is alive, and the sockets, which it keeps over the end of the process.
//!
//! Nothing here stops anything: without `NOTIFY_SOCKET` all of it does nothing, and a message that cannot be sent is
//! logged and forgotten. `STOPPING=1` is never sent, because from any process of the unit it would stop the service.

use super::sockets::{store_name, Bound};
use log::warn;
use sd_notify::NotifyState as State;
use std::os::fd::AsFd;
use std::time::Duration;

/// From now on this process is the service, and serves. A predecessor may have been it until now.
pub(super) fn serving() {
    tell(&[State::MainPid(std::process::id()), State::Ready]);
}

/// One line for `systemctl status`.
pub(super) fn status(text: &str) {
    tell(&[State::Status(text)]);
}

/// The process is alive.
pub(super) fn alive() {
    tell(&[State::Watchdog]);
}

/// These sockets shall be kept for the next process of the service. Those that are kept already are not kept twice, and those
/// of a socket unit are the manager's own.
pub(super) fn keep(sockets: &[&Bound]) {
    if !present() {
        return;
    }
    for bound in sockets.iter().filter(|bound| !bound.held) {
        let state = [State::FdStore, State::FdName(&store_name(&bound.at))];
        if let Err(e) = sd_notify::notify_with_fds(&state, &[bound.as_fd()]) {
            warn!("the service manager cannot be given {}: {e}", bound.name());
        }
    }
}

/// The sockets with these names need not be kept any more.
pub(super) fn forget(names: &[String]) {
    for name in names.iter().filter(|name| name.starts_with("listen-")) {
        tell(&[State::FdStoreRemove, State::FdName(name)]);
    }
}

/// How often [`alive`] must be told, if it must (sd_watchdog_enabled(3)). Whom `WATCHDOG_PID` names does not matter: after
/// an upgrade it is still the first process.
pub(super) fn watchdog() -> Option<Duration> {
    let micros: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (present() && micros > 0).then(|| Duration::from_micros(micros) / 3)
}

/// Whether there is one.
pub(super) fn present() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

fn tell(state: &[State<'_>]) {
    if !present() {
        return;
    }
    if let Err(e) = sd_notify::notify(state) {
        warn!("the service manager cannot be told: {e}");
    }
}
