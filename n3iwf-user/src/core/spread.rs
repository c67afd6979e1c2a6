//! How the QoS flows of a PDU session are spread over Child SAs (TS 24.502, 7.5): the N3IWF decides.
//!
//! The first Child SA is the session's default one, which carries every flow that no other lists. Their
//! selectors are the same, so each has an XFRM interface of its own.

use ike::ChildId;
use serde::Deserialize;

use super::{dscp::DscpTable, types::Session};
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
    /// One for each DSCP, so that packets which overtake others are not in the way of the replay window
    /// (RFC 4301, 4.1).
    DscpApart,
    /// One for each flow.
    OnePerFlow,
}

impl ChildSas {
    /// The QFIs of each Child SA, that of the default one first: `room` of them at most.
    pub(super) fn spread(self, flows: &[QosFlow], dscp: &DscpTable, room: usize) -> Vec<Vec<u8>> {
        // Flows with the same word share a Child SA; those without one have the default one.
        let first = flows.first().map_or(0, |flow| dscp.of(flow));
        let word = |at: usize, flow: &QosFlow| match self {
            Self::OnePerSession => None,
            Self::GbrApart => flow.gbr.then_some(at),
            Self::DscpApart => Some(dscp.of(flow))
                .filter(|own| *own != first)
                .map(usize::from),
            // The first flow of a session is its default.
            Self::OnePerFlow => (at > 0).then_some(at),
        };
        let mut default = Vec::new();
        let mut further: Vec<(usize, Vec<u8>)> = Vec::new();
        for (at, flow) in flows.iter().enumerate() {
            let word = word(at, flow);
            let full = further.len() + 1 >= room;
            let known = further.iter_mut().find(|(own, _)| Some(*own) == word);
            match (known, word) {
                (Some((_, qfis)), _) => qfis.push(flow.qfi),
                (None, Some(word)) if !full => further.push((word, vec![flow.qfi])),
                (None, _) => default.push(flow.qfi),
            }
        }
        let further = further.into_iter().map(|(_, qfis)| qfis);
        std::iter::once(default).chain(further).collect()
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
    /// QFIs of the default Child SA once the session has `flows`.
    pub(crate) fn of_default(&self, flows: &[QosFlow]) -> Vec<u8> {
        let elsewhere = |qfi: &u8| self.further.iter().any(|f| f.qfis.contains(qfi));
        let qfis = flows.iter().map(|flow| flow.qfi);
        qfis.filter(|qfi| !elsewhere(qfi)).collect()
    }

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
    use crate::core::Dscp;

    #[test]
    fn flows_are_spread_as_the_configuration_says_and_as_far_as_there_is_room() {
        let flow = |qfi, five_qi, gbr| QosFlow {
            qfi,
            five_qi: Some(five_qi),
            gbr,
        };
        let flows = [
            flow(9, 9, false),
            flow(1, 1, true),
            flow(5, 5, false),
            flow(2, 1, true),
        ];
        let dscp = DscpTable::from_iter([(1, Dscp::EF)]);
        let spread = |how: ChildSas, room| how.spread(&flows, &dscp, room);
        assert_eq!(spread(ChildSas::OnePerSession, 9), [vec![9, 1, 5, 2]]);
        assert_eq!(
            spread(ChildSas::GbrApart, 9),
            [vec![9, 5], vec![1], vec![2]]
        );
        assert_eq!(spread(ChildSas::DscpApart, 9), [vec![9, 5], vec![1, 2]]);
        assert_eq!(spread(ChildSas::DscpApart, 1), [vec![9, 1, 5, 2]]);
        assert_eq!(
            spread(ChildSas::OnePerFlow, 9),
            [vec![9], vec![1], vec![5], vec![2]]
        );
        assert_eq!(spread(ChildSas::OnePerFlow, 2), [vec![9, 5, 2], vec![1]]);
        assert_eq!(spread(ChildSas::OnePerFlow, 1), [vec![9, 1, 5, 2]]);
    }
}
