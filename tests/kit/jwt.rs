//! Who issues tokens: keys of every kind, tokens made of whatever text a test wants, and a server with the key set.

use super::origin::{reply, Origin, Step};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use jsonwebtoken::crypto::sign;
use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{KeyPair, SignatureAlgorithm};
use serde_json::{json, Value};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// The issuer of all tokens, unless a test says otherwise.
pub const ISSUER: &str = "https://id.example.com";

/// Base64url without padding.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Seconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// Claims of a good token, with these in their place; `null` takes one away.
pub fn claims(change: Value) -> Value {
    let mut claims =
        json!({"iss": ISSUER, "aud": "api", "sub": "user-1", "iat": now() - 5, "exp": now() + 600});
    for (name, value) in change.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

/// A key that signs tokens.
pub struct Signer {
    /// What it is called.
    pub kid: String,
    /// What it signs by.
    pub alg: Algorithm,
    key: EncodingKey,
    jwk: Value,
    /// The public key as PEM, or the secret.
    pub public: Vec<u8>,
}

impl Signer {
    fn new(kid: &str, alg: Algorithm, of: &'static SignatureAlgorithm) -> Signer {
        let pair = KeyPair::generate_for(of).unwrap();
        let (pem, raw) = (pair.serialize_pem(), pair.public_key_raw().to_vec());
        let (key, mut jwk) = match alg {
            Algorithm::ES256 | Algorithm::ES384 => {
                let (x, y) = raw[1..].split_at(raw.len() / 2);
                let curve = if alg == Algorithm::ES256 { "P-256" } else { "P-384" };
                let key = EncodingKey::from_ec_pem(pem.as_bytes()).unwrap();
                (key, json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)}))
            }
            Algorithm::EdDSA => {
                let key = EncodingKey::from_ed_pem(pem.as_bytes()).unwrap();
                (key, json!({"kty": "OKP", "crv": "Ed25519", "x": encode(&raw)}))
            }
            _ => {
                let (n, e) = rsa_numbers(&raw);
                let key = EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap();
                (key, json!({"kty": "RSA", "n": encode(n), "e": encode(e)}))
            }
        };
        jwk.as_object_mut().unwrap().insert("kid".to_owned(), kid.into());
        Signer { kid: kid.to_owned(), alg, key, jwk, public: pair.public_key_pem().into_bytes() }
    }

    /// RS256, with 2048 bits.
    pub fn rsa(kid: &str) -> Signer {
        Signer::new(kid, Algorithm::RS256, &rcgen::PKCS_RSA_SHA256)
    }

    /// ES256.
    pub fn ec(kid: &str) -> Signer {
        Signer::new(kid, Algorithm::ES256, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// ES384.
    pub fn p384(kid: &str) -> Signer {
        Signer::new(kid, Algorithm::ES384, &rcgen::PKCS_ECDSA_P384_SHA384)
    }

    /// EdDSA.
    pub fn ed(kid: &str) -> Signer {
        Signer::new(kid, Algorithm::EdDSA, &rcgen::PKCS_ED25519)
    }

    /// HS256 with this secret.
    pub fn secret(secret: &[u8]) -> Signer {
        let jwk = json!({"kty": "oct", "k": encode(secret)});
        let (key, public) = (EncodingKey::from_secret(secret), secret.to_vec());
        Signer { kid: "secret".to_owned(), alg: Algorithm::HS256, key, jwk, public }
    }

    /// The same key, signing by another algorithm.
    pub fn by(&self, alg: Algorithm) -> Signer {
        Signer {
            kid: self.kid.clone(),
            alg,
            key: self.key.clone(),
            jwk: self.jwk.clone(),
            public: self.public.clone(),
        }
    }

    /// Its public half (RFC 7517).
    pub fn jwk(&self) -> Value {
        self.jwk.clone()
    }

    /// The header of its tokens.
    pub fn header(&self) -> Value {
        json!({"alg": format!("{:?}", self.alg), "typ": "JWT", "kid": self.kid})
    }

    /// A token with these claims in the place of the usual ones.
    pub fn token(&self, change: Value) -> String {
        self.with_header(json!({}), change)
    }

    /// The same with these members in the header.
    pub fn with_header(&self, header: Value, change: Value) -> String {
        let mut all = self.header();
        for (name, value) in header.as_object().unwrap() {
            match value {
                Value::Null => all.as_object_mut().unwrap().remove(name),
                value => all.as_object_mut().unwrap().insert(name.clone(), value.clone()),
            };
        }
        self.sign(all.to_string(), claims(change).to_string())
    }

    /// A token of these very texts.
    pub fn sign(&self, header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>) -> String {
        self.sign_encoded(&encode(header), &encode(claims))
    }

    /// A token of what is encoded already.
    pub fn sign_encoded(&self, header: &str, claims: &str) -> String {
        let message = format!("{header}.{claims}");
        let signature = sign(message.as_bytes(), &self.key, self.alg).unwrap();
        format!("{message}.{signature}")
    }
}

/// The two numbers of an `RSAPublicKey` (RFC 8017 §A.1.1).
fn rsa_numbers(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    /// The content of a value and what follows it.
    fn value(der: &[u8]) -> (&[u8], &[u8]) {
        let (long, first) = (der[1] & 0x80 != 0, usize::from(der[1] & 0x7f));
        let (length, start) = match long {
            true => (der[2..2 + first].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), 2 + first),
            false => (first, 2),
        };
        der[start..].split_at(length)
    }
    let (n, rest) = value(value(der).0);
    let bare = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect();
    (bare(n), bare(value(rest).0))
}

/// A key set.
pub fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// A server with a key set.
pub struct Idp {
    /// The server itself.
    pub origin: Origin,
    answer: Arc<Mutex<Vec<Step>>>,
}

impl Idp {
    /// One with these keys.
    pub fn start(keys: &[&Signer]) -> Idp {
        let answer: Arc<Mutex<Vec<Step>>> = Arc::default();
        let says = Arc::clone(&answer);
        let origin = Origin::start(move |_| says.lock().unwrap().clone());
        let idp = Idp { origin, answer };
        idp.has(keys);
        idp
    }

    /// From now on it has these.
    pub fn has(&self, keys: &[&Signer]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        self.says(reply(200, &set(&keys)));
    }

    /// From now on it does this.
    pub fn says(&self, steps: Vec<Step>) {
        *self.answer.lock().unwrap() = steps;
    }

    /// Where the set is.
    pub fn url(&self) -> String {
        format!("{}/jwks.json", self.origin.url())
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.origin.received().len()
    }
}
