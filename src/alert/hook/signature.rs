//! HMAC-SHA256. Source: RFC 2104.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// Bytes of a block of SHA-256.
const BLOCK: usize = 64;

/// The signature of a text by a key, in hexadecimal.
pub(super) fn sha256(key: &[u8], text: &[u8]) -> String {
    let mut block = [0_u8; BLOCK];
    let digest = Sha256::digest(key);
    let key = if key.len() > BLOCK { &digest[..] } else { key };
    for (to, from) in block.iter_mut().zip(key) {
        *to = *from;
    }
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new()
        .chain_update(padded(0x36))
        .chain_update(text)
        .finalize();
    let outer = Sha256::new()
        .chain_update(padded(0x5c))
        .chain_update(inner)
        .finalize();
    outer.iter().fold(String::new(), |mut hex, byte| {
        let _infallible = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: RFC 4231, test cases 2 and 6
    #[test]
    fn signatures_of_the_standard() {
        for (key, text, expected) in [
            (
                &b"Jefe"[..],
                &b"what do ya want for nothing?"[..],
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ] {
            assert_eq!(sha256(key, text), expected);
        }
    }
}
