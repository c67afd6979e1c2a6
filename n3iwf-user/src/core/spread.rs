//! How the QoS flows of a PDU session are spread over Child SAs (TS 24.502, 7.5): the N3IWF decides.
//!
//! The first Child SA is the session's default one, which carries every flow that no other lists. Their
//! selectors are the same, so each has an XFRM interface of its own.

use ike::ChildId;
use serde::Deserialize;

use super::types::Session;
use crate::ngap::QosFlow;

/// Which Child SAs a PDU session has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChildSas {
    /// One for all flows.
    #[default]
    OnePerSession,
    /// One for each GBR flow, and one for the others.
    GbrApart,
    /// One for each flow.
    OnePerFlow,
}

impl ChildSas {
    /// The QFIs of each Child SA, that of the default one first: `room` of them at most.
    pub(super) fn spread(self, flows: &[QosFlow], room: usize) -> Vec<Vec<u8>> {
        let apart = |(at, flow): (usize, &QosFlow)| match self {
            Self::OnePerSession => false,
            Self::GbrApart => flow.gbr,
            // The first flow of a session is its default.
            Self::OnePerFlow => at > 0,
        };
        let mut default = Vec::new();
        let mut further = Vec::new();
        for (at, flow) in flows.iter().enumerate() {
            if apart((at, flow)) && further.len() + 1 < room {
                further.push(vec![flow.qfi]);
            } else {
                default.push(flow.qfi);
            }
        }
        further.insert(0, default);
        further
    }
}

/// A Child SA of a session beside the default one.
#[derive(Clone, Debug)]
pub(crate) struct Further {
    /// Marks the Child SA to be; never 0.
    pub(crate) token: u64,
    pub(crate) child: Option<ChildId>,
    pub(crate) slot: u32,
    pub(crate) qfis: Vec<u8>,
}

impl Session {
    /// XFRM interfaces that it takes.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> {
        let further = self.further.iter().map(|further| further.slot);
        std::iter::once(self.slot).chain(further)
    }

    /// Child SAs that it has by now.
    pub(crate) fn children(&self) -> impl Iterator<Item = ChildId> {
        let further = self.further.iter().filter_map(|further| further.child);
        self.child.into_iter().chain(further)
    }

    pub(crate) fn has_child(&self, child: ChildId) -> bool {
        self.children().any(|own| own == child)
    }

    pub(crate) fn has_token(&self, token: u64) -> bool {
        self.token == token || self.further.iter().any(|further| further.token == token)
    }

    /// The Child SA that `token` marks, and its XFRM interface.
    pub(crate) fn by_token(&mut self, token: u64) -> Option<(&mut Option<ChildId>, u32)> {
        if self.token == token {
            return Some((&mut self.child, self.slot));
        }
        let mut further = self.further.iter_mut();
        let found = further.find(|further| further.token == token)?;
        Some((&mut found.child, found.slot))
    }

    /// Where `child` is noted.
    pub(crate) fn place_of(&mut self, child: ChildId) -> Option<&mut Option<ChildId>> {
        let further = self.further.iter_mut().map(|further| &mut further.child);
        let mut places = std::iter::once(&mut self.child).chain(further);
        places.find(|place| **place == Some(child))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_spread_as_the_configuration_says_and_as_far_as_there_is_room() {
        let flow = |qfi, gbr| QosFlow {
            qfi,
            five_qi: None,
            gbr,
        };
        let flows = [flow(9, false), flow(1, true), flow(5, false), flow(2, true)];
        let spread = |how: ChildSas, room| how.spread(&flows, room);
        assert_eq!(spread(ChildSas::OnePerSession, 9), [vec![9, 1, 5, 2]]);
        assert_eq!(
            spread(ChildSas::GbrApart, 9),
            [vec![9, 5], vec![1], vec![2]]
        );
        assert_eq!(
            spread(ChildSas::OnePerFlow, 9),
            [vec![9], vec![1], vec![5], vec![2]]
        );
        assert_eq!(spread(ChildSas::OnePerFlow, 2), [vec![9, 5, 2], vec![1]]);
        assert_eq!(spread(ChildSas::OnePerFlow, 1), [vec![9, 1, 5, 2]]);
    }
}
