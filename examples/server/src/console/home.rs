//! One home: its devices, its members, its invitations.

use std::time::Duration;

use askama::Template;
use axum::extract::State;
use iot_auth::{
    binding::{BindAsked, Bound},
    home::{INVITE_VALIDITY_DEFAULT, InviteAsked, Invited},
};
use iot_core::{
    access::{Permission, Resource, Subject, check},
    binding::BindRefusal,
    device::Device,
    home::{HOME_DEVICES_MAX, Home, Invite, Member, Role, Ruling},
    id::{AccountId, InviteId},
    problem::Problem,
    secret::Secret,
    store::MetaStoreExt,
    time::Timestamp,
};
use iot_http::{Form, Identity, Path, ProblemResponse, Query, Target, identity::Connection};
use qrcodegen::{QrCode, QrCodeEcc};
use serde::Deserialize;

use super::{
    Console,
    devices::Row,
    homes::{refusal, role_word},
    page::{Answer, Shell, Wrong, account_name, invalid, page, secret, see},
    show::Moment,
};

#[derive(Deserialize)]
pub(super) struct View {
    done: Option<String>,
}

#[derive(Template)]
#[template(path = "home.html")]
struct HomePage {
    shell: Shell,
    id: String,
    name: String,
    devices: Vec<Row>,
    members: Vec<MemberShown>,
    /// Whether these are all members, and not the reader alone.
    sees_all: bool,
    invites: Vec<InviteShown>,
    may_manage: bool,
    may_bind: bool,
    is_in: bool,
    /// Whether the reader is the owner.
    is_owner: bool,
    /// Where its webhooks are, for those who may see them.
    may_webhooks: bool,
    /// The name as it was sent.
    asked: NewName,
    issued: Option<Issued>,
    wrong: Wrong,
}

/// The form for a name.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct NewName {
    #[serde(default)]
    pub(super) name: String,
}

struct MemberShown {
    account: String,
    name: String,
    role: &'static str,
    ends: Option<Moment>,
    is_over: bool,
    is_reader: bool,
    may_change: bool,
}

struct InviteShown {
    id: String,
    role: &'static str,
    uses_left: u32,
    ends: Moment,
}

/// A code, shown this once.
struct Issued {
    code: String,
    role: &'static str,
    /// The length of a side of the QR code, its margin included.
    side: i32,
    /// Its dark squares, as the path of an SVG.
    path: String,
    ends: Moment,
}

pub(super) async fn show(
    State(console): State<Console>,
    who: Identity,
    Target(home): Target<Home>,
    Query(view): Query<View>,
) -> Answer {
    let shown = compose(&console, &who, home.document, view.done.as_deref()).await?;
    Ok(page(&shown))
}

async fn compose(
    console: &Console,
    who: &Identity,
    home: Home,
    done: Option<&str>,
) -> Result<HomePage, ProblemResponse> {
    let (tenant, now) = (&who.principal.tenant, console.now());
    let shell = Shell::of(console, who, "homes", &*home.name).await?.noticing(done);
    let may = |permission| check(&who.grants, permission, &Resource::home(tenant, &home.id), now).allow;
    let reader = reader_of(who);
    let place = format!("{tenant}/{}", home.id);
    let found = console.meta().page::<Device>("home", &place, None, HOME_DEVICES_MAX).await?;
    let mut members = Vec::with_capacity(home.members.len());
    // A guest sees who they are here, and nobody else.
    let sees_all = may(Permission::ReadHome);
    for member in home.members.iter().filter(|member| sees_all || reader == Some(&member.account)) {
        members.push(member_shown(console, &home, member, reader, now).await?);
    }
    // Only a member acts for a home: the vendor's people look on.
    let is_in = reader.is_some_and(|reader| home.role_of(reader, now).is_some());
    Ok(HomePage {
        shell,
        devices: found.items.into_iter().map(|stored| Row::of(console, stored.document)).collect(),
        members,
        sees_all,
        invites: open_invites(&home, now),
        may_manage: is_in && may(Permission::ManageHome),
        may_bind: is_in && may(Permission::Bind),
        is_in,
        is_owner: reader.is_some_and(|reader| home.role_of(reader, now) == Some(Role::Owner)),
        may_webhooks: may(Permission::ManageWebhooks),
        asked: NewName { name: home.name.clone() },
        issued: None,
        wrong: Wrong::default(),
        id: home.id.to_string(),
        name: home.name,
    })
}

/// Which account reads, if it is one.
pub(super) fn reader_of(who: &Identity) -> Option<&AccountId> {
    match &who.principal.subject {
        Subject::Account { account, .. } => Some(account),
        _ => None,
    }
}

/// The page with a name that could not be given.
pub(super) async fn refused(console: &Console, who: &Identity, home: Home, asked: NewName, wrong: Wrong) -> Answer {
    let shown = compose(console, who, home, None).await?;
    Ok(invalid(&HomePage { asked, wrong, ..shown }))
}

async fn member_shown(
    console: &Console,
    home: &Home,
    member: &Member,
    reader: Option<&AccountId>,
    now: Timestamp,
) -> Result<MemberShown, ProblemResponse> {
    let end = home.end_of(member);
    let role = reader.and_then(|reader| home.role_of(reader, now));
    Ok(MemberShown {
        account: member.account.to_string(),
        name: account_name(console, &home.tenant, &member.account).await?,
        role: role_word(member.role),
        ends: (end < Timestamp::MAX).then(|| Moment::of(end, now)),
        is_over: end <= now,
        is_reader: reader == Some(&member.account),
        may_change: role.is_some_and(|role| role.may_grant(member.role)),
    })
}

/// Those that somebody can still accept.
fn open_invites(home: &Home, now: Timestamp) -> Vec<InviteShown> {
    let open = home.invites.iter().filter(|invite| invite.uses_left > 0 && invite.expires > now);
    open.map(|invite| invite_shown(invite, now)).collect()
}

fn invite_shown(invite: &Invite, now: Timestamp) -> InviteShown {
    InviteShown {
        id: invite.id.to_string(),
        role: role_word(invite.role),
        uses_left: invite.uses_left,
        ends: Moment::of(invite.expires, now),
    }
}

/// The form for an invitation.
#[derive(Deserialize)]
pub(super) struct NewInvite {
    role: Role,
    /// For how long the access lasts, in seconds; empty for ever.
    #[serde(default)]
    access: String,
    #[serde(default)]
    uses: String,
}

/// The code is in this answer and nowhere else, so that there is no page to be sent to.
pub(super) async fn invite(
    State(console): State<Console>,
    who: Identity,
    Target(home): Target<Home>,
    Form(asked): Form<NewInvite>,
) -> Answer {
    let now = console.now();
    let Some(uses) = asked.uses.trim().parse().ok().filter(|uses| (1..=32).contains(uses)) else {
        let shown = compose(&console, &who, home.document, None).await?;
        return Ok(invalid(&HomePage { wrong: Wrong::default().with("uses", "Give a number from 1 to 32."), ..shown }));
    };
    let access_expires = asked.access.parse().ok().map(|seconds| now.plus(Duration::from_secs(seconds)));
    let asked = InviteAsked { role: asked.role, valid: INVITE_VALIDITY_DEFAULT, access_expires, uses };
    match console.auth.invite(&who.principal, &home.document.id, &asked).await? {
        Invited::Done(issued) => {
            let (side, path) = squares(issued.uri.expose());
            let issued = Issued {
                code: issued.code.expose().to_owned(),
                role: role_word(issued.invite.role),
                side,
                path,
                ends: Moment::of(issued.invite.expires, now),
            };
            let home = again(&console, &home.document).await?;
            let shown = compose(&console, &who, home, None).await?;
            Ok(page(&HomePage { issued: Some(issued), ..shown }))
        }
        Invited::Refused(why) => {
            let wrong = Wrong::default().with("role", refusal(why)?);
            let shown = compose(&console, &who, home.document, None).await?;
            Ok(invalid(&HomePage { wrong, ..shown }))
        }
    }
}

async fn again(console: &Console, home: &Home) -> Result<Home, ProblemResponse> {
    let found = console.meta().find::<Home>(&Home::key_of(&home.tenant, &home.id)).await?;
    Ok(found.ok_or_else(|| Problem::not_found("home"))?.document)
}

/// A QR code: the length of its side with a margin of four, and its dark squares as a path.
fn squares(text: &str) -> (i32, String) {
    const MARGIN: i32 = 4;
    let Ok(code) = QrCode::encode_text(text, QrCodeEcc::Medium) else { return (0, String::new()) };
    let places = (0..code.size()).flat_map(|y| (0..code.size()).map(move |x| (x, y)));
    let dark = places.filter(|(x, y)| code.get_module(*x, *y));
    let path = dark.map(|(x, y)| format!("M{},{}h1v1h-1z", x + MARGIN, y + MARGIN)).collect();
    (code.size() + 2 * MARGIN, path)
}

#[derive(Deserialize)]
pub(super) struct InvitePath {
    invite: InviteId,
}

pub(super) async fn withdraw(
    State(console): State<Console>,
    who: Identity,
    Target(home): Target<Home>,
    Path(InvitePath { invite }): Path<InvitePath>,
) -> Answer {
    let home = home.document.id;
    settled(&console.auth.withdraw_invite(&who.principal, &home, &invite).await?)?;
    Ok(see(&format!("/homes/{home}?done=withdrawn")))
}

fn settled(ruling: &Ruling) -> Result<(), ProblemResponse> {
    match ruling {
        Ruling::Changed(_) => Ok(()),
        Ruling::Refused(why) => Err(Problem::conflict(why.code(), refusal(*why)?).into()),
    }
}

#[derive(Deserialize)]
pub(super) struct NewDevice {
    #[serde(deserialize_with = "secret")]
    code: Secret,
}

pub(super) async fn bind(
    State(console): State<Console>,
    connection: Connection,
    who: Identity,
    Target(home): Target<Home>,
    Form(asked): Form<NewDevice>,
) -> Answer {
    let asked = BindAsked { code: Some(asked.code), home: home.document.id.clone(), device: None, p_code: None };
    let what = match console.auth.bind(&who.principal, &asked, connection.peer.ip()).await? {
        Bound::Done(device) => return Ok(see(&format!("/devices/{}?done=bound", device.id))),
        Bound::Refused(BindRefusal::Forbidden) => return Err(Problem::forbidden().into()),
        Bound::Refused(why) => bind_refusal(why),
    };
    let shown = compose(&console, &who, home.document, None).await?;
    Ok(invalid(&HomePage { wrong: Wrong::default().with("code", what), ..shown }))
}

fn bind_refusal(why: BindRefusal) -> &'static str {
    match why {
        BindRefusal::CodeRequired => "Put the device into binding mode and type the code that it shows.",
        BindRefusal::CodeMismatch => "No device shows this code. Check it; codes change every two minutes.",
        BindRefusal::CodeUsed => "This code was used already; have the device show a new one.",
        BindRefusal::CodeExpired => "This code is too old; have the device show a new one.",
        BindRefusal::CodeSuperseded => "The device shows a newer code; use that one.",
        BindRefusal::AlreadyBound => "The device has an owner, who must release it first.",
        BindRefusal::DevicesFull => "The home has as many devices as it can have.",
        BindRefusal::Throttled => "Too many wrong codes; wait ten minutes.",
        _ => "The device cannot be bound.",
    }
}
