//! `XFRM_MSG_MIGRATE`: a policy and its state change their outer addresses.

use std::net::SocketAddr;

use netlink_packet_xfrm::{
    Address, EncapTmpl, UserMigrate, UserPolicyId, XfrmAttrs, XfrmMessage,
    constants::{IPPROTO_ESP, UDP_ENCAP_ESPINUDP, XFRM_MODE_TUNNEL},
    monitor::MigrateMessage,
};

use super::{Place, PolicyKey, family};

/// Where packets of one direction came from and went to, and where now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Migration {
    place: Place,
    from: (SocketAddr, SocketAddr),
    to: (SocketAddr, SocketAddr),
    udp_encap: bool,
}

impl Migration {
    /// Source and destination of the packets, before and after.
    pub(crate) const fn new(
        place: Place,
        from: (SocketAddr, SocketAddr),
        to: (SocketAddr, SocketAddr),
        udp_encap: bool,
    ) -> Self {
        Self {
            place,
            from,
            to,
            udp_encap,
        }
    }
}

pub(super) fn message(key: &PolicyKey, migration: &Migration) -> XfrmMessage {
    let Migration {
        place, from, to, ..
    } = migration;
    let mut nlas = vec![
        XfrmAttrs::Migrate(UserMigrate {
            old_saddr: Address::from_ip(&from.0.ip()),
            old_daddr: Address::from_ip(&from.1.ip()),
            new_saddr: Address::from_ip(&to.0.ip()),
            new_daddr: Address::from_ip(&to.1.ip()),
            proto: IPPROTO_ESP,
            mode: XFRM_MODE_TUNNEL,
            reserved: 0,
            reqid: place.reqid,
            old_family: family(from.0.ip()),
            new_family: family(to.0.ip()),
        }),
        XfrmAttrs::IfId(place.if_id),
    ];
    if migration.udp_encap {
        nlas.push(XfrmAttrs::EncapsulationTemplate(EncapTmpl {
            encap_type: UDP_ENCAP_ESPINUDP,
            encap_sport: to.0.port(),
            encap_dport: to.1.port(),
            encap_oa: Address::default(),
        }));
    }
    XfrmMessage::Migrate(MigrateMessage {
        user_policy_id: UserPolicyId {
            selector: key.selector(),
            index: 0,
            direction: key.direction.value(),
        },
        nlas,
    })
}
