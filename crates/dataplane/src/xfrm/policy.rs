//! Messages about policies (`struct xfrm_userpolicy_info` and its template).

use std::net::IpAddr;

use netlink_packet_xfrm::{
    Address, Id, Selector, UserPolicyId, UserPolicyInfo, UserTemplate, XfrmAttrs, XfrmMessage,
    constants::{IPPROTO_ESP, XFRM_MODE_TUNNEL, XFRM_POLICY_ALLOW},
    policy::{DelGetMessage, ModifyMessage},
};

use super::{Direction, Place, address, family, is_esp, state::if_id};
use crate::{ChildSaSpec, Error, link::host_prefix};

/// Priority of policies of one inner protocol; lower wins.
const PRIORITY_PROTOCOL: u32 = 1000;
/// Priority of policies of all inner protocols.
const PRIORITY_ANY: u32 = 2000;

/// What identifies a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PolicyKey {
    pub(crate) direction: Direction,
    pub(crate) source: IpAddr,
    pub(crate) source_prefix: u8,
    pub(crate) destination: IpAddr,
    pub(crate) destination_prefix: u8,
    pub(crate) protocol: u8,
    pub(crate) if_id: u32,
}

impl PolicyKey {
    pub(crate) fn new(sa: &ChildSaSpec, place: Place, direction: Direction) -> Self {
        let (source, destination) = match direction {
            Direction::Out => (sa.inner_local, sa.inner_remote),
            Direction::In | Direction::Forward => (sa.inner_remote, sa.inner_local),
        };
        Self {
            direction,
            source,
            source_prefix: host_prefix(source),
            destination,
            destination_prefix: host_prefix(destination),
            protocol: sa.protocol.unwrap_or(0),
            if_id: place.if_id,
        }
    }

    pub(super) fn selector(&self) -> Selector {
        let mut selector = Selector {
            proto: self.protocol,
            ..Selector::default()
        };
        selector.source_prefix(&self.source, self.source_prefix);
        selector.destination_prefix(&self.destination, self.destination_prefix);
        selector
    }
}

pub(super) fn message(sa: &ChildSaSpec, place: Place, direction: Direction) -> ModifyMessage {
    let key = PolicyKey::new(sa, place, direction);
    let (source, destination) = match direction {
        Direction::Out => (sa.local.ip(), sa.remote.ip()),
        Direction::In | Direction::Forward => (sa.remote.ip(), sa.local.ip()),
    };
    ModifyMessage {
        user_policy_info: UserPolicyInfo {
            selector: key.selector(),
            priority: if sa.protocol.is_some() {
                PRIORITY_PROTOCOL
            } else {
                PRIORITY_ANY
            },
            direction: direction.value(),
            action: XFRM_POLICY_ALLOW,
            ..UserPolicyInfo::default()
        },
        nlas: vec![
            // No SPI: the reqid names the states, so that a rekeyed SA takes over by itself.
            XfrmAttrs::Template(vec![UserTemplate {
                id: Id {
                    daddr: Address::from_ip(&destination),
                    spi: 0,
                    proto: IPPROTO_ESP,
                },
                family: family(source),
                saddr: Address::from_ip(&source),
                reqid: place.reqid,
                mode: XFRM_MODE_TUNNEL,
                aalgos: u32::MAX,
                ealgos: u32::MAX,
                calgos: u32::MAX,
                ..UserTemplate::default()
            }]),
            XfrmAttrs::IfId(place.if_id),
        ],
    }
}

fn del_get(key: &PolicyKey) -> DelGetMessage {
    DelGetMessage {
        user_policy_id: UserPolicyId {
            selector: key.selector(),
            index: 0,
            direction: key.direction.value(),
        },
        nlas: vec![XfrmAttrs::IfId(key.if_id)],
    }
}

pub(super) fn get(key: &PolicyKey) -> XfrmMessage {
    XfrmMessage::GetPolicy(del_get(key))
}

pub(super) fn delete(key: &PolicyKey) -> XfrmMessage {
    XfrmMessage::DeletePolicy(del_get(key))
}

pub(super) fn dump() -> XfrmMessage {
    XfrmMessage::GetPolicy(DelGetMessage::default())
}

fn template(attributes: &[XfrmAttrs]) -> Option<&UserTemplate> {
    attributes.iter().find_map(|attribute| match attribute {
        XfrmAttrs::Template(templates) => templates.first(),
        _ => None,
    })
}

/// Key and template reqid of an ESP policy.
pub(super) fn read(held: &ModifyMessage) -> Option<(PolicyKey, u32)> {
    let info = &held.user_policy_info;
    let template = template(&held.nlas).filter(|template| is_esp(template.id.proto))?;
    let selector = &info.selector;
    Some((
        PolicyKey {
            direction: Direction::from_value(info.direction)?,
            source: address(selector.family, &selector.saddr)?,
            source_prefix: selector.prefixlen_s,
            destination: address(selector.family, &selector.daddr)?,
            destination_prefix: selector.prefixlen_d,
            protocol: selector.proto,
            if_id: if_id(&held.nlas),
        },
        template.reqid,
    ))
}

/// Where `held` differs from `asked` in a way that matters.
pub(super) fn compare(
    what: &str,
    asked: &ModifyMessage,
    held: &ModifyMessage,
) -> Result<(), Error> {
    let (a, h) = (&asked.user_policy_info, &held.user_policy_info);
    let none = UserTemplate::default();
    let ta = template(&asked.nlas).unwrap_or(&none);
    let th = template(&held.nlas).unwrap_or(&none);
    let parts = [
        (
            "selector",
            format!("{:?}", a.selector),
            format!("{:?}", h.selector),
        ),
        (
            "direction",
            a.direction.to_string(),
            h.direction.to_string(),
        ),
        ("action", a.action.to_string(), h.action.to_string()),
        ("priority", a.priority.to_string(), h.priority.to_string()),
        (
            "if_id",
            if_id(&asked.nlas).to_string(),
            if_id(&held.nlas).to_string(),
        ),
        ("template", describe(ta), describe(th)),
    ];
    for (part, asked, held) in parts {
        if asked != held {
            return Err(Error::ReadBack {
                what: format!("{what}: {part}"),
                asked,
                held,
            });
        }
    }
    Ok(())
}

fn describe(template: &UserTemplate) -> String {
    let ip = |octets| {
        address(template.family, octets).map_or_else(|| "?".to_owned(), |ip| ip.to_string())
    };
    format!(
        "protocol {} mode {} reqid {} {} -> {} optional {}",
        template.id.proto,
        template.mode,
        template.reqid,
        ip(&template.saddr),
        ip(&template.id.daddr),
        template.optional,
    )
}
