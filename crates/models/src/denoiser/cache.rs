//! A small cache of what is expensive to make and needed again soon.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Values kept. A run has one size of picture and one length of prompts, an evaluation may have another.
const CAPACITY: usize = 8;

/// The values that were asked for last, by key.
#[derive(Debug)]
pub(crate) struct Recent<K, V>(Mutex<VecDeque<(K, Arc<V>)>>);

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: PartialEq, V> Recent<K, V> {
    /// The value of `key`, made once while it is remembered. Whoever asks at the same time waits.
    pub(crate) fn get<E>(&self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<Arc<V>, E> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let position = entries.iter().position(|(known, _)| *known == key);
        let entry = match position.and_then(|position| entries.remove(position)) {
            Some(entry) => entry,
            None => (key, Arc::new(make()?)),
        };
        let value = Arc::clone(&entry.1);
        entries.push_front(entry);
        entries.truncate(CAPACITY);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(value: usize) -> impl FnOnce() -> Result<usize, ()> {
        move || Ok(value)
    }

    #[test]
    fn a_value_is_made_once_and_forgotten_when_others_were_needed_since() {
        let recent = Recent::default();
        assert_eq!(*recent.get("a", make(1)).unwrap(), 1);
        assert_eq!(*recent.get("a", make(2)).unwrap(), 1, "made again");
        for key in ["b", "c", "d", "e", "f", "g", "h", "i"] {
            recent.get(key, make(0)).unwrap();
        }
        assert_eq!(*recent.get("a", make(3)).unwrap(), 3, "kept beyond the capacity");
    }

    #[test]
    fn what_could_not_be_made_is_not_kept() {
        let recent: Recent<&str, usize> = Recent::default();
        assert!(recent.get("a", || Err(())).is_err());
        assert_eq!(*recent.get("a", make(4)).unwrap(), 4);
    }
}
