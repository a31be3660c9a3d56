//! What can be wrong with a file of records.

use std::fmt;
use std::io;
use std::path::PathBuf;

use gavel_core::{Hint, text};

/// Where a record stands in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Records before it.
    pub index: usize,
    /// Its line, counted from 1; a JSON array and YAML have none.
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "record {}", self.index)?;
        match self.line {
            Some(line) => write!(formatter, " (line {line})"),
            None => Ok(()),
        }
    }
}

/// What a file's records are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// [`super::LabelledSet`].
    Examples,
    /// [`super::tasks`] of words alone.
    Prompts,
    /// [`super::tasks`] that edit source pictures.
    Edits,
    /// [`super::questions`].
    Questions,
}

impl Expected {
    fn record(self) -> &'static str {
        match self {
            Self::Examples => "labelled example",
            Self::Prompts => "prompt",
            Self::Edits => "edit",
            Self::Questions => "question",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Examples => {
                "write records such as {\"query\": TEXT, \"response\": [PICTURE, PICTURE], \"label_rank\": [1, 2]}, 1 being the \
                 better one: a JSON array, one on each line, or YAML"
            }
            Self::Prompts => {
                "write a text file with one prompt on each line, or records such as {\"prompt\": TEXT}: a JSON array, one on each \
                 line (.jsonl), YAML, or a table (.csv, .tsv) with a column `prompt`"
            }
            Self::Edits => {
                "write records such as {\"instruction\": TEXT, \"source_image\": PICTURE}: a JSON array, one on each line (.jsonl), \
                 YAML, or a table (.csv, .tsv) with these columns"
            }
            Self::Questions => {
                "write a table (.csv, .tsv) with the columns item_id, proposition_id, question_natural_language, dependency and \
                 category_broad"
            }
        }
    }
}

/// A form of file that is not read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// Apache Parquet.
    Parquet,
    /// Apache Arrow or Feather.
    Arrow,
    /// A zip archive, which spreadsheets are too.
    Zip,
    /// Packed by gzip or zstd.
    Packed,
    /// JSON or JSON Lines in a file whose name does not say so.
    NamelessJson,
    /// CSV or TSV where records hold lists.
    Table,
}

impl Foreign {
    /// The form that the first bytes of a file say, where it is no text.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        const MARKS: &[(&[u8], Foreign)] = &[
            (b"PAR1", Foreign::Parquet),
            (b"ARROW1", Foreign::Arrow),
            (b"PK\x03\x04", Foreign::Zip),
            (b"\x1f\x8b", Foreign::Packed),
            (b"\x28\xb5\x2f\xfd", Foreign::Packed),
        ];
        let found = MARKS.iter().find(|(mark, _)| bytes.starts_with(mark));
        found.map(|(_, form)| *form)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Parquet => "a Parquet file",
            Self::Arrow => "an Arrow file",
            Self::Zip => "a spreadsheet or another zip archive",
            Self::Packed => "a compressed file",
            Self::NamelessJson => "JSON, and its name does not say so",
            Self::Table => "a table",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Parquet => {
                "convert it: python -c \"import pandas; pandas.read_parquet('IN.parquet').to_json('OUT.jsonl', orient='records', \
                 lines=True)\""
            }
            Self::Arrow => {
                "convert it: python -c \"import pandas; pandas.read_feather('IN.arrow').to_json('OUT.jsonl', orient='records', \
                 lines=True)\""
            }
            Self::Zip => "save it as CSV, or unpack it",
            Self::Packed => "unpack it with gunzip or unzstd",
            Self::NamelessJson => "name it with .jsonl (a record on each line) or .json (a list of records) at the end",
            Self::Table => "write JSON Lines: a labelled example holds lists, which a cell does not",
        }
    }
}

/// A file of records that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be read.
    #[error("{}: cannot read the {}s", file.display(), expected.record())]
    Read {
        /// The file.
        file: PathBuf,
        /// What it was to be.
        expected: Expected,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file has a form that is not read.
    #[error("{}: the {}s are {}", file.display(), expected.record(), form.name())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// What it was to be.
        expected: Expected,
        /// What it is.
        form: Foreign,
    },
    /// The file is no list at all.
    #[error("{}: not a list of {}s", file.display(), expected.record())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// What it was to be.
        expected: Expected,
        /// Where and what.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A record that is no object.
    #[error("{}: {place} is no {}", file.display(), expected.record())]
    Record {
        /// The file.
        file: PathBuf,
        /// The record.
        place: Place,
        /// What it was to be.
        expected: Expected,
        /// Where and what, if it does not parse.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// A field that is missing or wrong.
    #[error("{}: {place}: `{field}` {fault}", file.display())]
    Field {
        /// The file.
        file: PathBuf,
        /// The record.
        place: Place,
        /// The field as the record spells it, for example `images[1]`.
        field: String,
        /// What is wrong with it.
        #[source]
        fault: Box<RecordFault>,
    },
    /// No record at all.
    #[error("{}: no {}", file.display(), expected.record())]
    Empty {
        /// The file.
        file: PathBuf,
        /// What it was to be.
        expected: Expected,
    },
    /// Records of different kinds.
    #[error("{}: {first} and {other} {difference}", file.display())]
    Mixed {
        /// The file.
        file: PathBuf,
        /// The first record.
        first: Place,
        /// The first that differs from it.
        other: Place,
        /// In what.
        difference: &'static str,
    },
}

/// What is wrong with a field of a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordFault {
    /// It is not there, nor under another name.
    #[error("is missing")]
    Missing {
        /// The names that it may have.
        names: &'static [&'static str],
    },
    /// It is there under two names, or with another label.
    #[error("stands beside `{other}`, and only one of them may")]
    Twice {
        /// The other field.
        other: String,
    },
    /// A text of nothing.
    #[error("is empty")]
    Blank,
    /// Its value is of another type.
    #[error("must be {expected}")]
    Type {
        /// What it must be.
        expected: &'static str,
    },
    /// More or fewer pictures than its label is for.
    #[error("has {found} pictures, {needed}")]
    Pictures {
        /// How many there are.
        found: usize,
        /// How many there must be, in words.
        needed: &'static str,
    },
    /// More or fewer ranks than pictures.
    #[error("has {found} ranks for {pictures} pictures")]
    Ranks {
        /// How many ranks there are.
        found: usize,
        /// How many pictures there are.
        pictures: usize,
    },
    /// No picture is better than another.
    #[error("gives all pictures the same rank")]
    Tie,
    /// A score outside its range, or a range without room.
    #[error("is {value}, outside [{min}, {max}]")]
    Score {
        /// The score.
        value: i64,
        /// The worst possible.
        min: i64,
        /// The best possible.
        max: i64,
    },
    /// The least score is not below the greatest.
    #[error("is {min}, which is not below the greatest score {max}")]
    Range {
        /// The worst possible.
        min: i64,
        /// The best possible.
        max: i64,
    },
    /// A picture file that cannot be read.
    #[error("names {}, which cannot be read", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An address that gives nothing.
    #[error("names {url}, which cannot be fetched")]
    Fetch {
        /// The address.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A `data:` address that does not hold a picture in base64.
    #[error("is a data URL that is not `data:image/...;base64,...`")]
    DataUrl,
    /// More bytes than allowed.
    #[error("is a picture of more than {bytes_max} bytes")]
    Bytes {
        /// The most that is allowed.
        bytes_max: u64,
    },
    /// More pixels than allowed.
    #[error("is a picture of {width} x {height} pixels, more than {pixels_max}")]
    Pixels {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
        /// The most that is allowed.
        pixels_max: u64,
    },
    /// A file of no bytes.
    #[error("is an empty file")]
    NoBytes,
    /// A picture that moves.
    #[error("is an animation")]
    Animation,
    /// Another size than the source picture.
    #[error("has {width} x {height} pixels, its source {source_width} x {source_height}")]
    Size {
        /// Its pixels in a row.
        width: u32,
        /// Its rows.
        height: u32,
        /// The source's pixels in a row.
        source_width: u32,
        /// The source's rows.
        source_height: u32,
    },
    /// Questions about a picture that cannot be asked.
    #[error("{problem}")]
    Questions {
        /// What is wrong with them.
        problem: String,
    },
    /// Source pictures where nothing is edited.
    #[error("names a source picture, and nothing is edited here")]
    Unedited,
    /// Bytes that are no picture.
    #[error("is no picture that can be read")]
    Picture {
        /// What is wrong with the bytes.
        #[source]
        source: image::ImageError,
    },
}

/// A picture's file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: it {fault}", file.display())]
pub struct PictureError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    #[source]
    pub fault: Box<RecordFault>,
}

impl Hint for PictureError {
    fn hint(&self) -> Option<String> {
        self.fault.hint()
    }
}

impl Hint for DataError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Read { source, .. } => text::remedy(source).unwrap_or_else(|| "check the path".to_owned()),
            Self::Foreign { form, .. } => form.hint().to_owned(),
            Self::Syntax { expected, .. } | Self::Record { expected, .. } | Self::Empty { expected, .. } => {
                expected.hint().to_owned()
            }
            Self::Field { fault, .. } => return fault.hint(),
            Self::Mixed { .. } => "put them into separate files: a rubric is for one kind of example".to_owned(),
        })
    }
}

impl Hint for RecordFault {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Missing { names } => format!("add {}", one_of(names)),
            Self::Twice { .. } => "keep one of the two".to_owned(),
            Self::Blank => "write it, or remove the record; a prompt's place in its file decides its noise".to_owned(),
            Self::Type { .. } | Self::Questions { .. } => return None,
            Self::Pictures { .. } => {
                "a ranked record names two or more pictures and `label_rank`, a scored one a single picture and `label_score`"
                    .to_owned()
            }
            Self::Ranks { .. } => "write one rank for each picture, 1 being the best".to_owned(),
            Self::Tie => "one of the pictures must be better: `label_rank` [1, 2] or [2, 1]; leave undecided records out"
                .to_owned(),
            Self::Score { .. } | Self::Range { .. } => {
                "correct the score, or the range in `min_score` and `max_score`".to_owned()
            }
            Self::File { .. } => "a path is absolute, or relative to the folder of the file that names it".to_owned(),
            Self::Fetch { .. } => "try the address in a browser, or save the picture and name its path".to_owned(),
            Self::DataUrl => "write the picture's bytes in base64, or name a path or an http(s) address".to_owned(),
            Self::Bytes { .. } | Self::Pixels { .. } => "scale the picture down".to_owned(),
            Self::Picture { .. } | Self::NoBytes => "give a PNG, JPEG or WebP picture".to_owned(),
            Self::Animation => "save one frame of it as a picture".to_owned(),
            Self::Size { .. } => "give it the size of the first source picture".to_owned(),
            Self::Unedited => {
                "remove it, or choose a family that edits, such as `model.family = \"qwen_image_edit\"`".to_owned()
            }
        })
    }
}

fn one_of(names: &[&str]) -> String {
    match names {
        [name] => format!("`{name}`"),
        [first, others @ ..] => format!("`{first}` (also accepted: `{}`)", others.join("`, `")),
        [] => String::new(),
    }
}
