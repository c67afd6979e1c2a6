//! A data plane that only remembers, and refuses on demand.

use std::collections::{BTreeMap, HashMap};

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

/// One direction of a Child SA: the SPIs of who receives and of who sends.
type Way = (u32, u32);

/// Every ESP key that any kernel ever had.
#[derive(Default)]
pub(crate) struct EspKeys {
    ways: HashMap<Vec<u8>, Way>,
    /// The key and the PDU session of each direction.
    of: HashMap<Way, (Vec<u8>, Option<u8>)>,
}

impl EspKeys {
    /// A key protects one direction of one SA; both ends have the same key and the same purpose for it.
    fn book(&mut self, who: &str, sa: &Sa) -> Result<(), Violation> {
        for (way, key) in [
            ((sa.spi_in, sa.spi_out), &sa.key_in),
            ((sa.spi_out, sa.spi_in), &sa.key_out),
        ] {
            let name = format!("{who}: SPI {:08x} to {:08x}", way.1, way.0);
            if self
                .ways
                .insert(key.clone(), way)
                .is_some_and(|old| old != way)
            {
                return Err(Violation::new(format!("{name} has a used key")));
            }
            let here = (key.clone(), sa.session);
            if let Some(there) = self.of.insert(way, here.clone())
                && there != here
            {
                return Err(Violation::new(format!("{name}: the ends differ")));
            }
        }
        Ok(())
    }
}

/// The Child SAs of one host.
#[derive(Default)]
pub(crate) struct Plane {
    held: BTreeMap<ChildId, Sa>,
}

impl Plane {
    pub(crate) fn install(
        &mut self,
        keys: &mut EspKeys,
        who: &str,
        child: ChildId,
        sa: Sa,
    ) -> Result<(), Violation> {
        keys.book(who, &sa)?;
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

    pub(crate) fn children(&self) -> impl Iterator<Item = ChildId> {
        self.held.keys().copied()
    }

    /// Whether it has this one with these SPIs.
    pub(crate) fn has(&self, child: ChildId, spi_in: u32, spi_out: u32) -> bool {
        let held = self.held.get(&child);
        held.is_some_and(|sa| (sa.spi_in, sa.spi_out) == (spi_in, spi_out))
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
