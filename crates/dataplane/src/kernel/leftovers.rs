//! What an earlier run of this daemon left, told from what belongs to others.

use super::Running;
use crate::{Config, Error, link::Link, spec::MAX_REQID};

impl Running {
    /// Removes policies, states and interfaces that carry the marks of this daemon.
    pub(super) fn remove_leftovers(&mut self, config: &Config) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        for (key, reqid) in self.db.policies()? {
            if config.owns(key.if_id, reqid) && self.db.delete_policy(&key)? {
                removed.push(format!(
                    "IPsec policy {} -> {} if_id {}",
                    key.source, key.destination, key.if_id
                ));
            }
        }
        for state in self.db.states()? {
            if let (Some(id), Some(place)) = (state.id, state.place)
                && config.owns(place.if_id, place.reqid)
                && self.db.delete_state(id)?
            {
                removed.push(format!("{id} if_id {}", place.if_id));
            }
        }
        for link in self.links.list()? {
            if config.owns_link(&link)? {
                self.links.delete(&link)?;
                removed.push(format!("interface {}", link.name));
            }
        }
        Ok(removed)
    }
}

impl Config {
    /// Whether a state or policy is one of this daemon's, of this run or an earlier one.
    fn owns(&self, if_id: u32, reqid: u32) -> bool {
        let within = |value: u32, first: u32, count: u32| value >= first && value - first < count;
        within(if_id, self.interface_id, self.options.slots)
            && within(reqid, self.options.reqid_base, MAX_REQID)
    }

    /// Whether an interface is this daemon's; an error when someone else has our name or ID.
    fn owns_link(&self, link: &Link) -> Result<bool, Error> {
        let Some(if_id) = link.if_id else {
            return if link.name == self.interface_name {
                Err(Error::Foreign(format!("interface {}", link.name)))
            } else {
                Ok(false)
            };
        };
        if link.alias.as_deref() == Some(&self.owner) {
            return Ok(true);
        }
        let slot = if_id
            .checked_sub(self.interface_id)
            .filter(|slot| *slot < self.options.slots);
        match slot {
            // Made, but killed before it was marked: our name, our ID, and never set up.
            Some(slot) if link.alias.is_none() && !link.up && link.name == self.interface(slot) => {
                Ok(true)
            }
            Some(_) => Err(Error::Foreign(format!(
                "XFRM interface {} with if_id {if_id}",
                link.name
            ))),
            None if link.name == self.interface_name => {
                Err(Error::Foreign(format!("interface {}", link.name)))
            }
            None => Ok(false),
        }
    }
}
