//! The handshake of a new connection: both ends prove that they know the key, which is never sent.
//!
//! | sender | message | bytes |
//! |---|---|---|
//! | listener | challenge: the name of this protocol, its nonce | 8 + 32 |
//! | client | answer: its nonce, HMAC(key, "client", both nonces) | 32 + 32 |
//! | listener | proof: HMAC(key, "server", both nonces) | 32 |
//!
//! Both nonces are in both proofs, so a proof cannot be used again. The role is in the proof, so it
//! cannot be sent back to its maker. Every message has a fixed length, so a peer cannot lie about a
//! length.

use super::auth::AuthKey;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::{poll, socket};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// The name and version of the protocol.
const PROTOCOL: [u8; 8] = *b"procpo-1";

/// Maximum time for a client's answer. It only has to compute a hash.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(fuzzing)]
pub(super) mod fuzzing;

const NONCE_LEN: usize = 32;
const PROOF_LEN: usize = 32;
const CHALLENGE_LEN: usize = PROTOCOL.len() + NONCE_LEN;
const ANSWER_LEN: usize = NONCE_LEN + PROOF_LEN;

type Nonce = [u8; NONCE_LEN];

/// A listener's side of a handshake in progress.
#[derive(Debug)]
pub(super) struct Handshake {
    socket: OwnedFd,
    nonce: Nonce,
    answer: PartialMessage<ANSWER_LEN>,
    deadline: Instant,
}

impl Handshake {
    /// Sends the challenge.
    pub(super) fn begin(socket: OwnedFd) -> Result<Self> {
        let nonce = new_nonce()?;
        send(&socket, [&PROTOCOL, &nonce])?;
        Ok(Self {
            socket,
            nonce,
            answer: PartialMessage::default(),
            deadline: Instant::now() + ANSWER_TIMEOUT,
        })
    }

    /// Returns when the handshake fails.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Continues with the data that has arrived. Returns whether the handshake has succeeded. Never
    /// blocks.
    pub(super) fn advance(&mut self, key: &AuthKey) -> Result<bool> {
        if !self.answer.advance(&self.socket)? {
            return match self.deadline.checked_duration_since(Instant::now()) {
                None => Err(auth_error("the client did not answer in time")),
                Some(_) => Ok(false),
            };
        }
        let (nonce, proof) = self.answer.bytes.split_at(NONCE_LEN);
        let mac = |role| mac(key, role, &self.nonce, nonce);
        // Compares in constant time.
        let verified = mac(b"client").verify_slice(proof);
        verified.map_err(|_| auth_error("the client does not know the key"))?;
        send(&self.socket, [&mac(b"server").finalize().into_bytes(), &[]])?;
        Ok(true)
    }

    pub(super) fn into_socket(self) -> OwnedFd {
        self.socket
    }
}

impl AsFd for Handshake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Why a client is refused.
const OTHER_KEY: &str = "this process and the listener do not have the same key";

/// Runs a client's side: blocks until both ends have proved that they know the key.
pub(super) fn prove(socket: impl AsFd, key: &AuthKey, deadline: Instant) -> Result<()> {
    let challenge = PartialMessage::<CHALLENGE_LEN>::receive(&socket, deadline)?;
    let (name, theirs) = challenge.split_at(PROTOCOL.len());
    if name != PROTOCOL {
        return Err(auth_error("the listener does not require a key"));
    }
    let ours = new_nonce()?;
    let mac = |role| mac(key, role, theirs, &ours);
    send(&socket, [&ours, &mac(b"client").finalize().into_bytes()])?;
    let proof =
        PartialMessage::<PROOF_LEN>::receive(&socket, deadline).map_err(|error| {
            match error.kind() {
                ErrorKind::Disconnected => auth_error(OTHER_KEY),
                _ => error,
            }
        })?;
    let verified = mac(b"server").verify_slice(&proof);
    verified.map_err(|_| auth_error(OTHER_KEY))
}

/// The bytes that have arrived of a message of `N` bytes.
#[derive(Debug)]
struct PartialMessage<const N: usize> {
    bytes: [u8; N],
    filled: usize,
}

impl<const N: usize> Default for PartialMessage<N> {
    fn default() -> Self {
        Self {
            bytes: [0; N],
            filled: 0,
        }
    }
}

impl<const N: usize> PartialMessage<N> {
    /// Reads the available bytes. Returns whether the message is complete.
    fn advance(&mut self, socket: impl AsFd) -> Result<bool> {
        while self.filled < N {
            match socket::try_read(&socket, &mut self.bytes[self.filled..]) {
                Ok(0) => return Err(err_disconnected()),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(handshake_error(error)),
            }
        }
        Ok(true)
    }

    fn receive(socket: impl AsFd, deadline: Instant) -> Result<[u8; N]> {
        let mut incoming = Self::default();
        while !incoming.advance(&socket)? {
            let limit = deadline.saturating_duration_since(Instant::now());
            if !poll::is_readable(&socket, Some(limit)).map_err(handshake_error)? {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    "failed to authenticate: the listener did not answer in time",
                ));
            }
        }
        Ok(incoming.bytes)
    }
}

/// Sends bytes. They are so few that a new connection has room for them, so it never blocks.
fn send(socket: impl AsFd, parts: [&[u8]; 2]) -> Result<()> {
    let count = socket::send_parts(socket, parts).map_err(handshake_error)?;
    if count < parts[0].len() + parts[1].len() {
        return Err(auth_error("the new connection is full"));
    }
    Ok(())
}

fn new_nonce() -> Result<Nonce> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce)
        .map_err(|error| Error::io("failed to get random bytes", error.into()))?;
    Ok(nonce)
}

fn mac(key: &AuthKey, role: &[u8], listener: &[u8], client: &[u8]) -> Hmac<Sha256> {
    let mac = Hmac::<Sha256>::new_from_slice(key.bytes());
    let mac = mac.expect("a key of any length will do");
    mac.chain_update(PROTOCOL)
        .chain_update(role)
        .chain_update(listener)
        .chain_update(client)
}

fn auth_error(why: &str) -> Error {
    let message = format!("failed to authenticate: {why}");
    Error::new(ErrorKind::AuthenticationFailed, message)
}

fn err_disconnected() -> Error {
    Error::new(
        ErrorKind::Disconnected,
        "failed to authenticate: the other end is gone",
    )
}

fn handshake_error(error: io::Error) -> Error {
    if socket::is_closed(&error) {
        return err_disconnected();
    }
    Error::io("failed to authenticate", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(key: &str, role: &[u8], nonces: [&[u8]; 2]) -> Vec<u8> {
        let mac = mac(&key.into(), role, nonces[0], nonces[1]);
        mac.finalize().into_bytes().to_vec()
    }

    #[test]
    fn a_proof_is_good_for_one_role_key_and_pair_of_nonces() {
        let (a, b) = ([1; NONCE_LEN], [2; NONCE_LEN]);
        let proofs = [
            proof("key", b"client", [&a, &b]),
            proof("key", b"server", [&a, &b]),
            proof("key", b"client", [&b, &a]),
            proof("yek", b"client", [&a, &b]),
        ];
        for (index, one) in proofs.iter().enumerate() {
            assert!(!proofs[index + 1..].contains(one));
        }
    }
}
