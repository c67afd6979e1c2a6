//! The 5G core's host: the AMF, its N2 association, the UPF's sessions.

use std::{collections::BTreeMap, time::Duration};

use core5g::{
    amf::{Action, Amf, AssociationId},
    home::Home,
};
use ike::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use crate::{
    files,
    world::{Due, N2Event, Violation, World},
};

const N2: Duration = Duration::from_millis(1);
/// Its position in the N3IWF's configuration.
const THE_AMF: usize = 0;

/// The core, through all its lives.
pub(crate) struct CoreHost {
    ues: usize,
    seed: u64,
    life: u32,
    pub(crate) amf: Option<Amf>,
    /// The one that stands, and the number of the last.
    up: bool,
    association: u64,
    /// While the process hangs: what waits in its socket.
    hangs: Option<Vec<(u64, Vec<u8>)>>,
    /// Uplink TEID and the N3IWF's end.
    pub(crate) upf: BTreeMap<u32, Option<u32>>,
}

impl CoreHost {
    pub(crate) fn new(ues: usize, seed: u64) -> Result<Self, Violation> {
        let mut host = Self {
            ues,
            seed,
            life: 0,
            amf: None,
            up: false,
            association: 0,
            hangs: None,
            upf: BTreeMap::new(),
        };
        host.switch_on()?;
        Ok(host)
    }

    fn switch_on(&mut self) -> Result<(), Violation> {
        let core = files::core(self.ues)?;
        let address = core.upf.address();
        let home = Home::new(core.subscribers, &core.home_network_keys)
            .map_err(|error| Violation::new(error.to_string()))?;
        self.life += 1;
        let mut rng = ChaCha20Rng::seed_from_u64(self.seed ^ 0x0061_6d66);
        rng.set_stream(u64::from(self.life));
        self.amf = Some(Amf::new(core.amf, core.smf, address, home, Box::new(rng)));
        Ok(())
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let amf = self.amf.as_ref().filter(|_| self.hangs.is_none())?;
        amf.poll_timeout().map(Instant::from_origin)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<Action> {
        match self.amf.as_mut() {
            Some(amf) => amf.handle_timeout(now.since_origin()),
            None => Vec::new(),
        }
    }

    /// The last association's number.
    pub(crate) fn association(&self) -> u64 {
        self.association
    }

    /// The process does nothing any more.
    pub(crate) fn hangs(&mut self) {
        self.hangs.get_or_insert_default();
    }

    /// The N3IWF's end is gone.
    pub(crate) fn break_association(&mut self, now: Instant) -> Vec<Action> {
        let stood = std::mem::take(&mut self.up);
        match self.amf.as_mut().filter(|_| stood) {
            Some(amf) => amf.disconnected(now.since_origin(), AssociationId(self.association)),
            None => Vec::new(),
        }
    }
}

impl World {
    /// The association breaks, and both ends see it.
    pub(crate) fn n2_breaks(&mut self) -> Result<(), Violation> {
        if self.core.up {
            let number = self.core.association;
            let actions = self.core.break_association(self.now);
            self.core_acts(actions)?;
            let (life, event) = (self.n3iwf.life, N2Event::Broken(number));
            self.after(N2, Due::N2 { life, event });
        }
        Ok(())
    }

    pub(crate) fn core_crashes(&mut self, down: Duration) -> Result<(), Violation> {
        self.n2_breaks()?;
        if self.core.amf.take().is_some() {
            self.core.upf.clear();
            self.core.hangs = None;
            self.after(down, Due::CoreStart);
        }
        Ok(())
    }

    pub(crate) fn core_starts(&mut self) -> Result<(), Violation> {
        if self.core.amf.is_none() {
            self.core.switch_on()?;
        }
        Ok(())
    }

    /// The process goes on, with what came in meanwhile.
    pub(crate) fn core_goes_on(&mut self) -> Result<(), Violation> {
        for (number, data) in self.core.hangs.take().unwrap_or_default() {
            let event = N2Event::ToAmf(number, data);
            self.n2_event(self.n3iwf.life, event)?;
        }
        Ok(())
    }

    pub(crate) fn n2_event(&mut self, life: u32, event: N2Event) -> Result<(), Violation> {
        let now = self.now;
        let amf_number = THE_AMF;
        match event {
            N2Event::Connect => {
                let event = match self.core.amf.as_mut().filter(|_| life == self.n3iwf.life) {
                    Some(amf) => {
                        self.core.association += 1;
                        self.core.up = true;
                        let number = AssociationId(self.core.association);
                        amf.connected(now.since_origin(), number, "n3iwf");
                        N2Event::Up(self.core.association)
                    }
                    None => N2Event::Refused,
                };
                self.after(N2, Due::N2 { life, event });
            }
            N2Event::ToAmf(number, data) => {
                if !(self.core.up && number == self.core.association) {
                    return Ok(());
                }
                if let Some(waiting) = self.core.hangs.as_mut() {
                    waiting.push((number, data));
                } else if let Some(amf) = self.core.amf.as_mut() {
                    let handled = amf.handle(now.since_origin(), AssociationId(number), &data);
                    self.core_acts(handled.actions)?;
                }
            }
            N2Event::Up(number) | N2Event::ToN3iwf(number, _)
                if !(self.core.up && number == self.core.association) => {}
            N2Event::Up(_) => {
                if let Some(gateway) = self.n3iwf.of_life(life) {
                    gateway.amf_connected(now, amf_number);
                }
            }
            N2Event::ToN3iwf(_, data) => {
                if let Some(gateway) = self.n3iwf.of_life(life) {
                    gateway.handle_ngap(now, amf_number, &data);
                }
            }
            N2Event::Refused => {
                if let Some(gateway) = self.n3iwf.of_life(life) {
                    gateway.amf_lost(now, amf_number, "connection refused");
                }
            }
            N2Event::Broken(number) => {
                if let Some(gateway) = self.n3iwf.of_life(life)
                    && number == self.core.association
                {
                    gateway.amf_lost(now, amf_number, "association lost");
                }
            }
        }
        Ok(())
    }

    pub(crate) fn core_acts(&mut self, actions: Vec<Action>) -> Result<(), Violation> {
        let life = self.n3iwf.life;
        for action in actions {
            match action {
                Action::Send {
                    association, data, ..
                } => {
                    let event = N2Event::ToN3iwf(association.0, data);
                    self.after(N2, Due::N2 { life, event });
                }
                Action::Abort(_) => self.n2_breaks()?,
                Action::Install(session) => {
                    if self.core.upf.insert(session.uplink_teid, None).is_some() {
                        let teid = session.uplink_teid;
                        return Err(Violation::new(format!("uplink TEID {teid} twice")));
                    }
                }
                Action::Connect {
                    uplink_teid,
                    downlink,
                    ..
                } => {
                    if let Some(end) = self.core.upf.get_mut(&uplink_teid) {
                        *end = Some(downlink.1);
                    }
                }
                Action::Reflow { .. } => {}
                Action::Remove { uplink_teid } => {
                    self.core.upf.remove(&uplink_teid);
                }
            }
        }
        Ok(())
    }
}
