//! Notification data of MOBIKE (RFC 4555, section 4).

use std::net::{IpAddr, SocketAddr};

use super::{Notify, NotifyType, Payload, notifies};

/// Addresses of one peer that are kept: nobody has more than a few.
const MAX_ADDRESSES: usize = 16;

/// NO_NATS_ALLOWED: the addresses and ports the message leaves with (4.2.8).
///
/// ```text
/// source address 4 or 16 octets   destination address 4 or 16   source port 2   destination port 2
/// ```
pub fn no_nats_allowed(source: SocketAddr, destination: SocketAddr) -> Notify {
    Notify::status(NotifyType::NO_NATS_ALLOWED, addresses(source, destination))
}

/// Whether NO_NATS_ALLOWED says what a message arrived with.
pub fn is_untranslated(notify: &Notify, source: SocketAddr, destination: SocketAddr) -> bool {
    notify.data == addresses(source, destination)
}

fn addresses(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut data = octets(source.ip());
    data.extend(octets(destination.ip()));
    data.extend(source.port().to_be_bytes());
    data.extend(destination.port().to_be_bytes());
    data
}

/// An IPv4-mapped address of a dual-stack socket counts as the IPv4 address it is.
fn octets(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The further addresses a message tells of (4.2.2); `None` when it is silent about them. Each telling replaces the one
/// before (3.6). What has not the length of an address is left out.
pub fn additional_addresses(payloads: &[Payload]) -> Option<Vec<IpAddr>> {
    let mut told = None::<Vec<IpAddr>>;
    for notify in notifies(payloads) {
        let address = match notify.kind {
            NotifyType::NO_ADDITIONAL_ADDRESSES => None,
            NotifyType::ADDITIONAL_IP4_ADDRESS => <[u8; 4]>::try_from(notify.data.as_slice())
                .ok()
                .map(IpAddr::from),
            NotifyType::ADDITIONAL_IP6_ADDRESS => <[u8; 16]>::try_from(notify.data.as_slice())
                .ok()
                .map(IpAddr::from),
            _ => continue,
        };
        let all = told.get_or_insert_default();
        if all.len() < MAX_ADDRESSES {
            all.extend(address);
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn no_nats_allowed_has_12_or_36_octets() {
        let (from, to) = (at("192.0.2.10:4500"), at("192.0.2.1:4500"));
        let notify = no_nats_allowed(from, to);
        assert_eq!(
            notify.data,
            [192, 0, 2, 10, 192, 0, 2, 1, 0x11, 0x94, 0x11, 0x94]
        );
        assert!(is_untranslated(&notify, from, to));
        assert!(!is_untranslated(&notify, at("192.0.2.99:4500"), to));
        assert!(!is_untranslated(&notify, at("192.0.2.10:4501"), to));
        let mapped = at("[::ffff:192.0.2.10]:4500");
        assert!(is_untranslated(&notify, mapped, to));
        let six = no_nats_allowed(at("[2001:db8::2]:4500"), at("[2001:db8::1]:4500"));
        assert_eq!(six.data.len(), 36);
    }

    #[test]
    fn addresses_are_told_replaced_and_withdrawn() {
        let notify = |kind, data: &[u8]| Payload::from(Notify::status(kind, data.to_vec()));
        assert_eq!(additional_addresses(&[]), None);
        let none = notify(NotifyType::NO_ADDITIONAL_ADDRESSES, &[]);
        assert_eq!(additional_addresses(&[none]), Some(Vec::new()));
        let four = notify(NotifyType::ADDITIONAL_IP4_ADDRESS, &[192, 0, 2, 7]);
        let six = notify(NotifyType::ADDITIONAL_IP6_ADDRESS, &[0x20; 16]);
        let short = notify(NotifyType::ADDITIONAL_IP4_ADDRESS, &[192, 0, 2]);
        assert_eq!(
            additional_addresses(&[four.clone(), short, six]),
            Some(vec![[192, 0, 2, 7].into(), [0x20; 16].into()])
        );
        let many = vec![four; 100];
        assert_eq!(
            additional_addresses(&many).map(|all| all.len()),
            Some(MAX_ADDRESSES)
        );
    }
}
