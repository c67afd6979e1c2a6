//! The XFRM interfaces of a UE's sessions, where the program for downlink packets hangs.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::{LinkOrder, TcAttachType, tc::SchedClassifierLinkId},
};
use ebpf_common::ue::{MAP_UE_TUNNELS, PROGRAM_UE_DOWNLINK};

use crate::{
    Error,
    loader::{Attachment, add_clsact, failed, hang, open, program},
};

/// `BPF_ANY` (linux/bpf.h).
const BPF_ANY: u64 = 0;

/// An interface with the program.
struct Hook {
    pdu_session: u8,
    link: SchedClassifierLinkId,
}

/// Which interface is whose.
pub(super) struct Tunnels {
    map: HashMap<MapData, u32, u32>,
    attachment: Attachment,
    hooks: BTreeMap<u32, Hook>,
}

impl Tunnels {
    pub(super) fn open(ebpf: &mut Ebpf, attachment: Attachment) -> Result<Self, Error> {
        Ok(Self {
            map: open(ebpf, MAP_UE_TUNNELS)?,
            attachment,
            hooks: BTreeMap::new(),
        })
    }

    /// Says by which interfaces (index and name) a session's packets come; `ifindex` is the session's own.
    /// One that is another session's stays so: without XFRM interfaces all have the same.
    pub(super) fn set(
        &mut self,
        ebpf: &mut Ebpf,
        pdu_session: u8,
        ifindex: u32,
        wanted: &[(u32, &str)],
    ) -> Result<(), Error> {
        let gone = |index: &u32, hook: &mut Hook| {
            hook.pdu_session == pdu_session && wanted.iter().all(|(wanted, _)| wanted != index)
        };
        let old: Vec<(u32, Hook)> = self.hooks.extract_if(.., gone).collect();
        for (index, hook) in old {
            self.unhook(ebpf, index, hook);
        }
        for (index, name) in wanted {
            if self.hooks.contains_key(index) {
                continue;
            }
            if self.attachment == Attachment::Clsact {
                add_clsact(name)?;
            }
            let link = hang(
                ebpf,
                PROGRAM_UE_DOWNLINK,
                name,
                TcAttachType::Ingress,
                LinkOrder::last(),
                self.attachment,
            )?;
            self.hooks.insert(*index, Hook { pdu_session, link });
            self.map
                .insert(*index, ifindex, BPF_ANY)
                .map_err(|e| failed("write ue_tunnels", &e))?;
        }
        Ok(())
    }

    /// Whether a session has any interface here.
    pub(super) fn has(&self, pdu_session: u8) -> bool {
        self.hooks
            .values()
            .any(|hook| hook.pdu_session == pdu_session)
    }

    fn unhook(&mut self, ebpf: &mut Ebpf, index: u32, hook: Hook) {
        let _ = self.map.remove(&index);
        let detached = program(ebpf, PROGRAM_UE_DOWNLINK)
            .and_then(|program| program.detach(hook.link).map_err(|e| failed("detach", &e)));
        if let Err(error) = detached {
            tracing::debug!(%error, "the program goes with its interface");
        }
    }
}
