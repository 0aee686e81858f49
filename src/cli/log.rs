//! The program's own log: env_logger on standard error, through a sink, so that whoever reads it slowly or not at all
//! keeps no request waiting.

use crate::observe::sink::{Destination, Manner, Sink};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

/// What is logged unless `RUST_LOG` says otherwise: ours, and Pingora's warnings. Its balancer's and its proxy's are ours
/// told twice.
const USUAL: &str = "warn,portcullis=info,pingora_load_balancing=error,pingora_proxy=error";
const MANNER: Manner = Manner { room: 1 << 20, gather: Duration::ZERO, complain: false };
/// How long the last lines may take.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The log; the last of it is written when this is dropped.
pub(super) struct Log(Option<Arc<Sink>>);

impl Log {
    /// Begins it. Without a thread of its own it is written as it comes.
    pub(super) fn start() -> Log {
        let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(USUAL));
        builder.format_timestamp_millis();
        let file = Destination::Stderr.open();
        let sink = file
            .and_then(|file| Sink::new("log".to_owned(), file, MANNER, Arc::default()))
            .ok()
            .map(Arc::new);
        if let Some(sink) = &sink {
            let plain = ["NO_COLOR", "RUST_LOG_STYLE"].iter().any(|name| std::env::var_os(name).is_some());
            if io::stderr().is_terminal() && !plain {
                builder.write_style(env_logger::WriteStyle::Always);
            }
            builder.target(env_logger::Target::Pipe(Box::new(Lines(Arc::clone(sink)))));
            tell_of_panics(Arc::clone(sink));
        }
        builder.init();
        Log(sink)
    }

    /// What it is written by.
    pub(super) fn sink(&self) -> Option<Arc<Sink>> {
        self.0.as_ref().map(Arc::clone)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(sink) = &self.0 {
            sink.flush(LAST_LINES);
        }
    }
}

/// Has panics told through the sink: the usual way writes to standard error by itself, and would wait there. Whatever RUST_LOG
/// is, and with the way there if RUST_BACKTRACE wants it, as usual.
fn tell_of_panics(sink: Arc<Sink>) {
    std::panic::set_hook(Box::new(move |panic| {
        let (thread, way) = (std::thread::current(), Backtrace::capture());
        let name = thread.name().unwrap_or("<unnamed>");
        sink.line(|out| {
            let _ = writeln!(out, "thread '{name}' {panic}"); // a vector takes everything
            if way.status() == BacktraceStatus::Captured {
                let _ = writeln!(out, "{way}");
            }
        });
    }));
}

/// env_logger writes each line whole.
struct Lines(Arc<Sink>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.line(|out| out.extend_from_slice(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_with_its_place_and_its_thread() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let out = file.as_file().try_clone().unwrap();
        let sink = Arc::new(Sink::new("test".to_owned(), out, MANNER, Arc::default()).unwrap());
        let usual = std::panic::take_hook();
        tell_of_panics(Arc::clone(&sink));
        let worker = std::thread::Builder::new().name("worker".to_owned());
        assert!(worker.spawn(|| panic!("an invariant")).unwrap().join().is_err());
        std::panic::set_hook(usual);
        assert!(sink.flush(Duration::from_secs(20)));
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(text.starts_with("thread 'worker' panicked at src/cli/log.rs:"), "{text}");
        assert!(text.contains("an invariant"), "{text}");
    }
}
