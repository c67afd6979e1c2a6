//! The Child SAs of PDU sessions, which this end asks for.

use std::net::Ipv4Addr;

use ike::{
    crypto::EspSuite,
    wire::{ExchangeType, NotifyType, Parsed, Payload, TrafficSelector},
};
use rand_core::Rng;

use super::{Child, INNER, N3iwf, Output, Pending, UE_INNER};
use crate::sa::{nonce, notify};

impl N3iwf {
    /// PDU SESSION RESOURCE SETUP REQUEST: all flows in one Child SA.
    pub fn session_setup(&mut self, session: u8, qfis: &[u8], nas: Vec<u8>) {
        let at = self.ues.len().saturating_sub(1);
        if self.create_child(at, session, qfis, nas).is_none() {
            self.complaints.push("no Child SA for a PDU session");
        }
    }

    fn create_child(&mut self, at: usize, session: u8, qfis: &[u8], nas: Vec<u8>) -> Option<()> {
        let nonce = nonce(&mut *self.rng);
        let spi_in = self.rng.next_u32() | 0x100;
        let ue = self.ues.get_mut(at)?;
        // Those of the IKE SA.
        let suite = EspSuite {
            encr: ue.suite.encr,
            integ: ue.suite.integ,
            esn: false,
        };
        ue.pending = Some(Pending {
            session,
            nas,
            nonce: nonce.clone(),
            spi_in,
            suite,
        });
        let id = ue.responder_id;
        // The length counts itself.
        let mut qos = vec![u8::try_from(qfis.len() + 4).ok()?, session];
        qos.push(u8::try_from(qfis.len()).ok()?);
        qos.extend(qfis);
        qos.push(2);
        let host = |address: Ipv4Addr| vec![TrafficSelector::host(address.into())];
        let request = [
            Payload::Sa(EspSuite::offer(&[suite], spi_in)),
            Payload::Nonce(nonce),
            Payload::TsI(host(INNER)),
            Payload::TsR(host(UE_INNER)),
            notify(NotifyType::FIVE_G_QOS_INFO, qos),
            notify(NotifyType::UP_IP4_ADDRESS, INNER.octets().to_vec()),
        ];
        self.send(at, ExchangeType::CreateChildSa, false, id, &request)
    }

    /// Whatever comes is the answer to its own request, also a request of the UE.
    pub(super) fn child_response(
        &mut self,
        at: usize,
        parsed: &Parsed<'_>,
        payloads: &[Payload],
    ) -> Option<()> {
        let mut chosen = None;
        let mut nr = None;
        for payload in payloads {
            match payload {
                Payload::Sa(sa) => chosen = sa.proposals.first(),
                Payload::Nonce(nonce) => nr = Some(nonce),
                _ => {}
            }
        }
        let counts = self.counts_ids;
        let ue = self.ues.get_mut(at)?;
        if counts && parsed.header.message_id != ue.responder_id {
            return None;
        }
        let pending = ue.pending.take()?;
        let child = Child {
            spi_in: pending.spi_in,
            spi_out: chosen?.esp_spi()?,
            keys: ue.sa.child_keys(&pending.suite, &pending.nonce, nr?)?,
            suite: pending.suite,
            user: true,
        };
        ue.responder_id = ue.responder_id.wrapping_add(1);
        self.children.push(child);
        self.downlink_nas(pending.nas);
        self.out.push_back(Output::SessionReady(pending.session));
        Some(())
    }
}
