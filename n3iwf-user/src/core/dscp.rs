//! DSCP of outer headers, by the 5QI of a QoS flow (transport level marking, TS 23.501 5.7.5.1; on NWu
//! TS 24.502 9.3.1.1).
//!
//! On N3 each flow has its own. A Child SA has one for all of its packets: that of its flows where they
//! agree, else none, since a DSCP that is right for one of them would be wrong for another.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

use crate::ngap::QosFlow;

/// What the configuration says: DSCPs by 5QI; 0 for the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DscpTable(BTreeMap<u8, Dscp>);

impl DscpTable {
    /// DSCP of a flow, 6 bits.
    pub(super) fn of(&self, flow: &QosFlow) -> u8 {
        let found = flow.five_qi.and_then(|five_qi| self.0.get(&five_qi));
        found.map_or(0, |dscp| dscp.0)
    }

    /// DSCP of a Child SA with these of `flows`, 6 bits.
    pub(super) fn of_child(&self, flows: &[QosFlow], qfis: &[u8]) -> u8 {
        let own = flows.iter().filter(|flow| qfis.contains(&flow.qfi));
        let mut all = own.map(|flow| self.of(flow));
        let first = all.next().unwrap_or(0);
        match all.all(|other| other == first) {
            true => first,
            false => 0,
        }
    }

    /// DSCPs of flows by QFI, as far as they are not 0.
    pub(super) fn by_qfi(&self, flows: &[QosFlow]) -> BTreeMap<u8, u8> {
        let all = flows.iter().map(|flow| (flow.qfi, self.of(flow)));
        all.filter(|(_, dscp)| *dscp != 0).collect()
    }
}

impl FromIterator<(u8, Dscp)> for DscpTable {
    fn from_iter<T: IntoIterator<Item = (u8, Dscp)>>(all: T) -> Self {
        Self(all.into_iter().collect())
    }
}

/// A differentiated services code point: a number up to 63, or its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dscp(u8);

impl Dscp {
    /// Expedited forwarding (RFC 3246).
    pub const EF: Self = Self(46);

    /// `EF`, `CS0` to `CS7` (RFC 2474), `AF11` to `AF43` (RFC 2597).
    pub fn named(name: &str) -> Option<Self> {
        let digit = |octet: u8, least: u8, most: u8| {
            let digit = octet.checked_sub(b'0')?;
            (least..=most).contains(&digit).then_some(digit)
        };
        match *name.as_bytes() {
            [b'E', b'F'] => Some(Self::EF),
            [b'C', b'S', class] => Some(Self(digit(class, 0, 7)? * 8)),
            [b'A', b'F', class, drop] => {
                Some(Self(digit(class, 1, 4)? * 8 + digit(drop, 1, 3)? * 2))
            }
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Dscp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Word)
    }
}

struct Word;

impl Visitor<'_> for Word {
    type Value = Dscp;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a DSCP: 0 to 63, EF, CS0 to CS7, or AF11 to AF43")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Dscp, E> {
        let small = u8::try_from(value).ok().filter(|small| *small < 64);
        small
            .map(Dscp)
            .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(value), &self))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Dscp, E> {
        Dscp::named(value).ok_or_else(|| E::invalid_value(de::Unexpected::Str(value), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_rfcs() {
        for (name, value) in [
            ("EF", 46),
            ("CS0", 0),
            ("CS7", 56),
            ("AF11", 10),
            ("AF23", 22),
            ("AF41", 34),
            ("AF43", 38),
        ] {
            assert_eq!(Dscp::named(name), Some(Dscp(value)), "{name}");
        }
        for name in ["", "ef", "CS8", "AF10", "AF14", "AF51", "AF411", "CS"] {
            assert_eq!(Dscp::named(name), None, "{name}");
        }
    }

    #[test]
    fn a_child_sa_has_the_dscp_of_its_flows_where_they_agree() {
        let flow = |qfi, five_qi| QosFlow {
            qfi,
            five_qi,
            gbr: false,
        };
        let flows = [
            flow(1, Some(9)),
            flow(2, Some(1)),
            flow(3, Some(1)),
            flow(4, None),
        ];
        let table = DscpTable::from_iter([(1, Dscp::EF), (2, Dscp(34))]);
        assert_eq!(table.by_qfi(&flows), BTreeMap::from([(2, 46), (3, 46)]));
        for (qfis, dscp) in [
            (&[2][..], 46),
            (&[2, 3], 46),
            (&[1, 2], 0),
            (&[1, 4], 0),
            (&[], 0),
        ] {
            assert_eq!(table.of_child(&flows, qfis), dscp, "{qfis:?}");
        }
    }
}
