//! The key that both ends of a connection know, and the one of this process.

use super::address::Address;
use parking_lot::Mutex;
use std::{fmt, sync::Arc};

/// Bytes of a key that was made up: as many as the hash has.
const GENERATED_LEN: usize = 32;

/// The key of this process, once it was set or asked for.
static PROCESS_KEY: Mutex<Option<AuthKey>> = Mutex::new(None);

/// The keys of addresses that have one of their own, as far as this process knows them.
static ADDRESS_KEYS: Mutex<Vec<(Address, AuthKey)>> = Mutex::new(Vec::new());

/// A secret that both ends of a connection must know.
///
/// It is never sent: each end proves to the other that it knows it. Its `Debug` does not show it.
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
    /// The secret, to use it or to hand it to a child of this process.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn generate() -> Self {
        let mut bytes = [0; GENERATED_LEN];
        getrandom::fill(&mut bytes).expect("Linux has random numbers since 3.17");
        Self::from(&bytes)
    }
}

/// The key of this process: what [`set_authkey`] has set, or random bytes that are made up at the
/// first call.
///
/// For a [`Listener`](crate::Listener) and those who [`connect`](crate::connect) to it from this
/// process or its relatives.
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

/// Notes the key of an address, for those who learn of the address alone: this process and the
/// children that it starts.
pub(crate) fn remember_key(address: &Address, key: &AuthKey) {
    forget_key(address);
    if key.bytes() != authkey().bytes() {
        ADDRESS_KEYS.lock().push((address.clone(), key.clone()));
    }
}

/// Forgets the key of an address where nobody listens any more.
pub(crate) fn forget_key(address: &Address) {
    ADDRESS_KEYS.lock().retain(|it| it.0 != *address);
}

/// The key of an address: that of this process unless another is known.
pub(crate) fn known_key(address: &Address) -> AuthKey {
    let keys = ADDRESS_KEYS.lock();
    let found = keys.iter().find(|it| it.0 == *address);
    found.map_or_else(authkey, |it| it.1.clone())
}

/// All that were noted, to hand them to a child of this process.
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
