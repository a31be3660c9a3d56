//! An evaluation that several processes share.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Most shards of one evaluation.
const SHARDS_MAX: usize = 10_000;

/// One of several equal parts of an evaluation's prompts, written `2/8`. Each is a stretch of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Counted from 1.
    number: usize,
    of: usize,
}

/// A text that names no shard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write it as NUMBER/SHARDS, from 1/1 to {SHARDS_MAX}/{SHARDS_MAX}, for example 2/8")]
pub struct InvalidShard;

impl Shard {
    /// Which of `count` prompts are this shard's. Shards of the same number of prompts differ by one of them at most.
    pub fn prompts(self, count: usize) -> Range<usize> {
        // In u128 no file of prompts is too long.
        let before = |shards: usize| (count as u128 * shards as u128 / self.of as u128) as usize;
        before(self.number - 1)..before(self.number)
    }

    /// As in names of files: `2-of-8`.
    pub fn file_name(self) -> String {
        format!("{}-of-{}", self.number, self.of)
    }
}

impl FromStr for Shard {
    type Err = InvalidShard;

    fn from_str(text: &str) -> Result<Self, InvalidShard> {
        let (number, of) = text.split_once('/').ok_or(InvalidShard)?;
        let count = |text: &str| text.parse::<usize>().map_err(|_| InvalidShard);
        let (number, of) = (count(number)?, count(of)?);
        match (1..=of).contains(&number) && of <= SHARDS_MAX {
            true => Ok(Self { number, of }),
            false => Err(InvalidShard),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_all_prompts_evenly_and_in_order() {
        for count in [0, 1, 7, 8, 1000] {
            for of in [1, 3, 8] {
                let shards = (1..=of).map(|number| Shard { number, of }.prompts(count));
                let sizes: Vec<usize> = shards.clone().map(|shard| shard.len()).collect();
                assert!(
                    sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1,
                    "{sizes:?}"
                );
                assert!(shards.flatten().eq(0..count));
            }
        }
        assert_eq!(Shard { number: 3, of: 3 }.prompts(usize::MAX).end, usize::MAX);
    }

    #[test]
    fn a_shard_is_one_of_those_that_there_are() {
        let shard: Shard = "2/8".parse().unwrap();
        assert_eq!((shard.to_string(), shard.file_name()), ("2/8".into(), "2-of-8".into()));
        for wrong in [
            "", "2", "0/8", "9/8", "2/", "/8", "1/0", "-1/8", "2/8/1", "1/10001", "a/b",
        ] {
            assert_eq!(wrong.parse::<Shard>(), Err(InvalidShard), "{wrong}");
        }
    }
}
