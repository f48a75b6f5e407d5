//! Signs tokens so that others can check them: RS256, with the public key in the key set.
//!
//! Source: RFC 7515, RFC 7517, RFC 7518

use std::fmt;
use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// One key per process: generating it is slow, so emulators without a data folder share it.
static OF_PROCESS: OnceLock<String> = OnceLock::new();

pub(super) struct Signer {
    key: KeyPair,
    id: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Generates a key, in its stored form. Slow.
fn generate() -> Option<String> {
    let key = KeyPair::generate(KeySize::Rsa2048).ok()?;
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&key).ok()?;
    Some(BASE64_STANDARD.encode(der.as_ref()))
}

impl Signer {
    /// Uses the stored key, or that of the process if it is empty; returns the key in its stored form. Can be slow.
    pub(super) fn new(kept: &str) -> std::io::Result<(Self, String)> {
        let kept = if kept.is_empty() {
            OF_PROCESS
                .get_or_init(|| generate().unwrap_or_default())
                .clone()
        } else {
            kept.to_owned()
        };
        let unusable = || std::io::Error::other("the key that signs tokens cannot be made or read");
        let der = BASE64_STANDARD.decode(&kept).map_err(|_| unusable())?;
        let key = KeyPair::from_pkcs8(&der).map_err(|_| unusable())?;
        let mut signer = Self {
            key,
            id: String::new(),
        };
        let (modulus, _) = signer.public();
        signer.id =
            BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(modulus).get(..15).unwrap_or_default());
        Ok((signer, kept))
    }

    /// Modulus and exponent, encoded for a key set.
    fn public(&self) -> (String, String) {
        let key = self.key.public_key();
        let encoded = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        (
            encoded(key.modulus().big_endian_without_leading_zero()),
            encoded(key.exponent().big_endian_without_leading_zero()),
        )
    }

    /// The key set of the discovery document.
    pub(super) fn key_set(&self) -> Value {
        let (n, e) = self.public();
        json!({ "keys": [{ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.id, "n": n, "e": e }] })
    }

    /// A signed token with these claims. None if it cannot be signed.
    pub(super) fn token(&self, claims: &Value) -> Option<String> {
        let encoded = |text: String| BASE64_URL_SAFE_NO_PAD.encode(text);
        // Some clients expect this prefix: the algorithm comes first.
        let header = format!(r#"{{"alg":"RS256","kid":"{}","typ":"JWT"}}"#, self.id);
        let signed = format!("{}.{}", encoded(header), encoded(claims.to_string()));
        let mut signature = vec![0; self.key.public_modulus_len()];
        let random = SystemRandom::new();
        self.key
            .sign(
                &RSA_PKCS1_SHA256,
                &random,
                signed.as_bytes(),
                &mut signature,
            )
            .ok()?;
        Some(format!(
            "{signed}.{}",
            BASE64_URL_SAFE_NO_PAD.encode(signature)
        ))
    }
}
