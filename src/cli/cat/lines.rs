// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines to messages and back. Pure: no input or output here.
//!
//! A message of `squall cat` is one byte of kind and then bytes of the text:
//!
//! ```text
//! 0 LINE   the last piece of a line (most often the whole line), its newline left out
//! 1 PART   a piece of a line longer than a message; the line goes on in this sender's next message
//! 2 END    the sender's input is at its end
//! +128     with LINE and PART: the line has begun in an earlier message
//! ```
//!
//! C1  A PART is always followed by a LINE of the same sender: a line's pieces are never mixed.
//! C2  A line takes its place in the order with its last piece.
//! C3  Whoever joins a group that runs leaves out lines of which it has not heard the beginning.

pub const LINE: u8 = 0;
pub const PART: u8 = 1;
pub const END: u8 = 2;
pub const BEGUN: u8 = 128;

/// Messages on their way from the reading thread to the sending one.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where each message ends.
    ends: Vec<usize>,
    next: usize,
}

impl Batch {
    fn push(&mut self, kind: u8, pieces: [&[u8]; 2]) {
        self.bytes.push(kind);
        pieces.iter().for_each(|piece| self.bytes.extend_from_slice(piece));
        self.ends.push(self.bytes.len());
    }

    /// The message whose turn it is.
    pub fn message(&self) -> Option<&[u8]> {
        let upto = *self.ends.get(self.next)?;
        let from = self.next.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[from..upto])
    }

    /// That one is sent.
    pub fn advance(&mut self) {
        self.next += 1;
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// Cuts a stream of bytes into messages of at most `most` bytes of text.
#[derive(Debug)]
pub struct Splitter {
    most: usize,
    /// The beginning of the line that is being read, or of its next piece; at most `most` bytes.
    rest: Vec<u8>,
    /// 0, or `BEGUN` if pieces of that line are under way.
    begun: u8,
}

impl Splitter {
    pub fn new(most: usize) -> Splitter {
        assert!(most > 0);
        Splitter { most, rest: Vec::new(), begun: 0 }
    }

    /// Takes more of the input, cut anywhere.
    pub fn push(&mut self, bytes: &[u8], batch: &mut Batch) {
        for segment in bytes.split_inclusive(|byte| *byte == b'\n') {
            let line = segment.strip_suffix(b"\n");
            let mut text = line.unwrap_or(segment);
            while self.rest.len() + text.len() > self.most {
                let (now, later) = text.split_at(self.most - self.rest.len());
                batch.push(PART | self.begun, [&self.rest, now]);
                self.rest.clear();
                self.begun = BEGUN;
                text = later;
            }
            if line.is_some() {
                batch.push(LINE | self.begun, [&self.rest, text]);
                self.rest.clear();
                self.begun = 0;
            } else {
                self.rest.extend_from_slice(text);
            }
        }
    }

    /// The input is at its end: a last line without a newline is a line.
    pub fn finish(&mut self, batch: &mut Batch) {
        if !self.rest.is_empty() {
            batch.push(LINE | self.begun, [&self.rest, b""]);
            self.rest.clear();
            self.begun = 0;
        }
        batch.push(END, [b"", b""]);
    }
}

/// What a message was.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text was appended, or the line goes on.
    Taken,
    /// The end of a line that is left out (C3).
    Missed,
    End,
    /// No member of this program sends that.
    Nonsense,
}

/// A member whose lines are put together.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Author {
    who: u64,
    /// What its lines are marked with.
    label: u16,
    /// The beginning of the line that goes on.
    parts: Vec<u8>,
    /// A line goes on.
    open: bool,
    /// It may have begun a line before anything of it was heard here.
    unheard: bool,
}

/// Puts the lines of all senders together again.
#[derive(Debug)]
pub struct Joiner {
    /// By rank.
    authors: Vec<Author>,
}

impl Joiner {
    /// For members that do not change: their ranks are their labels.
    pub fn new(members: u16) -> Joiner {
        let mut joiner = Joiner { authors: Vec::new() };
        joiner.change((0..members).map(|rank| (rank.into(), rank, false)));
        joiner
    }

    /// From now on ranks are those of these members: who, label, whether it sent before it was heard
    /// here. Answers the labels of those that are gone in the middle of a line.
    pub fn change(&mut self, members: impl Iterator<Item = (u64, u16, bool)>) -> Vec<u16> {
        let mut before = std::mem::take(&mut self.authors);
        for (who, label, unheard) in members {
            let old = before.iter().position(|author| author.who == who);
            self.authors.push(
                old.map_or(Author { who, label, parts: Vec::new(), open: false, unheard }, |old| {
                    before.swap_remove(old)
                }),
            );
        }
        before.iter().filter(|author| author.open).map(|author| author.label).collect()
    }

    /// The label of a rank.
    pub fn label(&self, rank: u16) -> u16 {
        self.authors.get(usize::from(rank)).map_or(rank, |author| author.label)
    }

    /// Appends to `out` the line that this message completes, if it does: `LABEL<TAB>LINE`.
    pub fn take(&mut self, rank: u16, message: &[u8], out: &mut Vec<u8>) -> Piece {
        let Some(author) = self.authors.get_mut(usize::from(rank)) else { return Piece::Nonsense };
        let Some((&kind, text)) = message.split_first() else { return Piece::Nonsense };
        let begun = kind & BEGUN != 0;
        let unheard = author.unheard;
        if begun && !author.open {
            return match kind & !BEGUN {
                LINE if unheard => {
                    author.unheard = false;
                    Piece::Missed
                }
                PART if unheard => Piece::Taken,
                _ => Piece::Nonsense,
            };
        }
        if !begun && author.open {
            return Piece::Nonsense;
        }
        author.unheard = false;
        match kind & !BEGUN {
            LINE => {
                out.extend_from_slice(author.label.to_string().as_bytes());
                out.push(b'\t');
                out.append(&mut author.parts);
                out.extend_from_slice(text);
                out.push(b'\n');
                author.open = false;
                Piece::Taken
            }
            PART => {
                author.parts.extend_from_slice(text);
                author.open = true;
                Piece::Taken
            }
            END if text.is_empty() && !begun => Piece::End,
            _ => Piece::Nonsense,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(input: &[u8], most: usize, cut: usize) -> Vec<u8> {
        let (mut splitter, mut joiner) = (Splitter::new(most), Joiner::new(1));
        let mut out = Vec::new();
        let mut ends = 0;
        let mut feed = |batch: &mut Batch| {
            while let Some(message) = batch.message() {
                assert!(message.len() <= most + 1);
                match joiner.take(0, message, &mut out) {
                    Piece::Taken => assert_eq!(ends, 0),
                    Piece::End => ends += 1,
                    Piece::Missed | Piece::Nonsense => panic!("{message:?}"),
                }
                batch.advance();
            }
        };
        for chunk in input.chunks(cut) {
            let mut batch = Batch::default();
            splitter.push(chunk, &mut batch);
            feed(&mut batch);
        }
        let mut batch = Batch::default();
        splitter.finish(&mut batch);
        feed(&mut batch);
        assert_eq!(ends, 1);
        out
    }

    #[test]
    fn lines_survive_any_cut_and_any_message_length() {
        let inputs: [(&[u8], &[u8]); 6] = [
            (b"", b""),
            (b"\n\n", b"0\t\n0\t\n"),
            (b"one\ntwo\n", b"0\tone\n0\ttwo\n"),
            (b"no newline", b"0\tno newline\n"),
            (b"a\0b\n\xff\n", b"0\ta\0b\n0\t\xff\n"),
            (b"0123456789\n0123456789", b"0\t0123456789\n0\t0123456789\n"),
        ];
        for (input, expected) in inputs {
            for most in 1..12 {
                for cut in 1..12 {
                    assert_eq!(through(input, most, cut), expected, "{input:?} {most} {cut}");
                }
            }
        }
    }

    #[test]
    fn nonsense_is_told() {
        let mut joiner = Joiner::new(2);
        let mut out = Vec::new();
        for (rank, message) in [(0, &b""[..]), (0, &[9][..]), (2, &[LINE][..]), (0, &[END, 1])] {
            assert_eq!(joiner.take(rank, message, &mut out), Piece::Nonsense);
        }
        joiner.take(0, &[PART, b'x'], &mut out);
        assert_eq!(joiner.take(0, &[END], &mut out), Piece::Nonsense);
        assert!(out.is_empty());
    }

    #[test]
    fn who_joins_leaves_out_what_had_begun() {
        let mut joiner = Joiner::new(0);
        let mut out = Vec::new();
        assert!(joiner.change([(7, 0, true), (8, 1, true), (9, 2, false)].into_iter()).is_empty());
        let mut take =
            |joiner: &mut Joiner, rank, message: &[u8]| joiner.take(rank, message, &mut out);
        assert_eq!(take(&mut joiner, 0, &[PART | BEGUN, b'x']), Piece::Taken);
        assert_eq!(take(&mut joiner, 0, &[LINE | BEGUN, b'x']), Piece::Missed);
        assert_eq!(take(&mut joiner, 0, &[LINE | BEGUN, b'x']), Piece::Nonsense);
        assert_eq!(take(&mut joiner, 2, &[LINE | BEGUN, b'x']), Piece::Nonsense);
        assert_eq!(take(&mut joiner, 1, &[PART, b'a']), Piece::Taken);
        assert_eq!(take(&mut joiner, 2, &[PART, b'b']), Piece::Taken);
        // Ranks move; a line goes on, another one is lost with its author.
        let next = [(8, 1, true), (11, 0, false)];
        assert_eq!(joiner.change(next.into_iter()), [2]);
        assert_eq!((joiner.label(0), joiner.label(1)), (1, 0));
        assert_eq!(take(&mut joiner, 0, &[LINE | BEGUN, b'c']), Piece::Taken);
        assert_eq!(take(&mut joiner, 1, &[LINE, b'd']), Piece::Taken);
        assert_eq!(out, b"1\tac\n0\td\n");
    }
}
