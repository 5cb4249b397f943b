use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header::CACHE_CONTROL},
    response::{IntoResponse, Response},
};
use iot_core::{
    access::Permission,
    home::{Home, Invite, Member, Role},
    id::{AccountId, HomeId, InviteId},
    problem::Problem,
    secret::Secret,
    time::Timestamp,
};
use iot_http::{
    Body, Doc, Guard, Identity, Items, Path, Person, ProblemResponse, Routes, Target, identity::Connection,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    homes::{changed, problem},
    shapes::secret,
};
use crate::{
    auth::Auth,
    home::{INVITE_USES_MAX, INVITE_VALIDITY_DEFAULT, INVITE_VALIDITY_MAX, InviteAsked, Invited},
};

pub(super) fn register(routes: Routes<Arc<Auth>>) -> Routes<Arc<Auth>> {
    let (read, manage) = (Guard::Home(Permission::ReadHome), Guard::Home(Permission::ManageHome));
    let member = json!({
        "account": "mfrggzdfmztwq2lk", "role": "guest", "granted_by": "orsxg5baon2w24dx",
        "since": "2026-11-23T00:00:00Z", "expires": "2026-11-30T00:00:00Z",
    });
    let issued = json!({
        "id": "gezdgnbvgy3tqojq", "role": "guest", "by": "orsxg5baon2w24dx", "expires": "2026-11-24T00:00:00Z",
        "access_expires": "2026-11-30T00:00:00Z", "uses_left": 1,
        "code": "1PFX-9QYS-2M4N-0T7K-C3VB-8ZGH-5D",
        "uri": "iot-invite:1PFX-9QYS-2M4N-0T7K-C3VB-8ZGH-5D",
    });
    let mut listed = issued.clone();
    for field in ["code", "uri"] {
        listed.as_object_mut().map(|invite| invite.remove(field));
    }
    let list = |summary, item: &Value| Doc::new(summary).response(200, json!({ "items": [item], "next": null }));
    let role_doc = Doc::new("Make a member something else, until `expires`")
        .request(json!({ "role": "guest", "expires": "2026-11-30T00:00:00Z" }))
        .response(200, member.clone());
    let remove_doc = Doc::new("Remove a member, with all whom they have let in").response(204, Value::Null);
    let invite_doc = Doc::new("Invite to a home; this answer is the only one that shows the code")
        .request(json!({ "role": "guest", "valid_s": 86_400, "access_expires": "2026-11-30T00:00:00Z", "uses": 1 }))
        .response(201, issued);
    let withdraw_doc = Doc::new("Withdraw an invitation").response(204, Value::Null);
    let accept_doc = Doc::new("Accept an invitation by its code, or by the text of its QR code")
        .request(json!({ "code": "1PFX-9QYS-2M4N-0T7K-C3VB-8ZGH-5D" }))
        .response(200, json!({ "home": "h1", "name": "Hill House", "role": "guest", "expires": null }));
    routes
        .get("/v1/homes/{home}/members", read, list("Members of a home", &member), members)
        .put("/v1/homes/{home}/members/{account}", manage, role_doc, set_role)
        .delete("/v1/homes/{home}/members/{account}", manage, remove_doc, remove)
        .get("/v1/homes/{home}/invites", manage, list("Open invitations", &listed), invites)
        .post("/v1/homes/{home}/invites", manage, invite_doc, invite)
        .delete("/v1/homes/{home}/invites/{invite}", manage, withdraw_doc, withdraw)
        .post("/v1/invites/accept", Guard::Account, accept_doc, accept)
}

#[derive(Serialize)]
struct MemberShown {
    account: AccountId,
    role: Role,
    granted_by: Option<AccountId>,
    since: Timestamp,
    expires: Option<Timestamp>,
}

impl MemberShown {
    /// `expires` is when the access ends, by whichever grant it hangs on.
    fn of(home: &Home, member: &Member) -> Self {
        let Member { account, role, granted_by, since, .. } = member.clone();
        let expires = home.tuple_of(&account).and_then(|tuple| tuple.expires);
        Self { account, role, granted_by, since, expires }
    }
}

#[derive(Serialize)]
struct InviteShown {
    id: InviteId,
    role: Role,
    by: AccountId,
    expires: Timestamp,
    access_expires: Option<Timestamp>,
    uses_left: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
}

impl InviteShown {
    fn of(invite: Invite) -> Self {
        let Invite { id, role, by, expires, access_expires, uses_left, .. } = invite;
        Self { id, role, by, expires, access_expires, uses_left, code: None, uri: None }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleAsked {
    role: Role,
    expires: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InviteBody {
    role: Role,
    valid_s: Option<u64>,
    access_expires: Option<Timestamp>,
    #[serde(default = "one")]
    uses: u32,
}

fn one() -> u32 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Accepting {
    #[serde(deserialize_with = "secret")]
    code: Secret,
}

#[derive(Serialize)]
struct Accepted {
    home: HomeId,
    name: String,
    role: Option<Role>,
    expires: Option<Timestamp>,
}

#[derive(Deserialize)]
struct MemberPath {
    account: AccountId,
}

#[derive(Deserialize)]
struct InvitePath {
    invite: InviteId,
}

async fn members(Target(home): Target<Home>) -> Items<MemberShown> {
    let home = home.document;
    let items = home.members.iter().map(|member| MemberShown::of(&home, member)).collect();
    Items { items, next: None }
}

async fn set_role(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Target(home): Target<Home>,
    Path(MemberPath { account }): Path<MemberPath>,
    Body(asked): Body<RoleAsked>,
) -> Result<Json<MemberShown>, ProblemResponse> {
    let id = &home.document.id;
    let home = changed(auth.set_role(&who.principal, id, &account, asked.role, asked.expires).await?)?;
    let member = home.member(&account).ok_or_else(|| Problem::not_found("member"))?;
    Ok(Json(MemberShown::of(&home, member)))
}

async fn remove(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Target(home): Target<Home>,
    Path(MemberPath { account }): Path<MemberPath>,
) -> Result<StatusCode, ProblemResponse> {
    changed(auth.remove_member(&who.principal, &home.document.id, &account).await?)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn invites(Target(home): Target<Home>) -> Items<InviteShown> {
    Items { items: home.document.invites.into_iter().map(InviteShown::of).collect(), next: None }
}

async fn invite(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Target(home): Target<Home>,
    Body(asked): Body<InviteBody>,
) -> Result<Response, ProblemResponse> {
    let valid = asked.valid_s.map_or(INVITE_VALIDITY_DEFAULT, Duration::from_secs);
    if valid.is_zero() || valid > INVITE_VALIDITY_MAX {
        let detail = format!("valid_s: from 1 to {}", INVITE_VALIDITY_MAX.as_secs());
        return Err(Problem::invalid("body_invalid", detail).into());
    }
    if !(1..=INVITE_USES_MAX).contains(&asked.uses) {
        return Err(Problem::invalid("body_invalid", format!("uses: from 1 to {INVITE_USES_MAX}")).into());
    }
    let InviteBody { role, access_expires, uses, .. } = asked;
    let asked = InviteAsked { role, valid, access_expires, uses };
    let issued = match auth.invite(&who.principal, &home.document.id, &asked).await? {
        Invited::Done(issued) => *issued,
        Invited::Refused(why) => return Err(problem(why).into()),
    };
    let (code, uri) = (Some(issued.code.expose().to_owned()), Some(issued.uri.expose().to_owned()));
    let shown = InviteShown { code, uri, ..InviteShown::of(issued.invite) };
    let mut response = (StatusCode::CREATED, Json(shown)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn withdraw(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Target(home): Target<Home>,
    Path(InvitePath { invite }): Path<InvitePath>,
) -> Result<StatusCode, ProblemResponse> {
    changed(auth.withdraw_invite(&who.principal, &home.document.id, &invite).await?)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn accept(
    State(auth): State<Arc<Auth>>,
    person: Person,
    connection: Connection,
    Body(asked): Body<Accepting>,
) -> Result<Json<Accepted>, ProblemResponse> {
    let ruling = auth.accept_invite(&person.principal, &asked.code, connection.peer.ip()).await?;
    let home = changed(ruling)?;
    let tuple = home.tuple_of(&person.account);
    let role = home.member(&person.account).map(|member| member.role);
    Ok(Json(Accepted { role, expires: tuple.and_then(|tuple| tuple.expires), home: home.id, name: home.name }))
}
