//! A data plane that only remembers, and refuses on demand.

use std::collections::{BTreeMap, HashSet};

use ike::ChildId;

use crate::world::Violation;

/// What two ends of a Child SA have in common, seen from one of them.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Sa {
    pub(crate) spi_in: u32,
    pub(crate) spi_out: u32,
    pub(crate) key_in: Vec<u8>,
    pub(crate) key_out: Vec<u8>,
    /// PDU session; none for signalling.
    pub(crate) session: Option<u8>,
}

impl Sa {
    /// The same Child SA from its other end.
    fn turned(&self) -> Self {
        Self {
            spi_in: self.spi_out,
            spi_out: self.spi_in,
            key_in: self.key_out.clone(),
            key_out: self.key_in.clone(),
            session: self.session,
        }
    }
}

/// The Child SAs of one host.
#[derive(Default)]
pub(crate) struct Plane {
    held: BTreeMap<ChildId, Sa>,
    /// Every key that was ever installed.
    keys: HashSet<Vec<u8>>,
}

impl Plane {
    /// Installs; a key that protected another SA before is a violation.
    pub(crate) fn install(&mut self, who: &str, child: ChildId, sa: Sa) -> Result<(), Violation> {
        for key in [&sa.key_in, &sa.key_out] {
            if !self.keys.insert(key.clone()) {
                return Err(Violation::new(format!(
                    "{who}: Child SA {child} has a used key"
                )));
            }
        }
        if self.held.values().any(|other| other.spi_in == sa.spi_in) {
            return Err(Violation::new(format!(
                "{who}: SPI {:08x} twice",
                sa.spi_in
            )));
        }
        match self.held.insert(child, sa) {
            None => Ok(()),
            Some(_) => Err(Violation::new(format!(
                "{who}: Child SA {child} installed twice"
            ))),
        }
    }

    pub(crate) fn remove(&mut self, child: ChildId) {
        self.held.remove(&child);
    }

    /// The daemon is new: it removes what the earlier one left.
    pub(crate) fn clear(&mut self) {
        self.held.clear();
    }

    pub(crate) fn sas(&self) -> impl Iterator<Item = &Sa> {
        self.held.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether this end has the counterpart of an SA.
    pub(crate) fn matches(&self, sa: &Sa) -> bool {
        let turned = sa.turned();
        self.held.values().any(|own| *own == turned)
    }
}
