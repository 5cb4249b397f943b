//! What the lane of sessions is asked for.

use std::collections::BTreeSet;

use iot_core::{
    session::{SessionEpoch, SessionId},
    store::{Closing, Due, Fenced, Offered, Opened, Opening, Publication, Settlement, StoredSubscription},
};

use crate::codec;

/// What a row needs beside a message, about.
const ROW_BYTES: usize = 100;

pub(in crate::postgres) enum Job {
    Open(Opening),
    /// A step of the session's present epoch; nothing if it has another one or is gone.
    Fenced(SessionId, SessionEpoch, Step),
    Offer(Vec<Offer>),
    Settle(Vec<Settlement>),
}

pub(in crate::postgres) enum Step {
    Close(Closing),
    Subscribe(Vec<StoredSubscription>),
    Unsubscribe(Vec<String>),
    Discharge(Due),
}

/// A publication with its message in the form in which it is stored.
pub(in crate::postgres) struct Offer {
    pub(super) publication: Publication,
    pub(super) body: Vec<u8>,
}

pub(in crate::postgres) enum Answer {
    Opened(Opened),
    Fenced(Fenced),
    Offered(Vec<Offered>),
    Settled,
}

impl Offer {
    pub(super) fn new(publication: &Publication) -> Self {
        Self { body: codec::message(&publication.message), publication: publication.clone() }
    }
}

impl Job {
    /// How many bytes it writes, about.
    pub(super) fn weight(&self) -> usize {
        let offered = self.offers().iter().map(|offer| offer.body.len() + ROW_BYTES * (1 + offer.publication.to.len()));
        ROW_BYTES * (1 + self.settlements().len()) + offered.sum::<usize>()
    }

    /// The sessions that it looks at.
    pub(super) fn sessions<'a>(&'a self, found: &mut BTreeSet<&'a SessionId>) {
        match self {
            Self::Open(opening) => {
                found.insert(&opening.session);
            }
            Self::Fenced(session, ..) => {
                found.insert(session);
            }
            Self::Offer(offers) => {
                for Offer { publication, .. } in offers {
                    found.extend(publication.to.iter().map(|target| &target.session));
                    found.extend(publication.received.as_ref().map(|(sender, ..)| sender));
                }
            }
            Self::Settle(settlements) => found.extend(settlements.iter().map(|settlement| &settlement.session)),
        }
    }

    /// The session whose row it writes as a whole.
    pub(super) fn whole(&self) -> Option<&SessionId> {
        match self {
            Self::Open(opening) => Some(&opening.session),
            Self::Fenced(session, _, Step::Close(_) | Step::Discharge(_)) => Some(session),
            _ => None,
        }
    }

    pub(super) fn opened(&self) -> Option<&SessionId> {
        match self {
            Self::Open(opening) => Some(&opening.session),
            _ => None,
        }
    }

    pub(super) fn offers(&self) -> &[Offer] {
        match self {
            Self::Offer(offers) => offers,
            _ => &[],
        }
    }

    pub(super) fn settlements(&self) -> &[Settlement] {
        match self {
            Self::Settle(settlements) => settlements,
            _ => &[],
        }
    }

    /// How many rows it may number.
    pub(super) fn rows(&self) -> usize {
        let messages = self.offers().iter().filter(|offer| !offer.publication.to.is_empty()).count();
        messages + usize::from(self.opened().is_some())
    }
}
