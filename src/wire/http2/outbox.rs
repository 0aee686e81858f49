//! What a connection sends, collected until all that is ready has been written.
//!
//! The `h2` crate hands over each frame of a body as soon as it has it, and flushes it: with many streams that is a TLS record
//! and a system call for each answer. Here small pieces wait for each other, until the connection has nothing more to say
//! for now. Large ones go out as they are, without a copy.

use bytes::{Buf, BytesMut};
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{ready, Context, Poll};
use tokio::io::AsyncWrite;

/// So much waits at most; a record of TLS is as large (RFC 8446 §5.1).
const MOST: usize = 16 << 10;
/// What is as large does not wait.
const LARGE: usize = 4 << 10;

/// Bytes on their way to a socket.
#[derive(Default)]
pub(super) struct Outbox {
    /// Small pieces wait.
    collects: bool,
    waiting: BytesMut,
    /// The socket may still keep something to itself.
    unflushed: bool,
    /// It does, and cannot send it.
    stuck: bool,
    /// The socket has taken something since this was asked.
    moved: bool,
}

impl Outbox {
    /// From now on small pieces wait for [`poll_send`](Self::poll_send).
    pub(super) fn collect(&mut self) {
        self.collects = true;
    }

    /// Whether a flush may leave what is there.
    pub(super) fn collects(&self) -> bool {
        self.collects
    }

    /// Whether nothing waits, here or in the socket.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && !self.unflushed
    }

    /// Whether the socket has taken something since the last time.
    pub(super) fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Takes bytes, as many as there is room for.
    pub(super) fn poll_take<S: AsyncWrite>(
        &mut self,
        mut socket: Pin<&mut S>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let size: usize = bufs.iter().map(|buf| buf.len()).sum();
        if self.collects && size < LARGE {
            if self.waiting.len() + size > MOST {
                ready!(self.poll_empty(socket, cx))?;
            }
            if self.waiting.capacity() == 0 {
                self.waiting.reserve(2 * LARGE);
            }
            bufs.iter().for_each(|buf| self.waiting.extend_from_slice(buf));
            return Poll::Ready(Ok(size));
        }
        ready!(self.poll_empty(socket.as_mut(), cx))?;
        let written = ready!(socket.poll_write_vectored(cx, bufs))?;
        self.unflushed = true;
        self.moved |= written > 0;
        Poll::Ready(Ok(written))
    }

    /// Hands everything to the socket.
    fn poll_empty<S: AsyncWrite>(
        &mut self,
        mut socket: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(socket.as_mut().poll_write(cx, &self.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(written);
            (self.unflushed, self.moved) = (true, true);
        }
        // An idle connection is small.
        self.waiting = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Sends everything.
    pub(super) fn poll_send<S: AsyncWrite>(
        &mut self,
        mut socket: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(socket.as_mut(), cx))?;
        if self.unflushed {
            let flushed = socket.poll_flush(cx);
            self.moved |= self.stuck && flushed.is_ready();
            self.stuck = flushed.is_pending();
            ready!(flushed)?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt;

    /// Whatever the sizes and however little the socket takes, all comes, in order, and nothing small before it is sent.
    #[tokio::test]
    async fn all_of_it_arrives_in_order() {
        for room in [1000, 100_000] {
            let (mut near, mut far) = tokio::io::duplex(room);
            let reader = tokio::spawn(async move {
                let mut all = Vec::new();
                far.read_to_end(&mut all).await.map(|_| all)
            });
            let (mut outbox, mut said) = (Outbox::default(), Vec::new());
            outbox.collect();
            for (n, size) in
                [9, 1000, 3, 20_000, 4096, 4095, 4095, 4095, 4095, 70_000, 1].into_iter().enumerate()
            {
                let piece = vec![n as u8; size];
                let mut rest = &piece[..];
                while !rest.is_empty() {
                    let (head, tail) = rest.split_at(rest.len() / 3);
                    let bufs = [IoSlice::new(head), IoSlice::new(tail)];
                    let taken = poll_fn(|cx| outbox.poll_take(Pin::new(&mut near), cx, &bufs)).await.unwrap();
                    rest = &rest[taken..];
                }
                said.extend_from_slice(&piece);
            }
            assert!(!outbox.waiting.is_empty(), "what is small has been sent at once");
            poll_fn(|cx| outbox.poll_send(Pin::new(&mut near), cx)).await.unwrap();
            assert!(outbox.has_moved() && !outbox.has_moved());
            drop(near);
            assert_eq!(reader.await.unwrap().unwrap(), said);
        }
    }
}
