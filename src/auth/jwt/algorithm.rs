//! The algorithms of signatures that are spoken (RFC 7518 §3.1, RFC 8037 §3.1, RFC 9864 §2.2), and which keys they take.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    RsaParameters, VerificationAlgorithm, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED,
    ECDSA_P521_SHA512_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
};

/// One of them. `none` is no algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // by their registered names
pub enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

/// The names that a configuration and a token may have, each with what it means.
const NAMES: [(&str, Algorithm); 14] = [
    ("RS256", Algorithm::Rs256),
    ("RS384", Algorithm::Rs384),
    ("RS512", Algorithm::Rs512),
    ("PS256", Algorithm::Ps256),
    ("PS384", Algorithm::Ps384),
    ("PS512", Algorithm::Ps512),
    ("ES256", Algorithm::Es256),
    ("ES384", Algorithm::Es384),
    ("ES512", Algorithm::Es512),
    ("EdDSA", Algorithm::EdDsa),
    ("Ed25519", Algorithm::EdDsa),
    ("HS256", Algorithm::Hs256),
    ("HS384", Algorithm::Hs384),
    ("HS512", Algorithm::Hs512),
];

/// How a key has to look for an algorithm.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// `oct`.
    Secret(hmac::Algorithm),
    /// `RSA`.
    Rsa(&'static RsaParameters),
    /// `EC` on this curve, with so many bytes a coordinate.
    Curve(&'static str, usize),
    /// `OKP` on this curve.
    Edwards,
}

impl Algorithm {
    /// By its registered name, in its registered case.
    pub fn of(name: &str) -> Option<Algorithm> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    /// All names, for who has mistyped one.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }

    /// Whether it takes a secret that both sides have.
    pub fn is_symmetric(self) -> bool {
        matches!(self, Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512)
    }

    /// The fewest bytes of a secret (RFC 7518 §3.2): those of the hash.
    pub fn shortest_secret(self) -> usize {
        match self {
            Algorithm::Hs512 => 64,
            Algorithm::Hs384 => 48,
            _ => 32,
        }
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Algorithm::Hs256 => Kind::Secret(hmac::HMAC_SHA256),
            Algorithm::Hs384 => Kind::Secret(hmac::HMAC_SHA384),
            Algorithm::Hs512 => Kind::Secret(hmac::HMAC_SHA512),
            Algorithm::Rs256 => Kind::Rsa(&RSA_PKCS1_2048_8192_SHA256),
            Algorithm::Rs384 => Kind::Rsa(&RSA_PKCS1_2048_8192_SHA384),
            Algorithm::Rs512 => Kind::Rsa(&RSA_PKCS1_2048_8192_SHA512),
            Algorithm::Ps256 => Kind::Rsa(&RSA_PSS_2048_8192_SHA256),
            Algorithm::Ps384 => Kind::Rsa(&RSA_PSS_2048_8192_SHA384),
            Algorithm::Ps512 => Kind::Rsa(&RSA_PSS_2048_8192_SHA512),
            Algorithm::Es256 => Kind::Curve("P-256", 32),
            Algorithm::Es384 => Kind::Curve("P-384", 48),
            Algorithm::Es512 => Kind::Curve("P-521", 66),
            Algorithm::EdDsa => Kind::Edwards,
        }
    }

    /// What verifies signatures by a public point.
    pub(super) fn by_point(self) -> Option<&'static dyn VerificationAlgorithm> {
        match self {
            Algorithm::Es256 => Some(&ECDSA_P256_SHA256_FIXED),
            Algorithm::Es384 => Some(&ECDSA_P384_SHA384_FIXED),
            Algorithm::Es512 => Some(&ECDSA_P521_SHA512_FIXED),
            Algorithm::EdDsa => Some(&ED25519),
            _ => None,
        }
    }
}
