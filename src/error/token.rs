//! Why a token is not believed.

/// What is wrong with a token. The operator finds it in the log and in metrics; who has sent the token is told no more than
/// that it is invalid (RFC 6750 §3.1), since each of these says something to who tries tokens out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFault {
    /// Longer than any token has to be.
    TooLong,
    /// Not three parts between dots, or a member of another type than it has to be (RFC 7515 §3.1).
    Malformed,
    /// Five parts: it is encrypted (RFC 7516), which is not read here.
    Encrypted,
    /// A part is not base64url as RFC 7515 §2 has it: without padding, without white space, without bits left over.
    Base64,
    /// Header or claims are not UTF-8.
    NotUtf8,
    /// Header or claims are not one JSON object.
    Json,
    /// A member stands twice in header or claims: two readers would read two tokens.
    DuplicateMember,
    /// `alg` is `none`, however that is spelt.
    AlgNone,
    /// `alg` is not one that the provider uses.
    AlgNotAllowed,
    /// `alg` takes a public key for a secret, or the other way round.
    AlgConfusion,
    /// There is such a key, and it is not one for this `alg`.
    KeyType,
    /// There is such a key, and it is too short to prove anything.
    KeyWeak,
    /// The header says where to find a key (`jku`).
    Jku,
    /// The header brings a key (`jwk`).
    Jwk,
    /// The header says where to find a certificate (`x5u`).
    X5u,
    /// The header brings a certificate (`x5c`).
    X5c,
    /// The header has extensions that must be understood, and none is (`crit`).
    Crit,
    /// The claims are not encoded (`b64`, RFC 7797).
    Unencoded,
    /// It is a token for something else (`typ`, RFC 8725 §3.11).
    Type,
    /// It is a token within a token (`cty`).
    Nested,
    /// It names no key, and there are too many to try all.
    KidMissing,
    /// The provider has no key of this name.
    KidUnknown,
    /// There is no signature.
    Unsigned,
    /// The signature is not by the key.
    Signature,
    /// Somebody else has issued it.
    Issuer,
    /// It is for somebody else.
    Audience,
    /// Its time is over (`exp`).
    Expired,
    /// Its time has not come (`nbf`).
    NotYet,
    /// It was issued in the future (`iat`).
    Future,
    /// A time is no number of seconds since 1970.
    Time,
    /// A claim that has to be there is not.
    ClaimMissing,
    /// A claim has not the value that it has to have.
    Claim,
    /// A claim that the upstream is told cannot be a field's value.
    Field,
}

impl TokenFault {
    /// For the log and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            TokenFault::TooLong => "jwt_too_long",
            TokenFault::Malformed => "jwt_malformed",
            TokenFault::Encrypted => "jwt_encrypted",
            TokenFault::Base64 => "jwt_base64",
            TokenFault::NotUtf8 => "jwt_not_utf8",
            TokenFault::Json => "jwt_json",
            TokenFault::DuplicateMember => "jwt_duplicate_member",
            TokenFault::AlgNone => "jwt_alg_none",
            TokenFault::AlgNotAllowed => "jwt_alg_not_allowed",
            TokenFault::AlgConfusion => "jwt_alg_confusion",
            TokenFault::KeyType => "jwt_key_type",
            TokenFault::KeyWeak => "jwt_key_weak",
            TokenFault::Jku => "jwt_jku",
            TokenFault::Jwk => "jwt_jwk",
            TokenFault::X5u => "jwt_x5u",
            TokenFault::X5c => "jwt_x5c",
            TokenFault::Crit => "jwt_crit",
            TokenFault::Unencoded => "jwt_unencoded",
            TokenFault::Type => "jwt_typ",
            TokenFault::Nested => "jwt_nested",
            TokenFault::KidMissing => "jwt_kid_missing",
            TokenFault::KidUnknown => "jwt_kid_unknown",
            TokenFault::Unsigned => "jwt_unsigned",
            TokenFault::Signature => "jwt_signature",
            TokenFault::Issuer => "jwt_issuer",
            TokenFault::Audience => "jwt_audience",
            TokenFault::Expired => "jwt_expired",
            TokenFault::NotYet => "jwt_not_yet",
            TokenFault::Future => "jwt_future",
            TokenFault::Time => "jwt_time",
            TokenFault::ClaimMissing => "jwt_claim_missing",
            TokenFault::Claim => "jwt_claim",
            TokenFault::Field => "jwt_field",
        }
    }
}
