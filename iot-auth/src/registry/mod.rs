//! Products, homes, units from CSV, claim tokens, claims, and the ends of keys and units.
//!
//! Every change is decided by pure functions over what was read, and committed with checks that make the decision hold against
//! any race, together with its audit entry. Every refusal is an audit entry of its own.

mod claim;
mod claim_token;
mod import;
mod places;
mod units;

pub use self::{
    claim::{Claim, ClaimRefusal, Claimed},
    claim_token::{CLAIM_USES_MAX, CLAIM_VALIDITY_DEFAULT, CLAIM_VALIDITY_MAX, ClaimToken, IssuedClaimToken},
    import::{CSV_BYTES_MAX, CSV_ROWS_MAX, Import, ImportError, ImportErrorKind},
    places::{NAME_BYTES_MAX, Put},
    units::{KeysRevoked, Moved},
};
