//! The end of a tunnel from this side: a WebSocket's client is told that the gateway is going away.

use super::{Conn, Fault};
use crate::wire::websocket::{Frames, GOING_AWAY};
use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{ready, Context, Poll};
use std::time::Duration;
use tokio::sync::futures::OwnedNotified;

/// What a tunnel knows of itself, from the first time that it waits for the client or passes something to it.
#[derive(Default)]
pub(super) struct Tunnel {
    cut: Option<Pin<Box<OwnedNotified>>>,
    /// The 101 itself has passed.
    begun: bool,
    to_client: Frames,
    told: bool,
}

impl Conn {
    /// WebSocket takes over (RFC 9110 §7.8, RFC 6455): no framing, and no deadline but that something passes, one way or
    /// the other, within `patience`. No other protocol is let through.
    pub fn become_tunnel(&self, patience: Duration) {
        self.tunnel.store(true, Ordering::Relaxed);
        self.deadline.store(0, Ordering::Relaxed);
        self.silence.bear(patience);
    }

    /// These bytes have been passed to the client.
    pub(super) fn tunnelled(&mut self, bytes: &[u8]) {
        self.silence.end_it();
        let tunnel = self.end_of_tunnel.get_or_insert_default();
        // The engine writes the head by itself, at once.
        if std::mem::replace(&mut tunnel.begun, true) {
            tunnel.to_client.pass(bytes);
        }
    }

    /// A read in a tunnel has to wait: fails when the tunnel is to be cut off, or nothing has passed for too long.
    pub(super) fn wait_in_tunnel(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.wait_to_read(cx) {
            Poll::Pending if self.fault != Some(Fault::IdleTunnel) => ready!(self.poll_called_off(cx)),
            Poll::Ready(Err(e)) if self.fault != Some(Fault::IdleTunnel) => return Poll::Ready(Err(e)),
            _ => {}
        }
        self.poll_end(cx).map(Err)
    }

    /// Ready once all tunnels are to be cut off.
    fn poll_called_off(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let tunnel = self.end_of_tunnel.get_or_insert_default();
        let cut = tunnel.cut.get_or_insert_with(|| Box::pin(self.farewell.cut_off()));
        if self.farewell.is_cutting() {
            return Poll::Ready(());
        }
        cut.as_mut().poll(cx)
    }

    /// Ready with an error once the client has been told that its tunnel ends, if it can be.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let tunnel = self.end_of_tunnel.get_or_insert_default();
        if !tunnel.told {
            if tunnel.begun && !tunnel.to_client.may_follow() && !tunnel.to_client.is_closed() {
                return Poll::Pending; // in the midst of a frame; asked again when more of it has passed
            }
            tunnel.told = true;
            if tunnel.to_client.may_follow() {
                self.out.add(&GOING_AWAY);
            }
        }
        let _ = ready!(self.poll_drain(cx));
        Poll::Ready(ErrorKind::ConnectionAborted.into())
    }
}
