//! What the process is told by signals. What follows from them is `life`'s.

use std::io;
use tokio::signal::unix::{signal, Signal, SignalKind};

/// The signals that are heard.
pub struct Signals {
    term: Signal,
    int: Signal,
    quit: Signal,
    hup: Signal,
    usr2: Signal,
}

/// What a signal says.
pub(super) enum Told {
    /// SIGTERM, SIGINT, and SIGQUIT, as NGINX has it: leave, and let requests finish.
    End(&'static str),
    /// SIGHUP.
    Reload,
    /// SIGUSR2.
    Upgrade,
}

impl Signals {
    /// From now on none of them kills, and what comes before somebody waits for it is kept.
    ///
    /// # Errors
    /// When the system has no descriptor or memory for it.
    pub fn hear() -> io::Result<Self> {
        // Only to register with: the handlers stay, and the runtime that waits later is told what came meanwhile.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _within = runtime.enter();
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hup: signal(SignalKind::hangup())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next one. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.term.recv() => Told::End("SIGTERM"),
            _ = self.int.recv() => Told::End("SIGINT"),
            _ = self.quit.recv() => Told::End("SIGQUIT"),
            _ = self.hup.recv() => Told::Reload,
            _ = self.usr2.recv() => Told::Upgrade,
        }
    }

    /// Waits for one that ends the process. A reload or an upgrade that is asked for meanwhile is kept for [`next`](Self::next).
    pub(super) async fn end(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }
}
