//! Sealed statements: what the controller tells itself through somebody else's hands.
//!
//! AES-256-GCM under a key that never leaves the controller. The additional data name what the
//! statement is for, so that a token of one kind is never taken for one of another. Nonces are
//! random: at one token per netboot the bound of 2^32 for one key is out of reach.

use metalcast_shared::{
    boot::{EnrolmentToken, ReportToken},
    codec,
};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Write;

/// Longest sealed text read, in characters; ours have under 200.
pub const MAX_SEALED_CHARS: usize = 1024;

const KEY_BYTES: usize = 32;

/// First byte of a sealed statement. Another construction gets another number.
const FORMAT: u8 = 1;

/// What a sealed type is for. Two types never share a purpose.
pub trait Purpose {
    /// Part of the additional authenticated data.
    const PURPOSE: &'static str;
}

impl Purpose for EnrolmentToken {
    const PURPOSE: &'static str = "metalcast enrolment token";
}

impl Purpose for ReportToken {
    const PURPOSE: &'static str = "metalcast report token";
}

/// Why a text is not a statement of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// Too long, or not base16, or of an unknown format.
    #[error("not a sealed token")]
    Form,
    /// Made by another controller, for another purpose, or altered.
    #[error("the token was not made here for this purpose")]
    Foreign,
    /// Authentic, but not a statement of this version.
    #[error("the token was made by another version")]
    Content(#[source] codec::CodecError),
}

/// The sealing key.
pub struct Seal {
    key: LessSafeKey,
    random: SystemRandom,
}

impl Seal {
    /// A new key as text.
    pub fn generate() -> anyhow::Result<String> {
        let mut key = [0; KEY_BYTES];
        SystemRandom::new()
            .fill(&mut key)
            .map_err(|_| anyhow::anyhow!("the system gave no randomness for the sealing key"))?;
        Ok(to_base16(&key) + "\n")
    }

    /// The key from its text.
    pub fn from_text(text: &str) -> anyhow::Result<Self> {
        let key = from_base16(text.trim_end())
            .filter(|key| key.len() == KEY_BYTES)
            .ok_or_else(|| anyhow::anyhow!("not {} base16 digits", 2 * KEY_BYTES))?;
        let key = UnboundKey::new(&AES_256_GCM, &key)
            .map_err(|_| anyhow::anyhow!("not a key for AES-256-GCM"))?;
        Ok(Self { key: LessSafeKey::new(key), random: SystemRandom::new() })
    }

    /// The statement as base16 text.
    pub fn seal<T: Serialize + Purpose>(&self, statement: &T) -> String {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).expect("Linux has randomness once the controller runs");
        let mut body = codec::encode(statement);
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                additional_data::<T>(),
                &mut body,
            )
            .expect("statements are far shorter than the limit of AES-GCM");
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + body.len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&body);
        to_base16(&sealed)
    }

    /// The statement in `text`.
    pub fn unseal<T: DeserializeOwned + Purpose>(&self, text: &str) -> Result<T, UnsealError> {
        if text.len() > MAX_SEALED_CHARS {
            return Err(UnsealError::Form);
        }
        let mut sealed = from_base16(text).ok_or(UnsealError::Form)?;
        let Some((&mut FORMAT, rest)) = sealed.split_first_mut() else {
            return Err(UnsealError::Form);
        };
        let Some((nonce, body)) = rest.split_first_chunk_mut::<NONCE_LEN>() else {
            return Err(UnsealError::Form);
        };
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let body = self
            .key
            .open_in_place(nonce, additional_data::<T>(), body)
            .map_err(|_| UnsealError::Foreign)?;
        codec::decode(body, MAX_SEALED_CHARS).map_err(UnsealError::Content)
    }
}

fn additional_data<T: Purpose>() -> Aad<&'static [u8]> {
    Aad::from(T::PURPOSE.as_bytes())
}

fn to_base16(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

fn from_base16(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    pairs.iter().map(|[high, low]| u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()).collect()
}
