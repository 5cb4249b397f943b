//! Doing each command once: the engine that a device's firmware needs between its connection and its relays.
//!
//! A command may arrive twice: MQTT delivers at least once, and the cloud repeats what was not answered. The engine keeps
//! the reply to each command until the command expires. It keeps them in memory, as the simulated appliance keeps its
//! state; a device whose relays outlive its memory keeps both in flash.

use std::collections::{BTreeSet, HashMap};

use iot_core::{
    id::CommandId,
    payload::{CommandBody, ReplyBody, ReplyStatus},
    time::Monotonic,
};
use serde_json::Value;

/// The most commands whose replies are kept. The cloud lets 64 be under way; the rest is room for those that are done
/// and have not expired.
pub const REMEMBERED_MAX: usize = 512;

/// What became of a command that arrived.
#[must_use]
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a device does, repeats or leaves a command")]
pub enum Answer {
    /// It was done, or refused, just now.
    Done(ReplyBody),
    /// It had been answered before; this is the same reply, and nothing was done.
    Repeated(ReplyBody),
    /// It had expired when it arrived. Nothing was done, and nobody waits for a reply.
    Expired,
    /// [`REMEMBERED_MAX`] replies are kept. Nothing was done: what cannot be remembered could be done twice. No reply is
    /// sent, so that the cloud may send it again.
    Full,
}

/// What a device does with a command: a result, or the reason why it is refused.
pub type Outcome = Result<Option<Value>, String>;

/// The commands that were answered and have not expired.
#[derive(Debug, Default)]
pub struct Obey {
    replies: HashMap<CommandId, ReplyBody>,
    expiries: BTreeSet<(Monotonic, CommandId)>,
}

impl Obey {
    /// Takes a command that arrived at `now`; `act` does it and is called at most once per command id until that expires.
    pub fn handle(
        &mut self,
        now: Monotonic,
        command: CommandBody,
        act: impl FnOnce(&str, &Value) -> Outcome,
    ) -> Answer {
        self.forget_expired(now);
        if let Some(reply) = self.replies.get(&command.id) {
            return Answer::Repeated(reply.clone());
        }
        if command.expires_in_ms == 0 {
            return Answer::Expired;
        }
        if self.replies.len() >= REMEMBERED_MAX {
            return Answer::Full;
        }
        let expires = now.plus(std::time::Duration::from_millis(command.expires_in_ms));
        let reply = reply(command.id.clone(), act(&command.name, &command.args));
        self.expiries.insert((expires, command.id.clone()));
        self.replies.insert(command.id, reply.clone());
        Answer::Done(reply)
    }

    fn forget_expired(&mut self, now: Monotonic) {
        while self.expiries.first().is_some_and(|(expires, _)| *expires <= now) {
            if let Some((_, id)) = self.expiries.pop_first() {
                self.replies.remove(&id);
            }
        }
    }
}

fn reply(id: CommandId, outcome: Outcome) -> ReplyBody {
    match outcome {
        Ok(result) => ReplyBody { id, status: ReplyStatus::Applied, result, error: None },
        Err(error) => ReplyBody { id, status: ReplyStatus::Rejected, result: None, error: Some(error) },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn command(id: &str, expires_in_ms: u64) -> CommandBody {
        let id = CommandId::parse(id).unwrap();
        CommandBody { id, name: "set".to_owned(), args: json!({"on": true}), epoch: 0, expires_in_ms }
    }

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_duration(Duration::from_millis(ms))
    }

    #[test]
    fn a_command_is_done_with_its_name_and_arguments() {
        let answer = Obey::default().handle(at(0), command("c1", 100), |name, args| {
            assert_eq!((name, args), ("set", &json!({"on": true})));
            Ok(Some(json!(7)))
        });
        let Answer::Done(reply) = answer else { panic!("{answer:?}") };
        assert_eq!((reply.id.as_str(), reply.status, reply.result), ("c1", ReplyStatus::Applied, Some(json!(7))));
    }

    #[test]
    fn a_repeat_gets_the_same_reply_and_is_not_done_again() {
        for outcome in [Ok(Some(json!(1))), Ok(None), Err("stuck".to_owned())] {
            let mut obey = Obey::default();
            let Answer::Done(first) = obey.handle(at(0), command("c1", 100), |_, _| outcome.clone()) else { panic!() };
            for ms in [1, 50, 99] {
                let again = obey.handle(at(ms), command("c1", 100), |_, _| panic!("done twice"));
                assert_eq!(again, Answer::Repeated(first.clone()));
            }
        }
    }

    #[test]
    fn a_repeat_that_says_it_has_expired_is_still_answered_while_it_is_known() {
        let mut obey = Obey::default();
        let Answer::Done(first) = obey.handle(at(0), command("c1", 100), |_, _| Ok(None)) else { panic!() };
        assert_eq!(obey.handle(at(99), command("c1", 0), |_, _| panic!()), Answer::Repeated(first));
    }

    #[test]
    fn an_expired_command_is_not_done() {
        assert_eq!(Obey::default().handle(at(0), command("c1", 0), |_, _| panic!("done")), Answer::Expired);
    }

    #[test]
    fn what_expired_is_forgotten() {
        let mut obey = Obey::default();
        let _ = obey.handle(at(0), command("c1", 100), |_, _| Ok(None));
        let _ = obey.handle(at(0), command("c2", 200), |_, _| Ok(None));
        let _ = obey.handle(at(100), command("c3", 100), |_, _| Ok(None));
        assert_eq!((obey.replies.len(), obey.expiries.len()), (2, 2));
        assert!(matches!(obey.handle(at(150), command("c2", 1), |_, _| panic!()), Answer::Repeated(_)));
    }

    #[test]
    fn the_memory_is_bounded_and_what_does_not_fit_is_not_done() {
        let mut obey = Obey::default();
        for n in 0..REMEMBERED_MAX {
            let answer = obey.handle(at(0), command(&format!("c{n}"), 100), |_, _| Ok(None));
            assert!(matches!(answer, Answer::Done(_)));
        }
        assert_eq!(obey.handle(at(99), command("more", 100), |_, _| panic!("done")), Answer::Full);
        assert!(matches!(obey.handle(at(99), command("c0", 100), |_, _| panic!()), Answer::Repeated(_)));
        assert!(matches!(obey.handle(at(100), command("more", 100), |_, _| Ok(None)), Answer::Done(_)));
        assert_eq!((obey.replies.len(), obey.expiries.len()), (1, 1));
    }
}
