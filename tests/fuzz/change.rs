//! Changes to a file.

use proptest::prelude::*;

/// One change. Places are fractions of the file, in 65,536ths.
#[derive(Debug, Clone)]
enum Change {
    Flip {
        at: Place,
        bit: u8,
    },
    Put {
        at: Place,
        bytes: Vec<u8>,
    },
    Insert {
        at: Place,
        bytes: Vec<u8>,
    },
    Remove {
        at: Place,
        count: u8,
    },
    Repeat {
        at: Place,
        count: u8,
        times: u8,
    },
    Cut {
        at: Place,
    },
    /// Another number instead of the one that stands there first.
    Number {
        at: Place,
        number: &'static str,
    },
    /// From there on as in another file.
    Join {
        at: Place,
        other: usize,
    },
}

/// Somewhere in a file; near its beginning, where headers are, as often as elsewhere.
#[derive(Debug, Clone, Copy)]
struct Place {
    fraction: u16,
    in_head: bool,
}

impl Place {
    const HEAD: usize = 1024;

    fn of(self, length: usize) -> usize {
        let span = if self.in_head { length.min(Self::HEAD) } else { length };
        span * usize::from(self.fraction) / (usize::from(u16::MAX) + 1)
    }
}

const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1",
    "255",
    "65536",
    "2097152",
    "4294967296",
    "2000000000",
    "9223372036854775807",
    "18446744073709551615",
    "1e999",
    "-1e999",
    "1e-320",
    "null",
    "\"NaN\"",
    "[]",
];

/// Words that mean something somewhere.
const WORDS: &[&[u8]] = &[
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\r\n",
    b"\0",
    b"\"",
    b"{}",
    b"[[",
    b",,",
    b": ",
    b"<|im_end|>",
    b"{{ caption }}",
    b"{% for x in",
    b"data:image/png;base64,",
    b"PAR1",
    b"\xf0\x9f\x98\x80",
];

fn place() -> impl Strategy<Value = Place> {
    (any::<u16>(), any::<bool>()).prop_map(|(fraction, in_head)| Place { fraction, in_head })
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..9),
        proptest::sample::select(WORDS).prop_map(<[u8]>::to_vec),
    ]
}

fn change(files: usize) -> impl Strategy<Value = Change> {
    prop_oneof![
        1 => (place(), 0..8_u8).prop_map(|(at, bit)| Change::Flip { at, bit }),
        1 => (place(), bytes()).prop_map(|(at, bytes)| Change::Put { at, bytes }),
        1 => (place(), bytes()).prop_map(|(at, bytes)| Change::Insert { at, bytes }),
        1 => (place(), any::<u8>()).prop_map(|(at, count)| Change::Remove { at, count }),
        1 => (place(), any::<u8>(), 1..64_u8).prop_map(|(at, count, times)| Change::Repeat { at, count, times }),
        1 => place().prop_map(|at| Change::Cut { at }),
        4 => (place(), proptest::sample::select(NUMBERS)).prop_map(|(at, number)| Change::Number { at, number }),
        1 => (place(), 0..files).prop_map(|(at, other)| Change::Join { at, other }),
    ]
}

/// Versions of these files with one to six changes.
pub(crate) fn changed(corpus: &[Vec<u8>]) -> impl Strategy<Value = Vec<u8>> + use<> {
    let corpus = corpus.to_vec();
    let files = corpus.len();
    let changes = proptest::collection::vec(change(files), 1..7);
    (0..files, changes).prop_map(move |(file, changes)| {
        let start = corpus[file].clone();
        changes
            .iter()
            .fold(start, |bytes, change| apply(change, bytes, &corpus))
    })
}

fn apply(change: &Change, mut bytes: Vec<u8>, corpus: &[Vec<u8>]) -> Vec<u8> {
    if bytes.is_empty() {
        return bytes;
    }
    let length = bytes.len();
    match change {
        Change::Flip { at, bit } => bytes[at.of(length)] ^= 1 << bit,
        Change::Put { at, bytes: put } => {
            let at = at.of(length);
            let end = length.min(at + put.len());
            bytes[at..end].copy_from_slice(&put[..end - at]);
        }
        Change::Insert { at, bytes: inserted } => {
            let at = at.of(length);
            bytes.splice(at..at, inserted.iter().copied());
        }
        Change::Remove { at, count } => {
            let at = at.of(length);
            bytes.drain(at..length.min(at + usize::from(*count)));
        }
        Change::Repeat { at, count, times } => {
            let at = at.of(length);
            let piece = bytes[at..length.min(at + usize::from(*count))].repeat(usize::from(*times));
            bytes.splice(at..at, piece);
        }
        Change::Cut { at } => bytes.truncate(at.of(length)),
        Change::Number { at, number } => {
            let at = at.of(length);
            let start = bytes[at..].iter().position(u8::is_ascii_digit).map(|start| at + start);
            if let Some(start) = start {
                let digits = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                bytes.splice(start..start + digits, number.bytes());
            }
        }
        Change::Join { at, other } => {
            let other = &corpus[*other];
            bytes.truncate(at.of(length));
            bytes.extend_from_slice(&other[at.of(other.len())..]);
        }
    }
    bytes
}
