use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use iot_core::{
    access::{Permission, Resource, check},
    home::{Home, HomeRefusal, Role, Ruling},
    id::{AccountId, HomeId},
    problem::Problem,
    store::MetaStoreExt,
    time::Timestamp,
};
use iot_http::{Body, Doc, Guard, Identity, Items, PageQuery, Path, Person, ProblemResponse, Query, Routes, Target};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::checked_name;
use crate::{
    auth::Auth,
    home::{account_of, homes_of},
    registry::{NAME_BYTES_MAX, Put},
};

pub(super) fn register(routes: Routes<Arc<Auth>>) -> Routes<Arc<Auth>> {
    let shown = json!({ "id": "h1", "name": "Hill House", "owned": true, "role": "owner", "expires": null });
    let asked = json!({ "name": "Hill House" });
    let list_doc = Doc::new("Homes: an account's own, or all of the tenant for those who see its devices")
        .paged()
        .query("own", "`true`: only those that the asking account is in")
        .response(200, json!({ "items": [shown], "next": null }));
    let create_doc = Doc::new("Create a home of one's own").request(asked.clone()).response(201, shown.clone());
    let put_doc = Doc::new("Rename a home; for the vendor, also create one without an owner")
        .request(asked)
        .response(200, shown.clone())
        .response(201, shown.clone());
    let dissolve_doc = Doc::new("Dissolve a home and release its devices").response(204, Value::Null);
    let leave_doc = Doc::new("Leave a home, with all whom one has let in").response(204, Value::Null);
    let transfer_doc = Doc::new("Make a member the owner, and oneself a manager")
        .request(json!({ "account": "mfrggzdfmztwq2lk" }))
        .response(200, json!({ "id": "h1", "name": "Hill House", "owned": true, "role": "manager", "expires": null }));
    routes
        .get("/v1/homes", Guard::TenantOrAccount(Permission::ReadDevice), list_doc, list)
        .post("/v1/homes", Guard::Account, create_doc, create)
        .get("/v1/homes/{home}", Guard::Home(Permission::ReadDevice), Doc::new("A home").response(200, shown), show)
        // Of the tenant: it may be that the home does not exist yet.
        .put("/v1/homes/{home}", Guard::TenantOrAccount(Permission::ManageDevices), put_doc, put)
        .delete("/v1/homes/{home}", Guard::Home(Permission::OwnHome), dissolve_doc, dissolve)
        // Of the account: one whose access has ended may still leave.
        .post("/v1/homes/{home}/leave", Guard::Account, leave_doc, leave)
        .post("/v1/homes/{home}/transfer", Guard::Home(Permission::OwnHome), transfer_doc, transfer)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HomeAsked {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TransferAsked {
    account: AccountId,
}

#[derive(Deserialize)]
struct Which {
    #[serde(default)]
    own: bool,
}

#[derive(Serialize)]
struct HomeShown {
    id: HomeId,
    name: String,
    /// Whether people own it.
    owned: bool,
    /// What the asking account is to it.
    role: Option<Role>,
    /// Until when.
    expires: Option<Timestamp>,
}

impl HomeShown {
    fn of(home: Home, who: Option<&AccountId>) -> Self {
        let owned = home.owner().is_some();
        let role = who.and_then(|who| home.member(who)).map(|member| member.role);
        let expires = who.and_then(|who| home.tuple_of(who)).and_then(|tuple| tuple.expires);
        Self { id: home.id, name: home.name, owned, role, expires }
    }
}

async fn list(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    page: PageQuery,
    Query(which): Query<Which>,
) -> Result<Items<HomeShown>, ProblemResponse> {
    let (tenant, account) = (&who.principal.tenant, account_of(&who.principal));
    if which.own || !may(&auth, &who, Permission::ReadDevice) {
        let homes = match account {
            Some(account) => homes_of(&*auth.meta, tenant, account).await?,
            None => vec![],
        };
        let items = homes.into_iter().map(|home| HomeShown::of(home.document, account)).collect();
        return Ok(Items { items, next: None });
    }
    let found = auth.meta.page::<Home>("tenant", tenant.as_str(), page.after.as_ref(), page.limit).await?;
    Ok(Items::of(found, |stored| HomeShown::of(stored.document, account)))
}

/// Whether the principal has a permission on all of its tenant, by which it asks for the vendor.
fn may(auth: &Auth, who: &Identity, permission: Permission) -> bool {
    check(&who.grants, permission, &Resource::tenant(&who.principal.tenant), auth.now()).allow
}

async fn create(
    State(auth): State<Arc<Auth>>,
    person: Person,
    Body(asked): Body<HomeAsked>,
) -> Result<impl IntoResponse, ProblemResponse> {
    let name = checked_name(&asked.name, NAME_BYTES_MAX)?;
    let home = changed(auth.create_home(&person.principal, name).await?)?;
    Ok((StatusCode::CREATED, Json(HomeShown::of(home, Some(&person.account)))))
}

async fn show(who: Identity, Target(home): Target<Home>) -> Json<HomeShown> {
    Json(HomeShown::of(home.document, account_of(&who.principal)))
}

async fn put(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Path(id): Path<HomeId>,
    Body(asked): Body<HomeAsked>,
) -> Result<Response, ProblemResponse> {
    let name = checked_name(&asked.name, NAME_BYTES_MAX)?;
    let (by, account) = (&who.principal, account_of(&who.principal));
    let stored = auth.meta.find::<Home>(&Home::key_of(&by.tenant, &id)).await?.map(|stored| stored.document);
    let of_people = stored.is_some_and(|home| home.owner().is_some());
    if account.is_some() && (of_people || !may(&auth, &who, Permission::ManageDevices)) {
        let home = changed(auth.rename_home(by, &id, name).await?)?;
        return Ok(Json(HomeShown::of(home, account)).into_response());
    }
    let status = match auth.put_home(by, &id, name).await? {
        Put::Created => StatusCode::CREATED,
        Put::Replaced => StatusCode::OK,
        Put::Owned => return Err(Problem::forbidden().into()),
    };
    let home = Home::without_owner(by.tenant.clone(), id, name);
    Ok((status, Json(HomeShown::of(home, None))).into_response())
}

async fn dissolve(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Target(home): Target<Home>,
) -> Result<StatusCode, ProblemResponse> {
    changed(auth.dissolve_home(&who.principal, &home.document.id).await?)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn leave(
    State(auth): State<Arc<Auth>>,
    person: Person,
    Path(home): Path<HomeId>,
) -> Result<StatusCode, ProblemResponse> {
    changed(auth.leave_home(&person.principal, &home).await?)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn transfer(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Target(home): Target<Home>,
    Body(asked): Body<TransferAsked>,
) -> Result<Json<HomeShown>, ProblemResponse> {
    let home = changed(auth.transfer_home(&who.principal, &home.document.id, &asked.account).await?)?;
    Ok(Json(HomeShown::of(home, account_of(&who.principal))))
}

/// The home as it is now, or the problem that a refusal is.
pub(super) fn changed(ruling: Ruling) -> Result<Home, ProblemResponse> {
    match ruling {
        Ruling::Changed(home) => Ok(home),
        Ruling::Refused(why) => Err(problem(why).into()),
    }
}

pub(super) fn problem(why: HomeRefusal) -> Problem {
    let conflict = |detail: &'static str| Problem::conflict(why.code(), detail);
    let code = |detail: &'static str| Problem::new(403, why.code(), detail);
    match why {
        HomeRefusal::NoSuchMember => Problem::not_found("member"),
        HomeRefusal::NoSuchInvite => Problem::not_found("invitation"),
        HomeRefusal::AlreadyMember => conflict("this account is in the home already"),
        HomeRefusal::CodeMismatch => code("no open invitation has this code"),
        HomeRefusal::CodeExpired => code("the invitation has ended; ask for another"),
        HomeRefusal::CodeUsed => code("the invitation has been accepted; ask for another"),
        HomeRefusal::LastOwner => conflict("transfer the home to a member, or dissolve it"),
        HomeRefusal::MembersFull => conflict("the home has as many members as it can have"),
        HomeRefusal::InvitesFull => conflict("the home has as many open invitations as it can have; withdraw one"),
        HomeRefusal::HomesFull => conflict("this account is in as many homes as it can be in; leave one"),
        HomeRefusal::AlreadyOver => Problem::invalid("body_invalid", "the end that is asked for is past"),
        HomeRefusal::Throttled => Problem::new(429, why.code(), "too many wrong codes; wait ten minutes"),
        _ => Problem::forbidden(),
    }
}
