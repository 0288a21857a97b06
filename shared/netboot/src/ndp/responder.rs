//! Who is told that there is no IPv6 router: a machine that was just given a boot script, and
//! nobody else on the link.
//!
//! ```text
//!             solicited            script_given
//! unknown ───────────────> heard ───────────────> given, answered
//!    │                                             │  ▲
//!    └──────── script_given ───────────────────────┘  └── solicited: answered again
//! ```
//!
//! A machine solicits while its DHCP goes on, so its solicitation may come first. It is kept and
//! answered as soon as there is a script; otherwise the machine would wait for its next one, which
//! it sends after 0.25 s at first and after 8 s at last.

use super::Solicitation;
use crate::mac::Mac;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long after its script a machine is answered.
pub const GIVEN_FOR: Duration = Duration::from_secs(60);
/// How long a solicitation can be answered: the longest pause before the next one, with a margin.
pub const HEARD_FOR: Duration = Duration::from_secs(10);
/// Answers to a machine after one script: iPXE solicits six times, an answer may get lost.
pub const MAX_ANSWERS: u8 = 8;
/// Machines that a script was given to: a few racks that power on within [`GIVEN_FOR`].
pub const MAX_GIVEN: usize = 1024;
/// Solicitations that wait for a script. Whoever floods this table cannot touch the other.
pub const MAX_HEARD: usize = 256;

/// The two tables, each in the order of time.
#[derive(Debug, Default)]
pub struct Responder {
    given: VecDeque<Given>,
    heard: VecDeque<Heard>,
}

#[derive(Debug)]
struct Given {
    mac: Mac,
    at: Instant,
    answers_left: u8,
}

#[derive(Debug)]
struct Heard {
    solicitation: Solicitation,
    at: Instant,
}

impl Responder {
    /// A DHCP ACK that names a boot script went to this machine. Gives the solicitation that is to
    /// be answered now, if it has sent one.
    pub fn script_given(&mut self, now: Instant, mac: Mac) -> Option<Solicitation> {
        self.forget_old(now);
        let is_it = |heard: &Heard| heard.solicitation.mac == mac;
        let at = self.heard.iter().position(is_it);
        let heard = at.and_then(|at| self.heard.remove(at));
        let answers_left = if heard.is_some() { MAX_ANSWERS - 1 } else { MAX_ANSWERS };
        self.given.retain(|given| given.mac != mac);
        push_bounded(&mut self.given, Given { mac, at: now, answers_left }, MAX_GIVEN);
        heard.map(|heard| heard.solicitation)
    }

    /// A machine solicits. Whether that is to be answered now; else it may be later.
    pub fn solicited(&mut self, now: Instant, solicitation: Solicitation) -> bool {
        self.forget_old(now);
        let mac = solicitation.mac;
        if let Some(given) = self.given.iter_mut().find(|given| given.mac == mac) {
            let is_answered = given.answers_left > 0;
            given.answers_left = given.answers_left.saturating_sub(1);
            return is_answered;
        }
        self.heard.retain(|heard| heard.solicitation.mac != mac);
        push_bounded(&mut self.heard, Heard { solicitation, at: now }, MAX_HEARD);
        false
    }

    fn forget_old(&mut self, now: Instant) {
        let age = |at| now.saturating_duration_since(at);
        while self.given.front().is_some_and(|given| age(given.at) > GIVEN_FOR) {
            self.given.pop_front();
        }
        while self.heard.front().is_some_and(|heard| age(heard.at) > HEARD_FOR) {
            self.heard.pop_front();
        }
    }
}

/// The oldest makes room.
fn push_bounded<T>(table: &mut VecDeque<T>, entry: T, limit: usize) {
    if table.len() >= limit {
        table.pop_front();
    }
    table.push_back(entry);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ndp::link_local;
    use proptest::prelude::*;

    fn asks(number: u16) -> Solicitation {
        let [high, low] = number.to_be_bytes();
        let mac = Mac([2, 0, 0, 0, high, low]);
        Solicitation { mac, source: link_local(mac) }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_machine_is_answered_for_a_minute_after_its_script() {
        let (mut responder, start) = (Responder::default(), Instant::now());
        assert_eq!(responder.script_given(start, asks(1).mac), None);
        assert!(responder.solicited(start, asks(1)));
        assert!(!responder.solicited(start, asks(2)), "another machine");
        assert!(responder.solicited(start + GIVEN_FOR, asks(1)));
        assert!(!responder.solicited(start + GIVEN_FOR + secs(1), asks(1)));
    }

    #[test]
    fn a_solicitation_before_the_script_is_answered_with_it_once() {
        let (mut responder, start) = (Responder::default(), Instant::now());
        let renewed = Solicitation { source: link_local(asks(9).mac), ..asks(1) };
        assert!(!responder.solicited(start, asks(1)));
        assert!(!responder.solicited(start + secs(1), renewed));
        assert_eq!(responder.script_given(start + secs(2), asks(1).mac), Some(renewed));
        assert_eq!(responder.script_given(start + secs(3), asks(1).mac), None);

        assert!(!responder.solicited(start, asks(2)));
        let late = start + HEARD_FOR + secs(1);
        assert_eq!(responder.script_given(late, asks(2).mac), None, "it has asked again or left");
    }

    #[test]
    fn one_script_is_worth_so_many_answers() {
        let (mut responder, start) = (Responder::default(), Instant::now());
        let answers = |responder: &mut Responder| {
            (0..20).filter(|_| responder.solicited(start, asks(1))).count()
        };
        assert_eq!(answers(&mut responder), 0);
        assert_eq!(responder.script_given(start, asks(1).mac), Some(asks(1)));
        assert_eq!(answers(&mut responder), usize::from(MAX_ANSWERS) - 1);
        assert_eq!(responder.script_given(start, asks(1).mac), None, "no exhausted one is kept");
        assert_eq!(answers(&mut responder), usize::from(MAX_ANSWERS));
    }

    #[test]
    fn the_oldest_makes_room_and_strangers_crowd_out_no_booting_machine() {
        let (mut responder, start) = (Responder::default(), Instant::now());
        responder.script_given(start, asks(0).mac);
        for number in 1..5000 {
            assert!(!responder.solicited(start, asks(number)));
        }
        assert_eq!(responder.heard.len(), MAX_HEARD);
        assert!(responder.solicited(start, asks(0)));
        assert_eq!(responder.script_given(start, asks(4999).mac), Some(asks(4999)));
        assert_eq!(responder.script_given(start, asks(4000).mac), None);
        for number in 5000..8000 {
            responder.script_given(start, asks(number).mac);
        }
        assert_eq!(responder.given.len(), MAX_GIVEN);
        assert!(responder.solicited(start, asks(7999)));
        assert!(!responder.solicited(start, asks(0)));
    }

    proptest! {
        /// Whatever happens in whatever order: no answer without a script in the minute before.
        #[test]
        fn nobody_is_answered_without_a_script(
            steps in proptest::collection::vec((any::<bool>(), 0u16..4, 0u64..40), 0..60)
        ) {
            let (mut responder, mut now) = (Responder::default(), Instant::now());
            let mut given = std::collections::HashMap::new();
            for (is_script, number, pause_secs) in steps {
                now += secs(pause_secs);
                if is_script {
                    let answered = responder.script_given(now, asks(number).mac);
                    prop_assert!(answered.is_none_or(|to| to == asks(number)));
                    given.insert(number, now);
                } else {
                    let is_due = given.get(&number).is_some_and(|at| now - *at <= GIVEN_FOR);
                    let is_answered = responder.solicited(now, asks(number));
                    prop_assert!(is_due || !is_answered);
                }
            }
        }
    }
}
