//! What the programs tell by their ring buffer.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use ebpf_common::relay::{EVENT_FIRST_PACKET, RelayEvent, RelayReasons, UPLINK};
use tracing::{info, warn};

/// Events read at one time; a flood of them does not hold up the daemon.
const AT_ONCE: usize = 256;

/// A rare event on the path through the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelEvent {
    /// The session it is about ([`crate::relay::AccessSession::dl_teid`]).
    pub dl_teid: Option<u32>,
    /// `CLOCK_MONOTONIC`, to a tick of the kernel.
    pub time: Duration,
    /// What happened.
    pub kind: KernelEventKind,
}

/// See [`KernelEvent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEventKind {
    /// The first uplink packet of a session since its Child SAs were named.
    FirstPacket {
        /// SPI of the Child SA; 0 without IPsec.
        spi: u32,
    },
    /// Packets were not relayed. A processor tells of the first one, the second, the fourth and so on.
    Refused {
        /// GRE to GTP-U, else the other way.
        uplink: bool,
        /// As in [`crate::relay::KernelReasons`].
        reason: &'static str,
        /// How many of this reason the processor has seen.
        count: u64,
        /// Outer source of the last one.
        source: IpAddr,
    },
}

impl KernelEvent {
    fn new(event: &RelayEvent, dl_teid: Option<u32>) -> Self {
        let kind = if event.kind == EVENT_FIRST_PACKET {
            KernelEventKind::FirstPacket { spi: event.spi }
        } else {
            let named = RelayReasons::default().named();
            let reason = usize::try_from(event.reason).ok();
            let reason = reason.and_then(|reason| named.get(reason));
            KernelEventKind::Refused {
                uplink: event.direction == UPLINK,
                reason: reason.map_or("unknown", |(name, _)| *name),
                count: event.count,
                source: Ipv6Addr::from(event.source).to_canonical(),
            }
        };
        Self {
            dl_teid,
            time: Duration::from_nanos(event.time_ns),
            kind,
        }
    }

    /// One line in the log.
    pub(super) fn log(&self) {
        let teid = self.dl_teid;
        match &self.kind {
            KernelEventKind::FirstPacket { spi } => {
                info!(
                    teid,
                    spi = format!("{spi:08x}"),
                    "first packet of the session"
                );
            }
            KernelEventKind::Refused {
                uplink,
                reason,
                count,
                source,
            } => {
                let direction = if *uplink { "uplink" } else { "downlink" };
                warn!(direction, reason, count, %source, teid, "packets not relayed by the kernel");
            }
        }
    }
}

/// The events that wait; `dl_teid` finds a session by its number.
pub(super) fn read(
    ring: &mut RingBuf<MapData>,
    dl_teid: impl Fn(u32) -> Option<u32>,
) -> Vec<KernelEvent> {
    let mut events = Vec::new();
    while events.len() < AT_ONCE
        && let Some(item) = ring.next()
    {
        if let Some(event) = RelayEvent::read(&item) {
            events.push(KernelEvent::new(&event, dl_teid(event.session)));
        }
    }
    events
}
