//! What the data plane reports.

use std::time::Duration;

use ebpf_common::{Counter, NwuClasses};
use serde::{Deserialize, Serialize};

use crate::Plane;

/// Packets and octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Octets.
    pub bytes: u64,
}

impl std::iter::Sum for Traffic {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |total, one| Self {
            packets: total.packets.wrapping_add(one.packets),
            bytes: total.bytes.wrapping_add(one.bytes),
        })
    }
}

/// Packets, octets and when the last one was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Packets.
    pub packets: u64,
    /// Octets of outer IP packets.
    pub bytes: u64,
    /// `CLOCK_MONOTONIC` of the last packet; `None`: nothing was seen.
    pub last_seen: Option<Duration>,
}

impl Seen {
    /// Without the time.
    pub const fn traffic(&self) -> Traffic {
        Traffic {
            packets: self.packets,
            bytes: self.bytes,
        }
    }
}

impl From<Counter> for Seen {
    fn from(counter: Counter) -> Self {
        Self {
            packets: counter.packets,
            bytes: counter.bytes,
            last_seen: (counter.last_seen_ns != 0)
                .then(|| Duration::from_nanos(counter.last_seen_ns)),
        }
    }
}

/// Packets that a state of the kernel refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Below the replay window.
    pub replay_window: u32,
    /// Seen before.
    pub replay: u32,
    /// Wrong ICV.
    pub integrity: u32,
}

/// Counters of one Child SA as the kernel and the eBPF programs have them.
///
/// The kernel counts octets of inner packets, eBPF those of outer packets; packets are equal.
/// [`crate::wire_overhead_bounds`] says how the octets relate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaReading {
    /// [`crate::ChildSaSpec::id`].
    pub id: u64,
    /// What it carries.
    pub plane: Plane,
    /// The daemon's number of the UE.
    pub ue: u32,
    /// PDU session ID.
    pub pdu_session: Option<u8>,
    /// Our SPI.
    pub spi_in: u32,
    /// The peer's SPI.
    pub spi_out: u32,
    /// XFRM interface ID; 0 without XFRM.
    pub if_id: u32,
    /// reqid in the kernel.
    pub reqid: u32,
    /// Whether the kernel holds the inbound and outbound state (always false in `recording`).
    pub in_kernel: bool,
    /// Kernel counters of the inbound state.
    pub kernel_in: Traffic,
    /// Kernel counters of the outbound state.
    pub kernel_out: Traffic,
    /// What the inbound state refused.
    pub refused: Refused,
    /// eBPF counters of the inbound SPI; `None` without eBPF.
    pub ebpf_in: Option<Seen>,
    /// eBPF counters of the outbound SPI; `None` without eBPF.
    pub ebpf_out: Option<Seen>,
}

/// Classes of packets on NWu, both directions, all CPUs added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassReading {
    /// Received on NWu.
    pub ingress: Classes,
    /// Sent on NWu.
    pub egress: Classes,
    /// IKE_SA_INIT requests that were dropped, which are among those received; `None`: there is no limit
    /// ([`crate::BpfOptions::ike_init_per_source`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_dropped: Option<Seen>,
}

macro_rules! classes {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// One counter per class, as in [`NwuClasses`].
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[allow(missing_docs, reason = "the fields are documented where the map is defined")]
        pub struct Classes {
            $($(#[$doc])* pub $field: Seen,)*
        }

        impl Classes {
            /// Name and counter of every class, in the order of the map.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, Seen)> {
                [$((stringify!($field), self.$field)),*].into_iter()
            }

            /// Adds the values of all CPUs.
            pub(crate) fn sum<'a>(values: impl IntoIterator<Item = &'a NwuClasses>) -> Self {
                let mut total = NwuClasses::default();
                for value in values {
                    $(add(&mut total.$field, &value.$field);)*
                }
                Self { $($field: total.$field.into(),)* }
            }
        }
    };
}

classes! {
    ike_sa_init,
    ike_auth,
    ike_create_child_sa,
    ike_informational,
    ike_other,
    nat_keepalive,
    esp_control,
    esp_user,
    esp_unknown_spi,
    fragment,
    malformed,
    other,
    non_ip,
}

/// Adds the counter of one CPU.
pub(crate) fn add(total: &mut Counter, value: &Counter) {
    total.packets = total.packets.wrapping_add(value.packets);
    total.bytes = total.bytes.wrapping_add(value.bytes);
    total.last_seen_ns = total.last_seen_ns.max(value.last_seen_ns);
}

/// What `start` did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartReport {
    /// What an earlier run had left and is gone now, one line each.
    pub removed: Vec<String>,
    /// XFRM interface of slot 0, if there is one yet.
    pub interface: Option<String>,
    /// How the eBPF programs are attached: `tcx` or `clsact`; `None` without eBPF.
    pub bpf: Option<String>,
    /// Things worth a line in the log.
    pub warnings: Vec<String>,
}

/// What `stop` did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopReport {
    /// Child SAs that were still installed.
    pub child_sas: usize,
    /// Everything that was taken away, one line each.
    pub removed: Vec<String>,
    /// What could not be taken away; empty when nothing is left.
    pub left: Vec<String>,
}
