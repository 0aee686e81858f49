//! Why a request is not let in: nobody knows who asks, or they may not.

use super::token::TokenFault;

/// Why it is not known who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// Nothing came that could say.
    Missing,
    /// What came is not written as its kind is (RFC 7617 §2, RFC 6750 §2.1).
    Malformed,
    /// What may stand once stands there several times: none of them is chosen.
    Ambiguous,
    /// A key that no consumer has.
    UnknownKey,
    /// A key that a consumer had until its date.
    ExpiredKey,
    /// A name that no consumer has, or not with this password; never said which.
    BadPassword,
    /// A certificate that is no consumer's.
    UnknownCertificate,
    /// Credentials of different consumers, where all have to be one's.
    Contradiction,
    /// A token that is not believed.
    Token(TokenFault),
}

impl Denial {
    /// 401, or 400 where no other credentials would help.
    pub fn status(self) -> u16 {
        match self {
            Denial::Ambiguous => 400,
            _ => 401,
        }
    }

    /// For the log and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Denial::Missing => "auth_missing",
            Denial::Malformed => "auth_malformed",
            Denial::Ambiguous => "auth_ambiguous",
            Denial::UnknownKey => "auth_unknown_key",
            Denial::ExpiredKey => "auth_expired_key",
            Denial::BadPassword => "auth_bad_password",
            Denial::UnknownCertificate => "auth_unknown_certificate",
            Denial::Contradiction => "auth_contradiction",
            Denial::Token(fault) => fault.reason(),
        }
    }

    /// For who asked; nothing in it is a credential.
    pub fn detail(self) -> &'static str {
        match self {
            Denial::Missing => "Credentials are needed here, and there are none.",
            Denial::Malformed => "The credentials are not written as they should be.",
            Denial::Ambiguous => "Credentials that may stand once stand there several times.",
            Denial::UnknownKey => "Nobody has this key.",
            Denial::ExpiredKey => "This key has expired.",
            Denial::BadPassword => "The user name and the password do not go together.",
            Denial::UnknownCertificate => "This certificate is nobody's here.",
            Denial::Contradiction => "The credentials are those of different consumers.",
            Denial::Token(_) => "The token is not valid here.",
        }
    }
}

/// What somebody who is known does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// A group.
    Group,
    /// A scope of their token.
    Scope,
    /// A claim of their token.
    Claim,
    /// A consumer whom their token would name.
    Consumer,
}

impl Lack {
    /// For programs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Lack::Group => "auth_group",
            Lack::Scope => "auth_scope",
            Lack::Claim => "auth_claim",
            Lack::Consumer => "auth_unknown_consumer",
        }
    }

    /// For who asked.
    pub fn detail(self) -> &'static str {
        match self {
            Lack::Group => "Your groups do not allow this.",
            Lack::Scope => "The scopes of your token do not allow this.",
            Lack::Claim => "The claims of your token do not allow this.",
            Lack::Consumer => "Your token names nobody who is known here.",
        }
    }
}
