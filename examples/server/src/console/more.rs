//! What has no room in the navigation of a phone.

use askama::Template;
use axum::extract::State;
use iot_http::{Doc, Guard, Identity, Routes};

use super::{
    Console,
    page::{Answer, Shell, page},
};

pub(super) fn routes(routes: Routes<Console>) -> Routes<Console> {
    routes.get("/more", Guard::SignedIn, Doc::new("Further pages"), show)
}

#[derive(Template)]
#[template(path = "more.html")]
struct MorePage {
    shell: Shell,
}

pub(super) async fn show(State(console): State<Console>, who: Identity) -> Answer {
    Ok(page(&MorePage { shell: Shell::of(&console, &who, "more", "More").await? }))
}
