//! The end of a tunnel from this side: a WebSocket's client is told that the gateway is going away.

use super::Conn;
use crate::wire::websocket::{Frames, GOING_AWAY};
use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{ready, Context, Poll};
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
    /// WebSocket takes over (RFC 9110 §7.8, RFC 6455): no framing, no deadline. No other protocol is let through.
    pub fn become_tunnel(&self) {
        self.tunnel.store(true, Ordering::Relaxed);
        self.deadline.store(0, Ordering::Relaxed);
    }

    /// These bytes have been passed to the client.
    pub(super) fn tunnelled(&mut self, bytes: &[u8]) {
        let tunnel = self.end_of_tunnel.get_or_insert_default();
        // The engine writes the head by itself, at once.
        if std::mem::replace(&mut tunnel.begun, true) {
            tunnel.to_client.pass(bytes);
        }
    }

    /// A read in a tunnel has to wait: fails when the tunnel is to be cut off.
    pub(super) fn wait_in_tunnel(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.wait_to_read(cx) {
            Poll::Pending => self.poll_cut(cx).map(Err),
            ready => ready,
        }
    }

    /// Ready with an error once the tunnel is to be cut off, and its client told if it can be.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let tunnel = self.end_of_tunnel.get_or_insert_default();
        let cut = tunnel.cut.get_or_insert_with(|| Box::pin(self.farewell.cut_off()));
        if !self.farewell.is_cutting() {
            ready!(cut.as_mut().poll(cx));
        }
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
