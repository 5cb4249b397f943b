//! Releases: signed manifests and their images.

use askama::Template;
use axum::extract::{Multipart, State, multipart::Field};
use iot_core::{
    access::Permission,
    problem::{Cursor, Problem},
    store::MetaStoreExt,
    time::Timestamp,
};
use iot_http::{Doc, Guard, Identity, ProblemResponse, Query, Routes};
use iot_ota::{
    release::{Refused, SIGNED_BYTES_MAX, SignedRelease},
    server::{Created, RELEASES_MAX, ReleaseRecord, ReleaseState},
};
use serde::Deserialize;

use super::{
    Console, form,
    page::{Answer, Shell, Wrong, invalid, page, see},
    sign_in::sentence,
};

/// Releases of a page.
const ROWS: u32 = 50;
/// What a form adds to the file that it sends.
pub(super) const FORM_BYTES: usize = 16 * 1_024;

pub(super) fn routes(routes: Routes<Console>) -> Routes<Console> {
    let (manage, read) = (Guard::Tenant(Permission::ManageReleases), Guard::Tenant(Permission::ReadDevice));
    let take = form("Take a signed release in").body_limit(2 * SIGNED_BYTES_MAX + FORM_BYTES);
    routes.get("/releases", read, Doc::new("Releases"), list).post("/releases", manage, take, create)
}

/// A release, for lists and forms.
pub(super) struct ReleaseShown {
    pub(super) id: String,
    pub(super) product: String,
    pub(super) version: String,
    pub(super) state: &'static str,
    /// `good`, `open` or nothing.
    pub(super) kind: &'static str,
    pub(super) can_go: bool,
    pub(super) size: String,
    pub(super) notes: String,
}

impl ReleaseShown {
    pub(super) fn of(release: &ReleaseRecord, now: Timestamp) -> Self {
        let is_over = release.expires <= now;
        let (state, kind) = match release.state {
            ReleaseState::Withdrawn => ("withdrawn", ""),
            _ if is_over => ("expired", ""),
            ReleaseState::Uploading => ("no image yet", "open"),
            ReleaseState::Ready => ("ready", "good"),
            _ => ("", ""),
        };
        Self {
            id: release.id.to_string(),
            product: release.product.to_string(),
            version: release.version.to_string(),
            state,
            kind,
            can_go: release.state == ReleaseState::Ready && !is_over,
            size: size(release.size_bytes),
            notes: release.notes.clone(),
        }
    }
}

/// Bytes as people read them.
pub(super) fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    match bytes {
        0..1_024 => format!("{bytes} bytes"),
        1_024..1_048_576 => format!("{} KiB", super::show::number(bytes as f64 / 1_024.0)),
        _ => format!("{} MiB", super::show::number(bytes as f64 / 1_048_576.0)),
    }
}

#[derive(Default, Deserialize)]
pub(super) struct View {
    cursor: Option<String>,
    done: Option<String>,
}

#[derive(Template)]
#[template(path = "releases.html")]
struct ReleasesPage {
    shell: Shell,
    rows: Vec<ReleaseShown>,
    /// Where the next page is; empty after the last.
    next: String,
    /// The product for which nobody has said whose signatures count, after a refusal for that.
    untrusted: String,
    wrong: Wrong,
}

pub(super) async fn list(State(console): State<Console>, who: Identity, Query(view): Query<View>) -> Answer {
    let shown = compose(&console, &who, view).await?;
    Ok(page(&shown))
}

async fn compose(console: &Console, who: &Identity, view: View) -> Result<ReleasesPage, ProblemResponse> {
    let (tenant, now) = (who.principal.tenant.as_str(), console.now());
    let shell = Shell::of(console, who, "rollouts", "Releases").await?.noticing(view.done.as_deref());
    let after = view.cursor.as_deref().and_then(Cursor::decode);
    let found = console.meta().page::<ReleaseRecord>("tenant", tenant, after.as_ref(), ROWS).await?;
    let next = found.next.map(|cursor| format!("/releases?cursor={}", cursor.encode())).unwrap_or_default();
    let mut releases: Vec<ReleaseRecord> = found.items.into_iter().map(|stored| stored.document).collect();
    releases.sort_by_key(|release| std::cmp::Reverse(release.created));
    let rows = releases.iter().map(|release| ReleaseShown::of(release, now)).collect();
    Ok(ReleasesPage { shell, rows, next, untrusted: String::new(), wrong: Wrong::default() })
}

/// The next part of a form that is a file; `None` if none was chosen.
pub(super) async fn file<'a>(form: &'a mut Multipart, name: &str) -> Result<Option<Field<'a>>, ProblemResponse> {
    let field = form.next_field().await.map_err(|_| broken())?;
    Ok(field.filter(|field| field.name() == Some(name) && field.file_name().is_some_and(|file| !file.is_empty())))
}

/// A form that broke off, or is none.
pub(super) fn broken() -> ProblemResponse {
    Problem::invalid("body_invalid", "the form broke off, or is too large; send it again").into()
}

pub(super) async fn create(State(console): State<Console>, who: Identity, mut form: Multipart) -> Answer {
    let (mut untrusted, bytes) = (
        String::new(),
        match file(&mut form, "manifest").await? {
            Some(field) => Some(field.bytes().await.map_err(|_| broken())?),
            None => None,
        },
    );
    let what = match bytes.as_deref().map(SignedRelease::parse) {
        None => "Choose the file with the signed release.".to_owned(),
        Some(Err(refused)) => format!("This is no signed release: {refused}."),
        Some(Ok(signed)) => match console.ota.create_release(&who.principal, &signed).await? {
            Created::Done(release) => return Ok(see(&format!("/releases/{}?done=release", release.id))),
            Created::AlreadyThere(release) => return Ok(see(&format!("/releases/{}?done=known", release.id))),
            Created::Refused(refused @ Refused::Signatures { .. }) => {
                format!("{} Sign it with keys that the product trusts.", sentence(&refused))
            }
            Created::Refused(refused) => sentence(&refused),
            Created::Expired => "The release has expired already; sign it with a later end.".to_owned(),
            Created::NoTrust(product) => {
                let what = format!("Nobody has said yet whose signatures count for {product}.");
                untrusted = product.to_string();
                what
            }
            Created::SequenceTaken(sequence) => {
                format!("Another release of the product has sequence {sequence}; sign it with a higher one.")
            }
            Created::TooMany => format!("A product has at most {RELEASES_MAX} releases."),
        },
    };
    let shown = compose(&console, &who, View::default()).await?;
    Ok(invalid(&ReleasesPage { untrusted, wrong: Wrong::default().with("manifest", what), ..shown }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_few_digits() {
        assert_eq!([size(0), size(1_023), size(1_024), size(300_000)], ["0 bytes", "1023 bytes", "1 KiB", "293 KiB"]);
        assert_eq!([size(1_048_576), size(268_435_456)], ["1 MiB", "256 MiB"]);
    }
}
