use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, RETRY_AFTER, USER_AGENT},
    },
    response::{IntoResponse, Response},
};
use iot_core::{
    access::Principal,
    id::{AccountId, LoginId},
    problem::Problem,
};
use iot_http::{Body, Doc, Guard, Idempotency, Path, Person, ProblemResponse, Routes, identity::Connection};
use serde_json::{Value, json};

use super::{
    account_shapes::{
        AccountShown, Confirmation, LogInAsked, LoginShown, NameAsked, NewAccount, NewPassword, RefreshAsked,
        ResetConfirmed, ResetWanted, SignedInShown, VerifyAsked,
    },
    checked_name,
};
use crate::{
    account::{
        Deleted, EmailAddress, LoggedIn, NAME_BYTES_MAX, Password, PasswordChanged, Refreshed, Registered, ResetDone,
        SignedIn, Verified,
    },
    auth::Auth,
};

const CREDENTIALS: Guard = Guard::Public { why: "the password or the refresh token is the credential" };
const ANYBODY: Guard = Guard::Public { why: "who has no account yet, or has lost the password, has no credential" };
const CODE: Guard = Guard::Public { why: "the mailed code is the credential" };

pub(super) fn register(routes: Routes<Arc<Auth>>) -> Routes<Arc<Auth>> {
    let own = Guard::Account;
    let signed_in = json!({
        "account": "mfrggzdfmztwq2lk", "login": "nnswy3dpeb3w64tm",
        "access_token": "ua_nnswy3dpeb3w64tm_AQAAAAE…", "access_expires": "2026-11-23T00:15:00Z",
        "refresh_token": "ur_nnswy3dpeb3w64tm_gezdgnbvgy3tqojqgezdgnbvgy3tqojqgezdgnbvgy3tqojqgezd",
        "expires": "2026-12-23T00:00:00Z",
    });
    let account = json!({
        "id": "mfrggzdfmztwq2lk", "email": "ann@example.org", "name": "Ann", "staff": null, "disabled": false,
        "created": "2026-11-23T00:00:00Z",
    });
    let confirmation = json!({ "confirmation": "orugs4zanfzsa5dp" });
    // None of these is kept by its key: strangers must not fill the store, and what repeats does no harm.
    let open = |summary| Doc::new(summary).idempotency(Idempotency::Natural);
    let register_doc =
        open("Register; a code is mailed. The answer is the same whether or not the address has an account")
            .request(json!({ "email": "ann@example.org", "password": "correct horse", "name": "Ann" }))
            .response(202, confirmation.clone());
    let verify_doc = open("Have the account, by the mailed code")
        .request(json!({ "confirmation": "orugs4zanfzsa5dp", "code": "mfrg-gzdf" }))
        .response(201, json!({ "account": "mfrggzdfmztwq2lk" }));
    let login_doc = open("Sign in")
        .request(json!({ "email": "ann@example.org", "password": "correct horse", "label": "Ann's phone" }))
        .response(200, signed_in.clone());
    let refresh_doc = open("Exchange a refresh token for the next pair")
        .request(json!({ "refresh_token": signed_in["refresh_token"] }))
        .response(200, signed_in.clone());
    let reset_doc = open("Ask for a new password; a code is mailed if the address has an account")
        .request(json!({ "email": "ann@example.org" }))
        .response(202, confirmation);
    let confirm_doc = open("Set a new password by the mailed code; ends all sign-ins")
        .request(json!({ "confirmation": "orugs4zanfzsa5dp", "code": "mfrg-gzdf", "password": "better horse" }))
        .response(204, Value::Null);
    let logins_doc = Doc::new("Own sign-ins, the latest first").response(
        200,
        json!({ "items": [{
            "id": "nnswy3dpeb3w64tm", "label": "Ann's phone", "present": true, "created": "2026-11-23T00:00:00Z",
            "last_used": "2026-11-23T00:00:00Z", "expires": "2026-12-23T00:00:00Z",
        }], "next": null }),
    );
    let password_doc = Doc::new("Set another password; ends all sign-ins and begins one")
        .request(json!({ "present": "correct horse", "password": "better horse" }))
        .response(200, signed_in);
    routes
        .post("/v1/accounts", ANYBODY, register_doc, begin)
        .post("/v1/accounts/verify", CODE, verify_doc, verify)
        .post("/v1/login", CREDENTIALS, login_doc, log_in)
        .post("/v1/login/refresh", CREDENTIALS, refresh_doc, refresh)
        .delete("/v1/login", own, Doc::new("Sign out").response(204, Value::Null), log_out)
        .get("/v1/logins", own, logins_doc, logins)
        .delete("/v1/logins", own, Doc::new("Sign out everywhere").response(204, Value::Null), log_out_everywhere)
        .delete("/v1/logins/{login}", own, Doc::new("End one sign-in").response(204, Value::Null), end_login)
        .get("/v1/account", own, Doc::new("Own account").response(200, account.clone()), show)
        .put(
            "/v1/account",
            own,
            Doc::new("Be called otherwise").request(json!({ "name": "Ann" })).response(200, account),
            rename,
        )
        .delete("/v1/account", own, Doc::new("Delete the own account").response(204, Value::Null), delete)
        .get("/v1/account/export", own, export_doc(), export)
        .put("/v1/account/password", own, password_doc, change_password)
        .post("/v1/account/reset", ANYBODY, reset_doc, reset)
        .post("/v1/account/reset/confirm", CODE, confirm_doc, confirm_reset)
}

/// A problem, and when to come again where that is known.
pub(super) struct Refusal {
    problem: ProblemResponse,
    retry_after_s: Option<u64>,
}

impl<T: Into<ProblemResponse>> From<T> for Refusal {
    fn from(problem: T) -> Self {
        let problem = problem.into();
        let retry_after_s = (problem.0.code == "busy").then_some(1);
        Self { problem, retry_after_s }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.problem.into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

fn throttled(wait: std::time::Duration) -> Refusal {
    let problem = Problem::new(429, "throttled", "too many tries from this network; come again later");
    Refusal { problem: problem.into(), retry_after_s: Some(wait.as_secs().max(1)) }
}

fn credentials_invalid() -> Refusal {
    Problem::new(401, "credentials_invalid", "the address and the password do not belong together").into()
}

fn code_refused(expired: bool) -> Refusal {
    match expired {
        true => Problem::invalid("code_expired", "the code is too old; ask for another").into(),
        false => Problem::invalid("code_invalid", "the code is wrong or was used; ask for another").into(),
    }
}

/// Passwords travel encrypted, or not at all.
fn private(connection: Connection) -> Result<(), Refusal> {
    match connection.is_private() {
        true => Ok(()),
        false => Err(Problem::new(403, "unencrypted", "do this over TLS, or from the machine itself").into()),
    }
}

pub(super) fn email(text: &str) -> Result<EmailAddress, Refusal> {
    EmailAddress::parse(text).map_err(|error| Problem::invalid("email_invalid", error.to_string()).into())
}

pub(super) fn password(text: &iot_core::secret::Secret) -> Result<Password, Refusal> {
    Password::parse(text).map_err(|error| Problem::invalid("password_weak", error.to_string()).into())
}

/// The client's name for itself: what it says, or what its software says.
fn label(said: Option<String>, headers: &HeaderMap) -> String {
    let software = || headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    said.unwrap_or_else(software)
}

/// With tokens inside: no cache may keep it.
fn secret_answer(status: StatusCode, body: impl serde::Serialize) -> Response {
    (status, [(CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(body)).into_response()
}

fn signed_in(signed_in: SignedIn) -> Response {
    secret_answer(StatusCode::OK, SignedInShown::of(signed_in))
}

async fn begin(
    State(auth): State<Arc<Auth>>,
    connection: Connection,
    Body(asked): Body<NewAccount>,
) -> Result<Response, Refusal> {
    private(connection)?;
    let (email, password) = (email(&asked.email)?, password(&asked.password)?);
    let name = checked_name(&asked.name, NAME_BYTES_MAX)?;
    match auth.register(&email, &password, name, connection.peer.ip()).await? {
        Registered::Asked(confirmation) => Ok(secret_answer(StatusCode::ACCEPTED, Confirmation { confirmation })),
        Registered::Throttled(wait) => Err(throttled(wait)),
    }
}

async fn verify(
    State(auth): State<Arc<Auth>>,
    connection: Connection,
    Body(asked): Body<VerifyAsked>,
) -> Result<Response, Refusal> {
    private(connection)?;
    match auth.verify(&asked.confirmation, &asked.code, connection.peer.ip()).await? {
        Verified::Done(account) => Ok((StatusCode::CREATED, Json(json!({ "account": account }))).into_response()),
        Verified::EmailTaken => Err(Problem::conflict("email_taken", "this address has an account: sign in").into()),
        Verified::Expired => Err(code_refused(true)),
        Verified::Wrong => Err(code_refused(false)),
    }
}

async fn log_in(
    State(auth): State<Arc<Auth>>,
    connection: Connection,
    headers: HeaderMap,
    Body(asked): Body<LogInAsked>,
) -> Result<Response, Refusal> {
    private(connection)?;
    // An account has an address of the right shape: this tells nothing about others.
    let Ok(email) = EmailAddress::parse(&asked.email) else { return Err(credentials_invalid()) };
    let label = label(asked.label, &headers);
    match auth.log_in(&email, &asked.password, &label, connection.peer.ip()).await? {
        LoggedIn::Granted(granted) => Ok(signed_in(*granted)),
        LoggedIn::Refused => Err(credentials_invalid()),
        LoggedIn::Throttled(wait) => Err(throttled(wait)),
    }
}

async fn refresh(
    State(auth): State<Arc<Auth>>,
    connection: Connection,
    headers: HeaderMap,
    Body(asked): Body<RefreshAsked>,
) -> Result<Response, Refusal> {
    private(connection)?;
    let label = label(asked.label, &headers);
    match auth.refresh(&asked.refresh_token, &label, connection.peer.ip()).await? {
        Refreshed::Granted(granted) => Ok(signed_in(*granted)),
        Refreshed::Reused => {
            Err(Problem::new(401, "refresh_reused", "this refresh token was used before; sign in again").into())
        }
        Refreshed::Refused => Err(Problem::new(401, "credentials_invalid", "sign in again").into()),
    }
}

async fn log_out(State(auth): State<Arc<Auth>>, person: Person) -> Result<StatusCode, Refusal> {
    end(&auth, &person, &person.login).await
}

async fn end_login(
    State(auth): State<Arc<Auth>>,
    person: Person,
    Path(login): Path<LoginId>,
) -> Result<StatusCode, Refusal> {
    end(&auth, &person, &login).await
}

async fn end(auth: &Auth, person: &Person, login: &LoginId) -> Result<StatusCode, Refusal> {
    match auth.log_out(&person.principal, &person.account, login).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found("sign-in").into()),
    }
}

async fn log_out_everywhere(State(auth): State<Arc<Auth>>, person: Person) -> Result<StatusCode, Refusal> {
    match auth.log_out_everywhere(&person.principal, &person.account).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found("account").into()),
    }
}

async fn logins(State(auth): State<Arc<Auth>>, person: Person) -> Result<Json<Value>, Refusal> {
    let logins = auth.logins(&person.principal.tenant, &person.account).await?;
    let items: Vec<_> = logins.into_iter().map(|login| LoginShown::of(login, &person.login)).collect();
    Ok(Json(json!({ "items": items, "next": null })))
}

async fn show(State(auth): State<Arc<Auth>>, person: Person) -> Result<Json<AccountShown>, Refusal> {
    let account = auth.account(&person.principal, &person.account).await?;
    let account = account.ok_or_else(|| Problem::not_found("account"))?;
    let email = auth.email_of(&account).await?;
    Ok(Json(AccountShown::of(account, &email)))
}

async fn rename(
    State(auth): State<Arc<Auth>>,
    person: Person,
    Body(asked): Body<NameAsked>,
) -> Result<Json<AccountShown>, Refusal> {
    let name = checked_name(&asked.name, NAME_BYTES_MAX)?;
    match auth.rename_account(&person.principal, &person.account, name).await? {
        true => show(State(auth), person).await,
        false => Err(Problem::not_found("account").into()),
    }
}

/// What the document of an export looks like.
pub(super) fn export_doc() -> Doc {
    let at = "2026-11-23T00:00:00Z";
    Doc::new("All that is kept about the account, in one document; credentials are left out").response(
        200,
        json!({
            "format": 1, "exported": at,
            "account": {
                "id": "mfrggzdfmztwq2lk", "email": "ann@example.org", "name": "Ann", "verified": true, "staff": null,
                "disabled": false, "created": at,
            },
            "logins": [{"id": "nnswy3dpeb3w64tm", "label": "Ann's phone", "created": at, "last_used": at, "expires": at}],
            "homes": [{
                "id": "hill", "name": "Hill House", "role": "owner", "granted_by": null, "since": at, "expires": null,
                "invitations": [{"id": "i1", "role": "guest", "expires": at, "access_expires": null, "uses_left": 1}],
            }],
            "sessions": [{"client": "phone", "filters": ["d/lamp-1/up/#"], "keep_s": 3_600}],
            "audit": [{
                "at": at, "tenant": "default", "actor": "default/account/mfrggzdfmztwq2lk", "action": "account_export",
                "subject": "account:default/mfrggzdfmztwq2lk", "refused": null,
            }],
            "audit_complete": true,
        }),
    )
}

async fn export(State(auth): State<Arc<Auth>>, person: Person) -> Result<Response, Refusal> {
    exported(&auth, &person.principal, &person.account).await
}

pub(super) async fn exported(auth: &Auth, by: &Principal, account: &AccountId) -> Result<Response, Refusal> {
    match auth.export_account(by, account).await? {
        Some(export) => Ok(secret_answer(StatusCode::OK, export)),
        None => Err(Problem::not_found("account").into()),
    }
}

async fn delete(State(auth): State<Arc<Auth>>, person: Person) -> Result<StatusCode, Refusal> {
    deleted(&auth, &person.principal, &person.account).await
}

pub(super) async fn deleted(auth: &Auth, by: &Principal, account: &AccountId) -> Result<StatusCode, Refusal> {
    match auth.delete_account(by, account).await? {
        Deleted::Done => Ok(StatusCode::NO_CONTENT),
        Deleted::OwnsHomes => {
            Err(Problem::conflict("owns_homes", "its homes must be transferred or dissolved first").into())
        }
        Deleted::IsAdmin => Err(Problem::conflict("is_admin", "another administrator must end that first").into()),
        Deleted::NoSuchAccount => Err(Problem::not_found("account").into()),
    }
}

async fn change_password(
    State(auth): State<Arc<Auth>>,
    connection: Connection,
    headers: HeaderMap,
    person: Person,
    Body(asked): Body<NewPassword>,
) -> Result<Response, Refusal> {
    let new = password(&asked.password)?;
    let Person { principal, account, .. } = person;
    let (label, from) = (label(asked.label, &headers), connection.peer.ip());
    match auth.change_password(&principal, &account, &asked.present, &new, &label, from).await? {
        PasswordChanged::Done(granted) => Ok(signed_in(*granted)),
        // Not 401: the token that was sent is good.
        PasswordChanged::Wrong => {
            Err(Problem::new(403, "credentials_invalid", "the present password is another").into())
        }
        PasswordChanged::Throttled(wait) => Err(throttled(wait)),
    }
}

async fn reset(
    State(auth): State<Arc<Auth>>,
    connection: Connection,
    Body(asked): Body<ResetWanted>,
) -> Result<Response, Refusal> {
    private(connection)?;
    let asked = auth.begin_reset(email(&asked.email)?, connection.peer.ip())?;
    Ok(secret_answer(StatusCode::ACCEPTED, Confirmation { confirmation: asked.confirmation }))
}

async fn confirm_reset(
    State(auth): State<Arc<Auth>>,
    connection: Connection,
    Body(asked): Body<ResetConfirmed>,
) -> Result<StatusCode, Refusal> {
    private(connection)?;
    let new = password(&asked.password)?;
    match auth.confirm_reset(&asked.confirmation, &asked.code, &new, connection.peer.ip()).await? {
        ResetDone::Done => Ok(StatusCode::NO_CONTENT),
        ResetDone::Expired => Err(code_refused(true)),
        ResetDone::Wrong => Err(code_refused(false)),
    }
}
