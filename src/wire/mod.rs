//! What arrives on a connection: bytes to a checked head and a delimited body.
//!
//! The engine's parser is lenient and reads ahead. This room stands in front of it: [`head`] refuses every request
//! head that two parsers could read differently, [`chunk`] follows the chunked coding strictly, and [`conn`] gives
//! the engine exactly the bytes of one request, never one of the next, and keeps the clocks that a slow client
//! runs against. It knows nothing of routes or policies and answers nothing itself: it says what is wrong, and
//! its caller, the server, has it answered.

pub mod chunk;
pub mod client;
pub mod clock;
pub mod conn;
pub mod facts;
pub mod head;
pub mod http2;
pub mod linger;
mod out;
pub mod outcome;
pub mod proxy_protocol;
pub mod refusal;
pub mod socket;
pub mod trail;
mod wait;
mod websocket;
