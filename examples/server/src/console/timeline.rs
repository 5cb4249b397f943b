//! What happened to a device, from all who know of it: the audit log, the node's connections, its commands.

use iot_core::{
    command::{CommandState, Receipt},
    device::Device,
    store::{Audit, Document, StoreError},
    time::Timestamp,
};

use super::{
    Console,
    audit::{self, Entry},
    page::name_of,
    show::Moment,
};

/// How many entries are shown, and taken from each source.
const ENTRIES: u32 = 40;

/// Something that happened.
pub(super) struct Happening {
    order: Timestamp,
    pub(super) at: Moment,
    pub(super) what: String,
    /// Why it was refused or failed; empty if it was not.
    pub(super) failed: String,
    pub(super) detail: String,
    /// Where more is said; empty if nowhere.
    pub(super) link: String,
}

/// What happened, newest first. Of the audit log as far as the reader may see it.
pub(super) async fn of(console: &Console, device: &Device, may_audit: bool) -> Result<Vec<Happening>, StoreError> {
    let now = console.now();
    let mut all = connections(console, device, now).await?;
    all.extend(commands(console, device, now).await?);
    if may_audit {
        all.extend(changes(console, device).await?);
    }
    all.sort_by_key(|happening| std::cmp::Reverse(happening.order));
    all.truncate(ENTRIES as usize);
    Ok(all)
}

async fn connections(console: &Console, device: &Device, now: Timestamp) -> Result<Vec<Happening>, StoreError> {
    let known = console.node.connections(device, ENTRIES as usize).await?;
    let happening = |presence: iot_conn::node::Presence| Happening {
        order: presence.since,
        at: Moment::of(presence.since, now),
        what: if presence.is_online() { "connected" } else { "disconnected" }.to_owned(),
        failed: String::new(),
        detail: presence.cause.unwrap_or_default().replace('_', " "),
        link: String::new(),
    };
    Ok(known.into_iter().map(happening).collect())
}

async fn commands(console: &Console, device: &Device, now: Timestamp) -> Result<Vec<Happening>, StoreError> {
    let known = console.node.commander().recent(&device.tenant, &device.id, ENTRIES as usize);
    let mut own = Vec::with_capacity(known.len());
    for receipt in known.into_iter().filter(|receipt| receipt.epoch == device.epoch) {
        let by = match &receipt.by {
            Some(sender) => name_of(console, &sender.principal(&device.tenant)).await?,
            None => "the cloud's logic".to_owned(),
        };
        own.push(command(&receipt, &format!("by {by}"), now));
    }
    Ok(own)
}

fn command(receipt: &Receipt, by: &str, now: Timestamp) -> Happening {
    let order = receipt.history.first().map(|(_, at)| *at).unwrap_or_default();
    let went_well = matches!(receipt.state, CommandState::Applied) || !receipt.state.is_final();
    let reason = receipt.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
    let state = format!("{}{reason}", receipt.state);
    Happening {
        order,
        at: Moment::of(order, now),
        what: format!("command {}", receipt.name),
        detail: if went_well { format!("{state}, {by}") } else { by.to_owned() },
        failed: if went_well { String::new() } else { state },
        link: format!("/devices/{}?command={}#command", receipt.device, receipt.id),
    }
}

async fn changes(console: &Console, device: &Device) -> Result<Vec<Happening>, StoreError> {
    let subject = device.key().to_string();
    let actor = format!("{}/device/{}", device.tenant, device.id);
    let about = |entry: &Audit| {
        let path = entry.subject.split(' ').nth(1).unwrap_or_default();
        entry.subject == subject || entry.actor == actor || path.split('/').any(|part| part == device.id.as_str())
    };
    let (found, _) = audit::look(console, &device.tenant, None, ENTRIES, about).await?;
    let times: Vec<Timestamp> = found.iter().map(|entry| entry.at).collect();
    let happening = |(entry, order): (Entry, Timestamp)| {
        let failed = if entry.refused.is_empty() { String::new() } else { format!("refused: {}", entry.refused) };
        Happening {
            order,
            at: entry.at,
            what: entry.action,
            failed,
            detail: format!("by {}", entry.actor),
            link: String::new(),
        }
    };
    let entries = audit::shown(console, &device.tenant, found).await?;
    Ok(entries.into_iter().zip(times).map(happening).collect())
}
