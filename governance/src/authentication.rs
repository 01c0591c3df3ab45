//! Who is calling: users with passwords, services with bearer tokens, and anonymous where the configuration lets them in.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use townlake_common::config::AuthConfig;
use townlake_common::{Error, ErrorCode, Principal, Result, Secret};

use crate::passwords::Passwords;

/// The longest bearer token in bytes.
const LONGEST_TOKEN: usize = 4096;

/// The SHA-256 of a token in hexadecimal, for `token_hash` in the configuration.
///
/// One fast hash is enough for a token that a machine made: at least 32 random bytes cannot be guessed.
pub fn hash_token(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

/// Knows every user and service of the configuration.
pub struct Authenticator {
    passwords: Passwords,
    tokens: Vec<Token>,
    principals: BTreeMap<String, Principal>,
    admins: Vec<String>,
    anonymous: bool,
}

struct Token {
    hash: [u8; 32],
    principal: Principal,
}

impl Authenticator {
    /// Checks the section `[auth]`.
    ///
    /// Errors: `CONFIG_INVALID` for hashes that are none, names that are taken twice with different groups, and names that are
    /// also a group's: catalogs list users and groups in one list, so such a user would have the group's rights.
    pub fn new(config: &AuthConfig) -> Result<Self> {
        let mut principals = BTreeMap::new();
        if config.anonymous {
            add(&mut principals, Principal::anonymous())?;
        }
        for user in &config.users {
            add(&mut principals, named(&user.name, &user.groups)?)?;
        }
        let mut tokens = Vec::new();
        for token in &config.tokens {
            let principal = named(&token.name, &token.groups)?;
            add(&mut principals, principal.clone())?;
            tokens.push(Token { hash: token_hash(&token.name, &token.token_hash)?, principal });
        }
        refuse_names_of_groups(&principals)?;
        let passwords = Passwords::new(config.users.iter().map(|user| (user.name.as_str(), &user.password_hash)))?;
        Ok(Self { passwords, tokens, principals, admins: config.admins.clone(), anonymous: config.anonymous })
    }

    /// The user of this name and password.
    ///
    /// Errors: `UNAUTHENTICATED`, the same for an unknown user and a wrong password, after the same work;
    /// `RESOURCE_EXHAUSTED` (retryable) when too many passwords wait to be checked.
    pub async fn password(&self, user: &str, password: &str) -> Result<Principal> {
        let fits = self.passwords.fits(user, password).await?;
        match self.principals.get(user) {
            Some(principal) if fits => Ok(principal.clone()),
            _ => Err(unauthenticated("the user name or the password is wrong")),
        }
    }

    /// The service of this token. Takes the same time whichever token fits, or none.
    ///
    /// Errors: `UNAUTHENTICATED`.
    pub fn bearer(&self, token: &str) -> Result<Principal> {
        if token.len() > LONGEST_TOKEN {
            return Err(unauthenticated("the token is not known"));
        }
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = None;
        for candidate in &self.tokens {
            let fits: Choice = candidate.hash.ct_eq(&hash);
            if bool::from(fits) {
                found = Some(&candidate.principal);
            }
        }
        found.cloned().ok_or_else(|| unauthenticated("the token is not known"))
    }

    /// Who comes without credentials, where the configuration lets anyone in.
    pub fn anonymous(&self) -> Option<Principal> {
        self.anonymous.then(Principal::anonymous)
    }

    /// Whether the principal may see and end every query.
    pub fn is_admin(&self, principal: &Principal) -> bool {
        principal.is_any_of(&self.admins)
    }

    /// The principal of this name with the groups that it has now: for whoever proved the name already, with a session token.
    pub fn by_name(&self, name: &str) -> Option<Principal> {
        self.principals.get(name).cloned()
    }
}

fn named(name: &str, groups: &[String]) -> Result<Principal> {
    let plain = |text: &str| !text.is_empty() && text.len() <= 256 && !text.chars().any(char::is_control);
    if !plain(name) || !groups.iter().all(|group| plain(group)) {
        return Err(invalid(
            "auth: a user, token or group has an empty name or one that is not plain text".to_string(),
        ));
    }
    if name == Principal::anonymous().name {
        return Err(invalid("auth: the name `anonymous` is taken by those who come without credentials".to_string()));
    }
    Ok(Principal::new(name, groups.to_vec()))
}

/// A name may come back (a user who also has a token, two tokens while one is replaced), with the same groups.
fn add(principals: &mut BTreeMap<String, Principal>, principal: Principal) -> Result<()> {
    match principals.get(&principal.name) {
        Some(known) if known.groups != principal.groups => {
            Err(invalid(format!("auth: `{}` is listed twice, with different groups", principal.name)))
        }
        _ => {
            principals.insert(principal.name.clone(), principal);
            Ok(())
        }
    }
}

fn refuse_names_of_groups(principals: &BTreeMap<String, Principal>) -> Result<()> {
    let groups: BTreeSet<&String> = principals
        .values()
        .filter(|principal| **principal != Principal::anonymous())
        .flat_map(|principal| &principal.groups)
        .collect();
    match groups.into_iter().find(|group| principals.contains_key(*group)) {
        Some(name) => Err(invalid(format!("auth: `{name}` is the name of a user or token and of a group"))
            .with_hint("catalogs list users and groups together, so each name may mean one of them only")),
        None => Ok(()),
    }
}

fn token_hash(name: &str, hash: &Secret) -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(hash.expose(), &mut bytes).map_err(|_| {
        invalid(format!("auth.tokens: the token_hash of `{name}` is not 64 hexadecimal digits"))
            .with_hint("make one with `townlake hash-password --token`")
    })?;
    Ok(bytes)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::ConfigInvalid, message)
}

fn unauthenticated(message: &str) -> Error {
    Error::new(ErrorCode::Unauthenticated, message)
}

#[cfg(test)]
mod tests {
    use townlake_common::config::Config;

    use super::*;
    use crate::hash_password;

    fn auth(text: &str) -> Result<Authenticator> {
        Authenticator::new(&Config::from_toml(text)?.auth)
    }

    fn user(name: &str, groups: &str) -> String {
        let hash = hash_password("secret").unwrap();
        format!("[[auth.users]]\nname = {name:?}\npassword_hash = {hash:?}\ngroups = {groups}\n")
    }

    fn token(name: &str, token: &str, groups: &str) -> String {
        format!("[[auth.tokens]]\nname = {name:?}\ntoken_hash = \"{}\"\ngroups = {groups}\n", hash_token(token))
    }

    #[tokio::test]
    async fn knows_users_and_services() {
        let config = format!(
            "[auth]\nadmins = [\"ops\"]\n{}{}{}",
            user("ann", "[\"ops\"]"),
            token("ci", "old", "[]"),
            token("ci", "new", "[]")
        );
        let auth = auth(&config).unwrap();
        let ann = auth.password("ann", "secret").await.unwrap();
        assert_eq!((ann.name.as_str(), ann.groups.as_slice()), ("ann", ["ops".to_string()].as_slice()));
        assert!(auth.is_admin(&ann));
        assert_eq!(auth.by_name("ann"), Some(ann));
        for good in ["old", "new"] {
            let ci = auth.bearer(good).unwrap();
            assert!(ci.name == "ci" && !auth.is_admin(&ci));
        }
        let wrong = auth.password("ann", "guess").await.unwrap_err();
        let unknown = auth.password("nobody", "guess").await.unwrap_err();
        assert_eq!(wrong.to_wire(), unknown.to_wire(), "an answer does not tell who exists");
        assert_eq!(auth.password("ci", "old").await.unwrap_err().code(), ErrorCode::Unauthenticated);
        for bad in ["", "secret", "neww", &hash_token("new"), &"x".repeat(LONGEST_TOKEN + 1)] {
            assert_eq!(auth.bearer(bad).unwrap_err().code(), ErrorCode::Unauthenticated);
        }
        assert_eq!((auth.anonymous(), auth.by_name("anonymous")), (None, None));
    }

    #[test]
    fn anonymous_comes_in_only_where_it_may() {
        let auth = auth("[auth]\nanonymous = true\n").unwrap();
        assert_eq!(auth.anonymous(), Some(Principal::anonymous()));
        assert_eq!(auth.by_name("anonymous"), Some(Principal::anonymous()));
        assert!(!auth.is_admin(&Principal::anonymous()));
    }

    #[test]
    fn names_that_could_be_mistaken_are_refused() {
        let cases = [
            (user("anonymous", "[]"), "anonymous"),
            (user("", "[]"), "empty"),
            (user("ann", "[\"a\"]") + &token("ann", "t", "[\"b\"]"), "different groups"),
            (user("ann", "[\"ops\"]") + &token("ops", "t", "[]"), "of a group"),
            (user("ann", "[]") + &user("ann", "[]"), "twice"),
            ("[[auth.tokens]]\nname = \"ci\"\ntoken_hash = \"hunter2\"\n".to_string(), "64 hexadecimal"),
        ];
        for (config, why) in cases {
            let error = auth(&config).err().unwrap();
            assert_eq!(error.code(), ErrorCode::ConfigInvalid);
            assert!(error.message().contains(why) && !format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
