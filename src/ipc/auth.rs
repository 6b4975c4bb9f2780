//! The key that both ends of a connection must know, and the key of this process.

use super::address::Address;
use parking_lot::Mutex;
use std::{fmt, sync::Arc};

/// Length of a generated key in bytes, the same as that of the hash.
const GENERATED_LEN: usize = 32;

/// The key of this process; `None` until it is set or used.
static PROCESS_KEY: Mutex<Option<AuthKey>> = Mutex::new(None);

/// The known addresses whose key differs from that of this process.
static ADDRESS_KEYS: Mutex<Vec<(Address, AuthKey)>> = Mutex::new(Vec::new());

/// A secret that both ends of a connection must know.
///
/// It is never sent: each end proves to its peer that it knows the key. `Debug` does not print it.
///
/// # Examples
///
/// ```
/// use procpool::AuthKey;
///
/// let key = AuthKey::from("a long passphrase");
/// assert_eq!(format!("{key:?}"), "AuthKey(..)");
/// ```
#[derive(Clone)]
pub struct AuthKey(Arc<[u8]>);

impl AuthKey {
    /// Returns the secret, to use it or to pass it to a child.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn generate() -> Self {
        let mut bytes = [0; GENERATED_LEN];
        getrandom::fill(&mut bytes).expect("Linux has random numbers since 3.17");
        Self::from(&bytes)
    }
}

/// Returns the key of this process: the key that [`set_authkey`] has set, or random bytes generated
/// at the first call.
///
/// A [`Listener`](crate::Listener) of this process and its clients in this process or its relatives
/// can use it.
#[must_use]
pub fn authkey() -> AuthKey {
    PROCESS_KEY
        .lock()
        .get_or_insert_with(AuthKey::generate)
        .clone()
}

/// Sets the key of this process.
///
/// # Examples
///
/// ```
/// procpool::set_authkey("a long passphrase");
/// let _key = procpool::authkey();
/// ```
pub fn set_authkey(key: impl Into<AuthKey>) {
    *PROCESS_KEY.lock() = Some(key.into());
}

/// Remembers the key of an address, for clients in this process and in children started later that
/// know the address alone.
pub(crate) fn remember_key(address: &Address, key: &AuthKey) {
    forget_key(address);
    if key.bytes() != authkey().bytes() {
        ADDRESS_KEYS.lock().push((address.clone(), key.clone()));
    }
}

/// Forgets the key of an address whose listener is closed.
pub(crate) fn forget_key(address: &Address) {
    ADDRESS_KEYS.lock().retain(|entry| entry.0 != *address);
}

/// Returns the key to use for an address: the remembered one, or that of this process.
pub(crate) fn known_key(address: &Address) -> AuthKey {
    let keys = ADDRESS_KEYS.lock();
    let found = keys.iter().find(|entry| entry.0 == *address);
    found.map_or_else(authkey, |entry| entry.1.clone())
}

/// Returns all remembered keys, to pass them to a child.
pub(crate) fn known_keys() -> Vec<(Address, AuthKey)> {
    ADDRESS_KEYS.lock().clone()
}

impl From<&[u8]> for AuthKey {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<Vec<u8>> for AuthKey {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl<const N: usize> From<&[u8; N]> for AuthKey {
    fn from(bytes: &[u8; N]) -> Self {
        Self(bytes[..].into())
    }
}

impl From<&str> for AuthKey {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<String> for AuthKey {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthKey(..)")
    }
}
