//! Narrowing of Traffic Selectors (RFC 7296 2.9).

use crate::wire::TrafficSelector;

/// What of `wanted` lies within `offered`.
pub(crate) fn narrow(
    offered: &[TrafficSelector],
    wanted: &[TrafficSelector],
) -> Vec<TrafficSelector> {
    let mut narrowed = Vec::new();
    for wish in wanted {
        for offer in offered {
            if let Some(common) = wish.intersect(offer)
                && !narrowed.contains(&common)
            {
                narrowed.push(common);
            }
        }
    }
    narrowed
}

/// Whether `answer` stays within `offered` and is not empty.
pub(crate) fn within(offered: &[TrafficSelector], answer: &[TrafficSelector]) -> bool {
    !answer.is_empty()
        && answer.iter().all(|selector| {
            offered
                .iter()
                .any(|offer| offer.intersect(selector).as_ref() == Some(selector))
        })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn host(last: u8) -> TrafficSelector {
        TrafficSelector::host(Ipv4Addr::new(10, 0, 0, last).into())
    }

    #[test]
    fn narrowing_keeps_what_both_cover() {
        let any = TrafficSelector::any_v4();
        assert_eq!(narrow(&[any], &[host(1)]), [host(1)]);
        assert_eq!(narrow(&[host(2)], &[any, host(2)]), [host(2)]);
        assert_eq!(narrow(&[host(2)], &[host(3)]), []);
    }

    #[test]
    fn an_answer_beyond_the_offer_is_seen() {
        let any = TrafficSelector::any_v4();
        assert!(within(&[any], &[host(1), host(2)]));
        assert!(!within(&[host(1)], &[any]));
        assert!(!within(&[host(1)], &[host(1), host(2)]));
        assert!(!within(&[any], &[]), "nothing is no answer");
    }
}
