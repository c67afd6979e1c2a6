//! XFRM states and policies of Child SAs over netlink.

mod migrate;
mod policy;
mod state;

use std::net::IpAddr;

use netlink_packet_xfrm::{
    Address, XfrmAttrs, XfrmMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_ESP, XFRM_POLICY_FWD, XFRM_POLICY_IN, XFRM_POLICY_OUT},
};
use netlink_sys::protocols::NETLINK_XFRM;
use zeroize::Zeroize;

use crate::{
    ChildSaSpec, Error, Limits, Refused, Traffic,
    netlink::{Mode, Netlink, Wipe},
};

pub(crate) use migrate::Migration;
pub(crate) use policy::PolicyKey;

/// Where a Child SA lives in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) if_id: u32,
    pub(crate) reqid: u32,
}

/// What identifies a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StateId {
    pub(crate) destination: IpAddr,
    pub(crate) spi: u32,
}

impl StateId {
    pub(crate) fn inbound(sa: &ChildSaSpec) -> Self {
        Self {
            destination: sa.local.ip(),
            spi: sa.spi_in,
        }
    }

    pub(crate) fn outbound(sa: &ChildSaSpec) -> Self {
        Self {
            destination: sa.remote.ip(),
            spi: sa.spi_out,
        }
    }
}

impl std::fmt::Display for StateId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ESP state {:#010x} to {}", self.spi, self.destination)
    }
}

/// Direction of a state or policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Direction {
    In,
    Forward,
    Out,
}

impl Direction {
    const fn value(self) -> u8 {
        match self {
            Self::In => XFRM_POLICY_IN,
            Self::Forward => XFRM_POLICY_FWD,
            Self::Out => XFRM_POLICY_OUT,
        }
    }

    const fn from_value(value: u8) -> Option<Self> {
        match value {
            XFRM_POLICY_IN => Some(Self::In),
            XFRM_POLICY_FWD => Some(Self::Forward),
            XFRM_POLICY_OUT => Some(Self::Out),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Forward => "fwd",
            Self::Out => "out",
        }
    }
}

/// Counters of one state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StateCounters {
    pub(crate) id: Option<StateId>,
    pub(crate) place: Option<Place>,
    pub(crate) traffic: Traffic,
    pub(crate) refused: Refused,
}

/// A connection to the kernel's SA and policy databases.
pub(crate) struct XfrmDb(Netlink);

impl XfrmDb {
    pub(crate) fn open() -> Result<Self, Error> {
        match Netlink::open(NETLINK_XFRM) {
            Ok(netlink) => Ok(Self(netlink)),
            Err(e) if e.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Err(Error::Unsupported {
                what: "XFRM",
                hint: "load the module xfrm_user (CONFIG_XFRM_USER)",
            }),
            Err(e) => Err(Error::io("open NETLINK_XFRM", e)),
        }
    }

    fn run(&mut self, doing: &str, mode: Mode, message: XfrmMessage) -> Result<(), Error> {
        self.0.request(doing, mode, message, |_| {})
    }

    /// Adds the state of one direction.
    pub(crate) fn add_state(
        &mut self,
        sa: &ChildSaSpec,
        place: Place,
        direction: Direction,
        limits: &Limits,
    ) -> Result<(), Error> {
        let id = match direction {
            Direction::Out => StateId::outbound(sa),
            Direction::In | Direction::Forward => StateId::inbound(sa),
        };
        let message = XfrmMessage::AddSa(state::message(sa, place, direction, limits)?);
        match self.run(&format!("add {id}"), Mode::Create, message) {
            Err(Error::Kernel { source, .. })
                if matches!(
                    source.raw_os_error(),
                    Some(libc::EPROTONOSUPPORT | libc::ENOSYS | libc::EOPNOTSUPP)
                ) =>
            {
                Err(Error::Unsupported {
                    what: "ESP with this suite",
                    hint: "load the modules esp4 and esp6 and the kernel's cipher modules \
                           (aesni_intel or aes_generic, gcm, cbc, ctr, ghash, hmac, seqiv, echainiv)",
                })
            }
            other => other,
        }
    }

    /// Compares what the kernel holds with what was asked; no key appears in an error.
    pub(crate) fn check_state(
        &mut self,
        sa: &ChildSaSpec,
        place: Place,
        direction: Direction,
        limits: &Limits,
    ) -> Result<(), Error> {
        let id = match direction {
            Direction::Out => StateId::outbound(sa),
            Direction::In | Direction::Forward => StateId::inbound(sa),
        };
        let mut asked = state::message(sa, place, direction, limits)?;
        let mut result = None;
        let got = self.0.request(
            &format!("read {id} back"),
            Mode::Plain,
            state::get(id),
            |answer| {
                if let XfrmMessage::AddSa(held) = answer {
                    result = Some(state::compare(id, &asked, held));
                }
            },
        );
        wipe_attributes(&mut asked.nlas);
        got?;
        result.unwrap_or_else(|| {
            Err(Error::ReadBack {
                what: id.to_string(),
                asked: "a state".into(),
                held: "nothing".into(),
            })
        })
    }

    /// Counters of one state; `None` when the kernel has no such state.
    pub(crate) fn state(&mut self, id: StateId) -> Result<Option<StateCounters>, Error> {
        let mut found = None;
        let got = self.0.request(
            &format!("read {id}"),
            Mode::Plain,
            state::get(id),
            |answer| {
                if let XfrmMessage::AddSa(held) = answer {
                    found = Some(state::counters(held));
                }
            },
        );
        match got {
            Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => {
                Ok(None)
            }
            other => other.map(|()| found),
        }
    }

    /// Counters of all states of the namespace.
    pub(crate) fn states(&mut self) -> Result<Vec<StateCounters>, Error> {
        let mut found = Vec::new();
        self.0
            .request("list ESP states", Mode::Dump, state::dump(), |answer| {
                if let XfrmMessage::AddSa(held) = answer {
                    found.push(state::counters(held));
                }
            })?;
        Ok(found)
    }

    /// Deletes a state; `false` when it was gone already (it may have expired).
    pub(crate) fn delete_state(&mut self, id: StateId) -> Result<bool, Error> {
        self.0
            .take_away(&format!("delete {id}"), || state::delete(id))
    }

    /// Moves a policy's template and the state behind it to other outer addresses.
    pub(crate) fn migrate(&mut self, key: &PolicyKey, migration: &Migration) -> Result<(), Error> {
        let doing = format!("move {} policy and its state", key.direction.name());
        self.run(&doing, Mode::Plain, migrate::message(key, migration))
    }

    pub(crate) fn add_policy(
        &mut self,
        sa: &ChildSaSpec,
        place: Place,
        direction: Direction,
    ) -> Result<(), Error> {
        let message = XfrmMessage::AddPolicy(policy::message(sa, place, direction));
        let doing = format!("add {} policy of Child SA {}", direction.name(), sa.id);
        self.run(&doing, Mode::Create, message)
    }

    pub(crate) fn check_policy(
        &mut self,
        sa: &ChildSaSpec,
        place: Place,
        direction: Direction,
    ) -> Result<(), Error> {
        let asked = policy::message(sa, place, direction);
        let key = PolicyKey::new(sa, place, direction);
        let what = format!("{} policy of Child SA {}", direction.name(), sa.id);
        let mut result = None;
        self.0.request(
            &format!("read {what} back"),
            Mode::Plain,
            policy::get(&key),
            |answer| {
                if let XfrmMessage::AddPolicy(held) = answer {
                    result = Some(policy::compare(&what, &asked, held));
                }
            },
        )?;
        result.unwrap_or_else(|| {
            Err(Error::ReadBack {
                what,
                asked: "a policy".into(),
                held: "nothing".into(),
            })
        })
    }

    /// Deletes a policy; `false` when there was none.
    pub(crate) fn delete_policy(&mut self, key: &PolicyKey) -> Result<bool, Error> {
        let doing = format!("delete {} policy", key.direction.name());
        self.0.take_away(&doing, || policy::delete(key))
    }

    /// All policies that use ESP: where they are and the reqid of their template.
    pub(crate) fn policies(&mut self) -> Result<Vec<(PolicyKey, u32)>, Error> {
        let mut found = Vec::new();
        self.0.request(
            "list IPsec policies",
            Mode::Dump,
            policy::dump(),
            |answer| {
                if let XfrmMessage::AddPolicy(held) = answer {
                    found.extend(policy::read(held));
                }
            },
        )?;
        Ok(found)
    }
}

const fn family(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// The address behind a family and 16 octets.
pub(crate) fn address(family: u16, address: &Address) -> Option<IpAddr> {
    match family {
        AF_INET => Some(IpAddr::V4(address.to_ipv4())),
        AF_INET6 => Some(IpAddr::V6(address.to_ipv6())),
        _ => None,
    }
}

pub(crate) const fn is_esp(protocol: u8) -> bool {
    protocol == IPPROTO_ESP
}

impl Wipe for XfrmMessage {
    fn wipe(&mut self) {
        if let Self::AddSa(message) | Self::UpdateSa(message) = self {
            wipe_attributes(&mut message.nlas);
        }
    }
}

fn wipe_attributes(attributes: &mut [XfrmAttrs]) {
    for attribute in attributes {
        match attribute {
            XfrmAttrs::EncryptionAlgAead(alg) => alg.alg_key.zeroize(),
            XfrmAttrs::EncryptionAlg(alg) | XfrmAttrs::AuthenticationAlg(alg) => {
                alg.alg_key.zeroize();
            }
            XfrmAttrs::AuthenticationAlgTrunc(alg) => alg.alg_key.zeroize(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
