//! One release: what was signed and by whom, its image, its end.

use askama::Template;
use axum::extract::{Multipart, State, multipart::Field};
use futures_util::{StreamExt, TryStreamExt, stream};
use iot_core::{access::Permission, id::ReleaseId, logic::BoxError, problem::Problem};
use iot_http::{Doc, Form, Guard, Identity, Path, ProblemResponse, Query, Routes};
use iot_ota::{
    release::{IMAGE_BYTES_MAX, SignedRelease, Trust, verify},
    server::{ReleaseRecord, ReleaseState, UploadError, Uploaded, Withdrawn},
};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{
    Console,
    confirm::{self, Confirmed, Question},
    form,
    page::{Answer, Shell, Wrong, invalid, page, see},
    releases::{FORM_BYTES, ReleaseShown, broken, file},
    show::Moment,
};

/// The most pieces of an image that wait between the form and the store.
const PIECES_WAITING_MAX: usize = 4;

pub(super) fn routes(routes: Routes<Console>) -> Routes<Console> {
    let (manage, read) = (Guard::Tenant(Permission::ManageReleases), Guard::Tenant(Permission::ReadDevice));
    let limit = usize::try_from(IMAGE_BYTES_MAX).unwrap_or(usize::MAX).saturating_add(FORM_BYTES);
    routes
        .get("/releases/{release}", read, Doc::new("A release"), show)
        .post("/releases/{release}/image", manage, form("Upload the image of a release").body_limit(limit), upload)
        .get("/releases/{release}/withdraw", manage, Doc::new("Withdraw a release?"), ask_withdraw)
        .post("/releases/{release}/withdraw", manage, form("Withdraw a release"), withdraw)
}

#[derive(Default, Deserialize)]
pub(super) struct View {
    done: Option<String>,
}

#[derive(Template)]
#[template(path = "release.html")]
struct ReleasePage {
    shell: Shell,
    release: ReleaseShown,
    sequence: u64,
    hardware: String,
    sha256: String,
    created: Moment,
    expires: Moment,
    is_waiting: bool,
    is_withdrawn: bool,
    trust: TrustShown,
    wrong: Wrong,
}

/// What the signatures are worth by the trust that the product has now.
struct TrustShown {
    /// Whether enough of the keys that count have signed it.
    holds: bool,
    /// How many keys must have signed; 0 if nobody has said whose signatures count.
    threshold: u8,
    keys: Vec<KeyShown>,
    /// Signatures of keys that do not count.
    others: usize,
}

struct KeyShown {
    id: String,
    signed: bool,
}

impl TrustShown {
    fn of(trust: Option<&Trust>, signed: &SignedRelease) -> Self {
        let Some(trust) = trust else {
            return Self { holds: false, threshold: 0, keys: Vec::new(), others: signed.signatures.len() };
        };
        let has_signed = |id| signed.signatures.iter().any(|one| one.key_id == id);
        let ids: Vec<_> = trust.keys().iter().map(iot_ota::release::PublicKey::id).collect();
        let keys = ids.iter().map(|id| KeyShown { id: short(&id.to_string()), signed: has_signed(*id) }).collect();
        let others = signed.signatures.iter().filter(|one| !ids.contains(&one.key_id)).count();
        Self { holds: verify(trust, signed).is_ok(), threshold: trust.threshold(), keys, others }
    }
}

fn short(digest: &str) -> String {
    format!("{}…", digest.get(..16).unwrap_or(digest))
}

async fn known(console: &Console, who: &Identity, id: &ReleaseId) -> Result<ReleaseRecord, ProblemResponse> {
    let found = console.ota.release(&who.principal, id).await?;
    found.ok_or_else(|| Problem::not_found("release").into())
}

pub(super) async fn show(
    State(console): State<Console>,
    who: Identity,
    Path(id): Path<ReleaseId>,
    Query(view): Query<View>,
) -> Answer {
    let shown = compose(&console, &who, &id, view).await?;
    Ok(page(&shown))
}

async fn compose(
    console: &Console,
    who: &Identity,
    id: &ReleaseId,
    view: View,
) -> Result<ReleasePage, ProblemResponse> {
    let (release, now) = (known(console, who, id).await?, console.now());
    let signed = console.ota.signed(&release).await?;
    let trust = console.ota.trust(&who.principal, &release.product).await?;
    let shown = ReleaseShown::of(&release, now);
    let title = format!("{} {}", shown.product, shown.version);
    let hardware: Vec<&str> = release.hardware.iter().map(iot_ota::release::Hardware::as_str).collect();
    Ok(ReleasePage {
        shell: Shell::of(console, who, "rollouts", title).await?.noticing(view.done.as_deref()),
        sequence: release.sequence,
        hardware: hardware.join(", "),
        sha256: release.sha256.to_string(),
        created: Moment::of(release.created, now),
        expires: Moment::of(release.expires, now),
        is_waiting: release.state == ReleaseState::Uploading,
        is_withdrawn: release.state == ReleaseState::Withdrawn,
        trust: TrustShown::of(trust.as_ref(), &signed),
        release: shown,
        wrong: Wrong::default(),
    })
}

pub(super) async fn upload(
    State(console): State<Console>,
    who: Identity,
    Path(id): Path<ReleaseId>,
    mut form: Multipart,
) -> Answer {
    let what = match file(&mut form, "image").await? {
        None => "Choose the file with the image.".to_owned(),
        Some(mut field) => {
            // The store takes a stream of its own, and the field is the form's.
            let (pieces, mut taken) = mpsc::channel(PIECES_WAITING_MAX);
            let bytes = stream::poll_fn(move |context| taken.poll_recv(context));
            let pass_on = async {
                let pieces = pieces;
                while let Some(piece) = field.next().await {
                    if pieces.send(piece.map_err(BoxError::from)).await.is_err() {
                        break;
                    }
                }
            };
            let (uploaded, ()) = tokio::join!(console.ota.upload(&who.principal, &id, bytes), pass_on);
            match uploaded {
                Ok(Uploaded::Done(_)) => return Ok(see(&format!("/releases/{id}?done=image"))),
                Ok(Uploaded::AlreadyThere(_)) => return Ok(see(&format!("/releases/{id}?done=known"))),
                Ok(Uploaded::NoSuchRelease) => return Err(Problem::not_found("release").into()),
                Err(UploadError::Ota(error)) => return Err(error.into()),
                Err(_) => return Err(broken()),
                Ok(Uploaded::Wrong(wrong)) => {
                    drain(field).await;
                    format!("This is not the file that was signed: {wrong}. Nothing was kept.")
                }
            }
        }
    };
    let shown = compose(&console, &who, &id, View::default()).await?;
    Ok(invalid(&ReleasePage { wrong: Wrong::default().with("image", what), ..shown }))
}

/// Reads the rest, which a browser sends before it looks at any answer. The route's limit bounds it.
async fn drain(field: Field<'_>) {
    // Whether it came to its end matters to nobody.
    let _end = field.try_for_each(async |_| Ok(())).await;
}

fn withdrawal(release: &ReleaseRecord) -> Question {
    Question {
        section: "rollouts",
        asks: format!("Withdraw {} {}?", release.product, release.version),
        from: (format!("/releases/{}", release.id), format!("{} {}", release.product, release.version)),
        ends: vec![
            "No device is offered it any more, and no link to its image works, also for those that load it now."
                .to_owned(),
            "It cannot be taken back: a later release must have a higher sequence.".to_owned(),
        ],
        stays: vec!["Devices that run it go on running it.".to_owned()],
        action: format!("/releases/{}/withdraw", release.id),
        seen: String::new(),
        button: "Withdraw the release",
    }
}

pub(super) async fn ask_withdraw(State(console): State<Console>, who: Identity, Path(id): Path<ReleaseId>) -> Answer {
    let release = known(&console, &who, &id).await?;
    confirm::ask(&console, &who, withdrawal(&release)).await
}

pub(super) async fn withdraw(
    State(console): State<Console>,
    who: Identity,
    Path(id): Path<ReleaseId>,
    Form(_): Form<Confirmed>,
) -> Answer {
    match console.ota.withdraw(&who.principal, &id).await? {
        Withdrawn::Done(_) => Ok(see(&format!("/releases/{id}?done=withdrawn-release"))),
        Withdrawn::NoSuchRelease => Err(Problem::not_found("release").into()),
    }
}
