//! Who has which place of a map.

use std::collections::BTreeMap;

/// Single places of an array.
#[derive(Debug)]
pub(crate) struct Places {
    taken: Vec<bool>,
    /// Where the search for any free place goes on.
    next: usize,
}

impl Places {
    pub(crate) fn new(count: u32) -> Self {
        Self {
            taken: vec![false; usize::try_from(count).unwrap_or(0)],
            next: 0,
        }
    }

    /// This place, if it is free.
    pub(crate) fn take(&mut self, place: u32) -> bool {
        let found = usize::try_from(place)
            .ok()
            .and_then(|place| self.taken.get_mut(place));
        found.is_some_and(|taken| !std::mem::replace(taken, true))
    }

    /// Any place.
    pub(crate) fn any(&mut self) -> Option<u32> {
        let len = self.taken.len();
        let place = (self.next..len)
            .chain(0..self.next.min(len))
            .find(|place| self.taken.get(*place) == Some(&false))?;
        *self.taken.get_mut(place)? = true;
        self.next = place + 1;
        u32::try_from(place).ok()
    }

    pub(crate) fn free(&mut self, place: u32) {
        let found = usize::try_from(place)
            .ok()
            .and_then(|place| self.taken.get_mut(place));
        if let Some(taken) = found {
            *taken = false;
        }
    }
}

/// Ranges of an array.
#[derive(Debug)]
pub(crate) struct Ranges {
    /// Length of each free range, by its first place; no two of them touch.
    free: BTreeMap<u32, u32>,
}

impl Ranges {
    pub(crate) fn new(count: u32) -> Self {
        Self {
            free: (count > 0).then_some((0, count)).into_iter().collect(),
        }
    }

    /// The first place of `len` in a row.
    pub(crate) fn take(&mut self, len: u32) -> Option<u32> {
        let (start, room) = self
            .free
            .iter()
            .map(|(start, room)| (*start, *room))
            .find(|(_, room)| *room >= len)?;
        self.free.remove(&start);
        if room > len {
            self.free.insert(start.checked_add(len)?, room - len);
        }
        Some(start)
    }

    pub(crate) fn free(&mut self, start: u32, len: u32) {
        let (mut start, mut len) = (start, len);
        let before = self.free.range(..start).next_back();
        if let Some((first, room)) = before.map(|(first, room)| (*first, *room))
            && first.saturating_add(room) == start
        {
            self.free.remove(&first);
            (start, len) = (first, len.saturating_add(room));
        }
        if let Some(room) = self.free.remove(&start.saturating_add(len)) {
            len = len.saturating_add(room);
        }
        self.free.insert(start, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_one_owner() {
        let mut places = Places::new(4);
        assert!(places.take(2) && !places.take(2) && !places.take(4));
        let mut rest: Vec<u32> = std::iter::from_fn(|| places.any()).collect();
        rest.sort_unstable();
        assert_eq!(rest, [0, 1, 3]);
        places.free(1);
        places.free(9);
        assert_eq!((places.any(), places.any()), (Some(1), None));
    }

    #[test]
    fn ranges_grow_together_again() {
        let mut ranges = Ranges::new(10);
        let taken: Vec<u32> = [3, 3, 4]
            .iter()
            .filter_map(|len| ranges.take(*len))
            .collect();
        assert_eq!(taken, [0, 3, 6]);
        assert_eq!(ranges.take(1), None);
        ranges.free(0, 3);
        ranges.free(6, 4);
        assert_eq!(ranges.take(5), None, "not in a row");
        ranges.free(3, 3);
        assert_eq!(ranges.take(10), Some(0));
        assert_eq!(Ranges::new(0).take(1), None);
    }
}
