//! A home's name, and how somebody or everybody leaves it.

use axum::extract::State;
use iot_core::{
    access::Permission,
    device::Device,
    home::{HOME_DEVICES_MAX, Home, Ruling},
    id::HomeId,
    problem::Problem,
    store::{MetaStoreExt, Stored},
};
use iot_http::{Doc, Form, Guard, Identity, Path, Person, ProblemResponse, Routes, Target};

use super::{
    Console,
    confirm::{self, Confirmed, Question},
    form,
    home::{self, NewName},
    homes::refusal,
    page::{Answer, Wrong, see},
    sign_in::person_name,
};

pub(super) fn routes(routes: Routes<Console>) -> Routes<Console> {
    let (manage, own) = (Guard::Home(Permission::ManageHome), Guard::Home(Permission::OwnHome));
    routes
        .post("/homes/{home}", manage, form("Rename a home"), rename)
        // Of the account: one whose access has ended may still leave.
        .get("/homes/{home}/leave", Guard::Account, Doc::new("Leave a home?"), ask_leave)
        .post("/homes/{home}/leave", Guard::Account, form("Leave a home"), leave)
        .get("/homes/{home}/dissolve", own, Doc::new("Dissolve a home?"), ask_dissolve)
        .post("/homes/{home}/dissolve", own, form("Dissolve a home"), dissolve)
}

pub(super) async fn rename(
    State(console): State<Console>,
    who: Identity,
    Target(stored): Target<Home>,
    Form(asked): Form<NewName>,
) -> Answer {
    let what = match person_name(&asked.name) {
        Err(what) => what,
        Ok(name) => match console.auth.rename_home(&who.principal, &stored.document.id, name).await? {
            Ruling::Changed(home) => return Ok(see(&format!("/homes/{}?done=renamed", home.id))),
            Ruling::Refused(why) => refusal(why)?,
        },
    };
    home::refused(&console, &who, stored.document, asked, Wrong::default().with("name", what)).await
}

/// The home, if the person is in it or was; to others it is as if it were not there.
async fn left_by(console: &Console, person: &Person, id: &HomeId) -> Result<Question, ProblemResponse> {
    let found = console.meta().find::<Home>(&Home::key_of(&person.principal.tenant, id)).await?;
    let found = found.map(|stored| stored.document).filter(|home| home.member(&person.account).is_some());
    let home = found.ok_or_else(Problem::forbidden)?;
    let mut ends = vec!["You see and control nothing in it any more.".to_owned()];
    if let Ruling::Changed(after) = home.leave(&person.account) {
        let others = home.members.len() - after.members.len() - 1;
        if others > 0 {
            ends.push(format!("So do those whom you have let in ({others})."));
        }
    }
    Ok(Question {
        section: "homes",
        asks: format!("Leave {}?", home.name),
        from: (format!("/homes/{id}"), home.name),
        ends,
        stays: vec!["The home, its devices and its other members.".to_owned()],
        action: format!("/homes/{id}/leave"),
        seen: String::new(),
        button: "Leave",
    })
}

#[derive(serde::Deserialize)]
pub(super) struct HomePath {
    home: HomeId,
}

pub(super) async fn ask_leave(
    State(console): State<Console>,
    who: Identity,
    person: Person,
    Path(HomePath { home }): Path<HomePath>,
) -> Answer {
    let question = left_by(&console, &person, &home).await?;
    confirm::ask(&console, &who, question).await
}

pub(super) async fn leave(
    State(console): State<Console>,
    who: Identity,
    person: Person,
    Path(HomePath { home }): Path<HomePath>,
) -> Answer {
    match console.auth.leave_home(&person.principal, &home).await? {
        Ruling::Changed(_) => Ok(see("/homes?done=left")),
        Ruling::Refused(why) => {
            let why = refusal(why)?;
            let question = left_by(&console, &person, &home).await?;
            confirm::refuse(&console, &who, question, why).await
        }
    }
}

async fn dissolution(console: &Console, stored: &Stored<Home>) -> Result<Question, ProblemResponse> {
    let home = &stored.document;
    let place = format!("{}/{}", home.tenant, home.id);
    let devices = console.meta().page::<Device>("home", &place, None, HOME_DEVICES_MAX).await?.items.len();
    let mut ends =
        vec![format!("Members: all {} lose their access, and open invitations are void.", home.members.len())];
    if devices > 0 {
        ends.push(format!(
            "Devices: all {devices} are released. Their history, settings and waiting commands of your time are gone for \
             you and for whoever binds them next."
        ));
    }
    ends.push("Webhooks of this home get nothing any more.".to_owned());
    Ok(Question {
        section: "homes",
        asks: format!("Dissolve {}?", home.name),
        from: (format!("/homes/{}", home.id), home.name.clone()),
        ends,
        stays: vec!["The devices work, and can be bound again with the code that they show.".to_owned()],
        action: format!("/homes/{}/dissolve", home.id),
        seen: stored.version.to_string(),
        button: "Dissolve the home",
    })
}

pub(super) async fn ask_dissolve(State(console): State<Console>, who: Identity, Target(home): Target<Home>) -> Answer {
    let question = dissolution(&console, &home).await?;
    confirm::ask(&console, &who, question).await
}

pub(super) async fn dissolve(
    State(console): State<Console>,
    who: Identity,
    Target(home): Target<Home>,
    Form(confirmed): Form<Confirmed>,
) -> Answer {
    let question = dissolution(&console, &home).await?;
    if !confirmed.is_of(home.version) {
        return confirm::stale(&console, &who, question).await;
    }
    match console.auth.dissolve_home(&who.principal, &home.document.id).await? {
        Ruling::Changed(_) => Ok(see("/homes?done=dissolved")),
        Ruling::Refused(why) => confirm::refuse(&console, &who, question, refusal(why)?).await,
    }
}
