// SPDX-License-Identifier: MIT OR Apache-2.0
//! A member's statistics page as text, for whoever holds the secret and asks from another host: its
//! `COUNT:`, then its words in hexadecimal, parted by commas, nothing where one is 0, without the zeros
//! at the end.

use crate::mem::Region;

/// The key of a welcome that carries it.
pub const KEY: &str = "page";
/// Words that are believed: a hello has room for no more.
const WORDS_MAX: usize = super::hello::HELLO_BYTES_MAX;

/// Words may be of different moments, as for anybody who reads the page.
pub fn encode(page: &Region) -> String {
    let words = (0..page.size() / 8).map(|at| page.cell(at * 8).observe());
    let text = |word| if word == 0 { String::new() } else { format!("{word:x}") };
    let text: Vec<String> = words.map(text).collect();
    format!("{}:{}", text.len(), text.join(",").trim_end_matches(','))
}

/// `None`: nonsense.
pub fn decode(text: &str) -> Option<Region> {
    let (count, text) = text.split_once(':')?;
    let count = count.parse().ok().filter(|count| *count <= WORDS_MAX)?;
    if text.split(',').count() > count {
        return None;
    }
    let page = Region::heap(count * 8);
    for (at, word) in text.split(',').enumerate() {
        let word = if word.is_empty() { 0 } else { u64::from_str_radix(word, 16).ok()? };
        page.cell(at * 8).prepare(word);
    }
    Some(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(crate::fabric::tcp::session::cases(500))]
        #[test]
        fn fuzz_a_text_is_a_page_or_nonsense(text in "[0-9]{0,6}:?([0-9a-fx-]{0,18},){0,40}") {
            if let Some(page) = decode(&text) {
                prop_assert!(page.size() <= WORDS_MAX * 8 + 64);
                prop_assert_eq!(decode(&encode(&page)).map(|again| again.size()), Some(page.size()));
            }
        }
    }

    #[test]
    fn a_page_survives_its_text() {
        let page = Region::heap(64 * 8);
        [(0, 7), (3, u64::MAX), (40, 1)]
            .iter()
            .for_each(|(at, word)| page.cell(at * 8).prepare(*word));
        let text = encode(&page);
        assert!(text.starts_with("64:7,,,ffffffffffffffff,") && text.ends_with(",1"), "{text}");
        let read = decode(&text).unwrap();
        assert!((0..64).all(|at| read.cell(at * 8).observe() == page.cell(at * 8).observe()));
        assert!(decode("1:").is_some());
        for nonsense in
            ["", "x", ":", "1:x", "1:1,1", "2:1,-1", "-1:", "65537:", "99999999999999999999:"]
        {
            assert!(decode(nonsense).is_none(), "{nonsense}");
        }
    }
}
