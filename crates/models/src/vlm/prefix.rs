//! What prompts have in common at the front, so that it is computed once.

/// Tokens that a segment has at least where each pass reads all weights anew: a shorter one goes with what follows it. On a GPU a pass over
/// fewer takes as long as one over so many.
pub(super) const SEGMENT_LEAST: usize = 64;
/// Segments of a prompt at most; what follows is one with the last of them.
const SEGMENTS_MOST: usize = 16;

/// A stretch of a prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Segment {
    /// Token ids, with one image token for each picture.
    pub(super) tokens: Vec<u32>,
    /// Numbers of its pictures, in the order of their tokens.
    pub(super) pictures: Vec<usize>,
}

/// A segment, and what goes on from it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Branch {
    pub(super) segment: Segment,
    /// Numbers of the prompts that end with it.
    pub(super) ends: Vec<usize>,
    pub(super) next: Vec<Branch>,
}

/// Cuts a prompt before each picture and before its last message, wherever `least` tokens have gathered since the cut before. The tokens have one
/// `image_token` for each of `pictures`, which stands for so many tokens as `size` says.
///
/// The cuts follow from the prompt alone, never from others that are computed with it: its numbers are the same in any company.
pub(super) fn segments(
    tokens: &[u32],
    pictures: &[usize],
    image_token: u32,
    size: impl Fn(usize) -> usize,
    least: usize,
) -> Vec<Segment> {
    let last_message = last_message(tokens);
    let mut pictures = pictures.iter();
    let mut segments = Vec::new();
    let (mut open, mut length) = (Segment::default(), 0);
    for (index, &token) in tokens.iter().enumerate() {
        let may_cut = token == image_token || last_message == Some(index);
        if may_cut && length >= least.max(1) && segments.len() + 1 < SEGMENTS_MOST {
            segments.push(std::mem::take(&mut open));
            length = 0;
        }
        open.tokens.push(token);
        let picture = if token == image_token { pictures.next() } else { None };
        open.pictures.extend(picture);
        length += picture.map_or(1, |picture| size(*picture));
    }
    segments.push(open);
    segments
}

/// Where the last message begins: every message begins with the token that the prompt begins with, and so does the answer at its end.
fn last_message(tokens: &[u32]) -> Option<usize> {
    let opening = tokens.first()?;
    let mut starts = (1..tokens.len()).rev().filter(|index| tokens[*index] == *opening);
    starts.next();
    starts.next()
}

/// The prompts as a tree: those that begin with the same segments share them.
pub(super) fn tree(prompts: impl IntoIterator<Item = Vec<Segment>>) -> Vec<Branch> {
    let mut roots = Vec::new();
    for (prompt, segments) in prompts.into_iter().enumerate() {
        let (mut level, last) = (&mut roots, segments.len().saturating_sub(1));
        for (depth, segment) in segments.into_iter().enumerate() {
            let branch = branch_of(level, segment);
            if depth == last {
                branch.ends.push(prompt);
            }
            level = &mut branch.next;
        }
    }
    roots
}

/// The branch with this segment, made where there is none.
fn branch_of(level: &mut Vec<Branch>, segment: Segment) -> &mut Branch {
    let index = level.iter().position(|branch| branch.segment == segment);
    let index = index.unwrap_or_else(|| {
        level.push(Branch {
            segment,
            ends: Vec::new(),
            next: Vec::new(),
        });
        level.len() - 1
    });
    &mut level[index]
}

impl Branch {
    /// Joins a segment with the one that alone follows it: for kernels whose numbers do not depend on the cuts.
    pub(super) fn joined(mut self) -> Self {
        while self.ends.is_empty() && self.next.len() == 1 {
            for only in std::mem::take(&mut self.next) {
                self.segment.tokens.extend(only.segment.tokens);
                self.segment.pictures.extend(only.segment.pictures);
                self.ends = only.ends;
                self.next = only.next;
            }
        }
        self.next = self.next.into_iter().map(Self::joined).collect();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What opens a message, and what stands for a picture.
    const OPENING: u32 = 900;
    const PICTURE: u32 = 901;

    /// A prompt in letters: `<` opens a message, a digit is the picture with that number, anything else a word.
    fn prompt(letters: &str) -> (Vec<u32>, Vec<usize>) {
        let tokens = letters.chars().map(|letter| match letter {
            '<' => OPENING,
            '0'..='9' => PICTURE,
            word => u32::from(word),
        });
        let pictures = letters.chars().filter_map(|letter| letter.to_digit(10));
        (tokens.collect(), pictures.map(|digit| digit as usize).collect())
    }

    /// The segments of a prompt in letters, whose pictures have ten tokens each.
    fn cut(letters: &str, least: usize) -> Vec<String> {
        let (tokens, pictures) = prompt(letters);
        let segments = segments(&tokens, &pictures, PICTURE, |_| 10, least);
        segments.iter().map(letters_of).collect()
    }

    fn letters_of(segment: &Segment) -> String {
        let mut pictures = segment.pictures.iter();
        let letters = segment.tokens.iter().map(|token| match *token {
            OPENING => "<".to_owned(),
            PICTURE => pictures.next().unwrap().to_string(),
            word => char::from_u32(word).unwrap().to_string(),
        });
        letters.collect()
    }

    /// A tree in letters: the branches of a segment in brackets, the prompts that end with it behind a colon.
    fn drawn(branches: &[Branch]) -> String {
        let draw = |branch: &Branch| {
            let mut text = letters_of(&branch.segment);
            for end in &branch.ends {
                text += &format!(":{end}");
            }
            if !branch.next.is_empty() {
                text += &format!("[{}]", drawn(&branch.next));
            }
            text
        };
        branches.iter().map(draw).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_prompt_is_cut_before_its_pictures_and_its_last_message() {
        let question = "<rubric<words(0)or(1)which<";
        assert_eq!(cut(question, 1), ["<rubric", "<words(", "0)or(", "1)which<"]);
        // A short stretch goes with what follows.
        assert_eq!(cut(question, 7), ["<rubric", "<words(", "0)or(", "1)which<"]);
        assert_eq!(cut(question, 8), ["<rubric<words(", "0)or(", "1)which<"]);
        assert_eq!(cut(question, 15), ["<rubric<words(0)or(", "1)which<"]);
        assert_eq!(cut(question, 99), [question]);
        assert_eq!(cut("0and1", 1), ["0and", "1"]);
        assert_eq!(cut("<words<", 1), ["<words<"]);
        assert_eq!(cut("<a<b<c<", 1), ["<a<b", "<c<"]);
        assert_eq!(cut("", 1), [""]);
    }

    #[test]
    fn both_orders_of_all_pairs_share_what_comes_first() {
        let cuts = |letters: &str| {
            let (tokens, pictures) = prompt(letters);
            segments(&tokens, &pictures, PICTURE, |_| 10, 1)
        };
        let questions = ["<r<a0b1?<", "<r<a1b0?<", "<r<c2b3?<", "<r<a0b2?<", "<r<a0b1?<", "<s"];
        let branches = tree(questions.map(cuts));
        assert_eq!(
            drawn(&branches),
            "<r[<a[0b[1?<:0:4, 2?<:3], 1b[0?<:1]], <c[2b[3?<:2]]], <s:5"
        );
        let joined: Vec<Branch> = branches.into_iter().map(Branch::joined).collect();
        assert_eq!(drawn(&joined), "<r[<a[0b[1?<:0:4, 2?<:3], 1b0?<:1], <c2b3?<:2], <s:5");
    }

    #[test]
    fn cuts_lose_nothing_and_no_segment_but_the_last_is_short() {
        let mut prompts = vec![String::new(), "<a0".repeat(40)];
        for index in 0..364 {
            for letter in ["<", "a", "0"] {
                prompts.push(format!("{}{letter}", prompts[if index == 0 { 0 } else { index + 1 }]));
            }
        }
        let size = |segment: &String| segment.chars().map(|c| if c == '0' { 10 } else { 1 }).sum::<usize>();
        for prompt in prompts {
            for least in [0, 1, 2, 5, 11, 12, 30] {
                let cuts = cut(&prompt, least);
                assert_eq!(cuts.concat(), prompt);
                assert!(cuts.len() <= SEGMENTS_MOST);
                let is_long = |segment: &String| size(segment) >= least.max(1);
                assert!(cuts[..cuts.len() - 1].iter().all(is_long), "{cuts:?} by {least}");
            }
        }
    }
}
