//! Tokens and the administrator's one-time password: shown once, stored as keyed codes.

mod admin;
mod api;
mod text;

pub(crate) use self::text::{random_code, random_text};
pub use self::{
    admin::{ADMIN_USER, AdminPassword, SignIn},
    api::{ApiToken, IssuedToken, Role, TOKEN_NAME_BYTES_MAX, TOKEN_VALIDITY_MAX},
    text::{Kind, SECRET_CHARACTERS, TokenText},
};
