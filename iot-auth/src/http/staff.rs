use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use iot_core::{
    access::Permission,
    id::AccountId,
    problem::{Cursor, Problem},
};
use iot_http::{Body, Doc, Guard, Idempotency, Identity, Items, PageQuery, Path, Routes, identity::Connection};
use serde_json::json;

use super::{
    account_shapes::{AccountShown, DisabledAsked, FirstAdmin, StaffAsked},
    accounts::{Refusal, deleted, email, export_doc, exported, password},
    checked_name,
};
use crate::{
    account::{NAME_BYTES_MAX, StaffCreated, StaffSet},
    auth::Auth,
};

pub(super) fn register(routes: Routes<Arc<Auth>>) -> Routes<Arc<Auth>> {
    let manage = Guard::Tenant(Permission::ManageAccounts);
    let account = json!({
        "id": "mfrggzdfmztwq2lk", "email": "ann@example.org", "name": "Ann", "staff": "admin", "disabled": false,
        "created": "2026-11-23T00:00:00Z",
    });
    let first_doc = Doc::new("Make the first administrator's account, by the one-time password")
        .request(json!({
            "one_time_password": "gezdgnbvgy3tqojqgezdgnbvgy3tqojq", "email": "ann@example.org",
            "password": "correct horse", "name": "Ann",
        }))
        .response(201, json!({ "account": "mfrggzdfmztwq2lk" }))
        // The one-time password works once whatever the key says.
        .idempotency(Idempotency::Natural);
    let list_doc = Doc::new("Accounts").paged().response(200, json!({ "items": [account], "next": null }));
    let disable_doc =
        Doc::new("Shut an account out, or let it in").request(json!({ "disabled": true })).response(200, account);
    let show_doc = Doc::new("What an account is to the vendor").response(200, json!({ "role": "operator" }));
    let set_doc = Doc::new("Make an account one of the vendor's people, or (null) end that")
        .request(json!({ "role": "operator" }))
        .response(200, json!({ "role": "operator" }));
    routes
        .post("/v1/accounts/first", Guard::Public { why: "the one-time password is the credential" }, first_doc, first)
        .get("/v1/accounts", manage, list_doc, list)
        .put("/v1/accounts/{account}", manage, disable_doc, disable)
        .delete(
            "/v1/accounts/{account}",
            manage,
            Doc::new("Delete an account that owns no home").response(204, serde_json::Value::Null),
            delete,
        )
        .get("/v1/accounts/{account}/export", manage, export_doc(), export)
        .get("/v1/accounts/{account}/staff", manage, show_doc, show)
        .put("/v1/accounts/{account}/staff", manage, set_doc, set)
}

async fn first(
    State(auth): State<Arc<Auth>>,
    connection: Connection,
    Body(asked): Body<FirstAdmin>,
) -> Result<impl IntoResponse, Refusal> {
    if !connection.is_private() {
        return Err(Problem::new(403, "unencrypted", "do this over TLS, or from the machine itself").into());
    }
    let (email, password) = (email(&asked.email)?, password(&asked.password)?);
    let name = checked_name(&asked.name, NAME_BYTES_MAX)?;
    let from = connection.peer.ip();
    match auth.create_staff(&asked.one_time_password, &email, &password, name, from).await? {
        StaffCreated::Done(account) => Ok((StatusCode::CREATED, Json(json!({ "account": account })))),
        StaffCreated::Refused => {
            Err(Problem::new(401, "credentials_invalid", "the one-time password is wrong or was used").into())
        }
        StaffCreated::EmailTaken => Err(Problem::conflict("email_taken", "this address has an account").into()),
    }
}

async fn list(State(auth): State<Arc<Auth>>, who: Identity, page: PageQuery) -> Result<Items<AccountShown>, Refusal> {
    let found = auth.accounts(&who.principal, page.after.as_ref(), page.limit).await?;
    let mut items = Vec::with_capacity(found.items.len());
    for account in found.items {
        let email = auth.email_of(&account.document).await?;
        items.push(AccountShown::of(account.document, &email));
    }
    Ok(Items { items, next: found.next.as_ref().map(Cursor::encode) })
}

async fn disable(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Path(account): Path<AccountId>,
    Body(asked): Body<DisabledAsked>,
) -> Result<Json<AccountShown>, Refusal> {
    done(auth.set_disabled(&who.principal, &account, asked.disabled).await?)?;
    let account = auth.account(&who.principal, &account).await?.ok_or_else(|| Problem::not_found("account"))?;
    let email = auth.email_of(&account).await?;
    Ok(Json(AccountShown::of(account, &email)))
}

async fn delete(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Path(account): Path<AccountId>,
) -> Result<StatusCode, Refusal> {
    deleted(&auth, &who.principal, &account).await
}

async fn export(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Path(account): Path<AccountId>,
) -> Result<Response, Refusal> {
    exported(&auth, &who.principal, &account).await
}

async fn show(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Path(account): Path<AccountId>,
) -> Result<Json<StaffAsked>, Refusal> {
    let account = auth.account(&who.principal, &account).await?.ok_or_else(|| Problem::not_found("account"))?;
    Ok(Json(StaffAsked { role: account.staff }))
}

async fn set(
    State(auth): State<Arc<Auth>>,
    who: Identity,
    Path(account): Path<AccountId>,
    Body(asked): Body<StaffAsked>,
) -> Result<Json<StaffAsked>, Refusal> {
    done(auth.set_staff(&who.principal, &account, asked.role).await?)?;
    Ok(Json(asked))
}

fn done(answer: StaffSet) -> Result<(), Refusal> {
    match answer {
        StaffSet::Done => Ok(()),
        StaffSet::NoSuchAccount => Err(Problem::not_found("account").into()),
        StaffSet::OwnHand => Err(Problem::conflict("own_hand", "another administrator must do this").into()),
        StaffSet::NotPermitted => Err(Problem::forbidden().into()),
    }
}
