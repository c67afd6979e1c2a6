//! NAS over TCP inside the signalling SA: octets get through only where both ends hold the same SA.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use ike::Instant;
use n3iwf_user::core::NasLink;
use nwu::{EnvelopeReader, nas_envelope};
use tracing::debug;

use crate::world::{Due, Violation, World};

/// How often TCP tries.
const AGAIN: Duration = Duration::from_secs(1);
/// And for how long.
const PATIENCE: Duration = Duration::from_secs(20);

/// One connection, seen from both ends.
struct Connection {
    ue: usize,
    life: u32,
    token: u64,
    from: IpAddr,
    state: State,
    up: VecDeque<Vec<u8>>,
    down: VecDeque<Vec<u8>>,
    /// Since when something waits.
    waits: Option<Instant>,
    ue_open: bool,
    n3iwf_open: bool,
    reader: EnvelopeReader,
}

#[derive(PartialEq, Eq)]
enum State {
    Connecting,
    Up,
}

/// All connections by number, which is also the N3IWF's [`NasLink`].
#[derive(Default)]
pub(crate) struct Connections {
    all: BTreeMap<u64, Connection>,
    last: u64,
}

impl Connections {
    pub(crate) fn open(
        &mut self,
        ue: usize,
        life: u32,
        token: u64,
        from: IpAddr,
        now: Instant,
    ) -> u64 {
        self.last += 1;
        let connection = Connection {
            ue,
            life,
            token,
            from,
            state: State::Connecting,
            up: VecDeque::new(),
            down: VecDeque::new(),
            waits: Some(now),
            ue_open: true,
            n3iwf_open: false,
            reader: EnvelopeReader::new(),
        };
        self.all.insert(self.last, connection);
        self.last
    }

    pub(crate) fn send_up(&mut self, number: u64, octets: Vec<u8>, now: Instant) {
        if let Some(connection) = self.all.get_mut(&number) {
            connection.up.push_back(octets);
            connection.waits.get_or_insert(now);
        }
    }

    /// Into nothing, when there is no such connection any more.
    pub(crate) fn send_down(
        &mut self,
        number: u64,
        message: &[u8],
        now: Instant,
    ) -> Result<(), Violation> {
        let envelope =
            nas_envelope::wrap(message).map_err(|error| Violation::new(error.to_string()))?;
        if let Some(connection) = self.all.get_mut(&number).filter(|of| of.n3iwf_open) {
            connection.down.push_back(envelope);
            connection.waits.get_or_insert(now);
        }
        Ok(())
    }

    pub(crate) fn ue_closes(&mut self, number: u64, now: Instant) {
        if let Some(connection) = self.all.get_mut(&number) {
            connection.ue_open = false;
            connection.waits.get_or_insert(now);
        }
    }

    pub(crate) fn n3iwf_closes(&mut self, number: u64, now: Instant) {
        if let Some(connection) = self.all.get_mut(&number) {
            connection.n3iwf_open = false;
            connection.waits.get_or_insert(now);
        }
    }

    /// The UE's kernel forgets with the process; the N3IWF hears nothing.
    pub(crate) fn ue_gone(&mut self, number: Option<u64>) {
        if let Some(connection) = number.and_then(|number| self.all.get_mut(&number)) {
            connection.ue_open = false;
            if !connection.n3iwf_open {
                self.all.retain(|_, of| of.ue_open || of.n3iwf_open);
            }
        }
    }

    /// As [`ue_gone`](Self::ue_gone), for all.
    pub(crate) fn n3iwf_gone(&mut self) {
        for connection in self.all.values_mut() {
            connection.n3iwf_open = false;
            connection.down.clear();
        }
        self.all.retain(|_, of| of.ue_open);
    }

    /// Connections that either end still has.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }
}

impl World {
    /// Whether packets of a connection are decrypted at the other end, both ways.
    fn carried(&self, connection: &Connection) -> bool {
        let Some(host) = self.ues.get(connection.ue) else {
            return false;
        };
        host.life == connection.life
            && self.n3iwf.look().is_some()
            && self.network.reaches(self.now, connection.ue)
            && host
                .plane
                .sas()
                .any(|sa| sa.session.is_none() && self.n3iwf.plane.matches(sa))
    }

    /// Moves what waits, or tries again later, or gives up.
    pub(crate) fn nas_moves(&mut self, number: u64) {
        let now = self.now;
        let Some(mut connection) = self.nas.all.remove(&number) else {
            return;
        };
        let Some(since) = connection.waits else {
            self.nas.all.insert(number, connection);
            return;
        };
        if !self.carried(&connection) {
            if now.duration_since(since) < PATIENCE {
                self.nas.all.insert(number, connection);
                self.after(AGAIN, Due::Nas { connection: number });
            } else {
                self.nas_ends(number, &connection, true);
            }
            return;
        }
        connection.waits = None;
        if connection.state == State::Connecting && connection.ue_open {
            connection.state = State::Up;
            connection.n3iwf_open = true;
            let (life, token) = (connection.life, connection.token);
            if let Some(gateway) = self.n3iwf.gateway() {
                gateway.nas_connected(now, NasLink(number), connection.from);
            }
            if let Some(ue) = self.ue_of_life(connection.ue, life) {
                ue.nas_connected(now, token);
            }
        }
        self.nas_delivers(number, &mut connection);
        if connection.ue_open && connection.n3iwf_open {
            self.nas.all.insert(number, connection);
        } else {
            self.nas_ends(number, &connection, false);
        }
    }

    fn nas_delivers(&mut self, number: u64, connection: &mut Connection) {
        let now = self.now;
        while let Some(octets) = connection.up.pop_front() {
            connection.reader.push(&octets);
            while let Ok(Some(message)) = connection.reader.next_message() {
                if let Some(gateway) = self.n3iwf.gateway().filter(|_| connection.n3iwf_open) {
                    gateway.nas_received(now, NasLink(number), &message);
                }
            }
        }
        while let Some(octets) = connection.down.pop_front() {
            let token = connection.token;
            if let Some(ue) = self
                .ue_of_life(connection.ue, connection.life)
                .filter(|_| connection.ue_open)
            {
                // In pieces, as a stream may come.
                for piece in octets.chunks(11) {
                    ue.nas_received(now, token, piece);
                }
            }
        }
    }

    /// Tells the ends that still had it.
    fn nas_ends(&mut self, number: u64, connection: &Connection, timed_out: bool) {
        let now = self.now;
        debug!(at = ?now, number, timed_out, "NAS connection ends");
        let why = if timed_out {
            "timed out"
        } else {
            "closed by the peer"
        };
        if connection.n3iwf_open
            && let Some(gateway) = self.n3iwf.gateway()
        {
            gateway.nas_closed(now, NasLink(number));
        }
        if connection.ue_open {
            if let Some(host) = self.ues.get_mut(connection.ue)
                && host.connection == Some(number)
            {
                host.connection = None;
            }
            let token = connection.token;
            if let Some(ue) = self.ue_of_life(connection.ue, connection.life) {
                ue.nas_closed(now, token, why);
            }
        }
    }
}
