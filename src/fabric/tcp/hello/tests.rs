// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be said is understood; what cannot be is nonsense; and nothing of it harms the log.

use super::*;
use crate::fabric::tcp::session::cases;
use proptest::prelude::*;

fn hello() -> Hello {
    let mut hello = Hello::new(Kind::Enter, "demo", 3, 77, "members=3\nsubgroup.0=all\n");
    hello.addresses = address::parse_list("192.0.2.1:7000,[2001:db8::1]:7000,n1:9", None).unwrap();
    hello.more = vec![("place".into(), "a=b".into())];
    hello
}

#[test]
fn a_hello_survives_its_text() {
    let said = hello();
    said.check().unwrap();
    assert_eq!(Hello::decode(&said.encode()), Some(said.clone()));
    let refusal = said.refusal(Status::Mismatch, "two\nlines\x1b[2J");
    assert_eq!(refusal.refusal, Some((-34, "two lines [2J".into())));
    refusal.check().unwrap();
}

#[test]
fn nonsense_is_no_hello() {
    let good = "kind=join\ngroup=g\nrank=1\npid=2\nconfig:\n";
    assert!(Hello::decode(good.as_bytes()).is_some());
    for bad in [
        "",
        "config:\n",
        "kind=join\ngroup=g\nrank=1\npid=2\n",
        "kind=join\ngroup=\nrank=1\npid=2\nconfig:\n",
        "kind=join\ngroup=a b\nrank=1\npid=2\nconfig:\n",
        "kind=jump\ngroup=g\nrank=1\npid=2\nconfig:\n",
        "kind=join\ngroup=g\nrank=65536\npid=2\nconfig:\n",
        "kind=join\ngroup=g\nrank=1\nrank=1\npid=2\nconfig:\n",
        "kind=join\ngroup=g\nrank=1\npid=2\nx=1\nx=2\nconfig:\n",
        "kind=join\ngroup=g\nrank=1\npid=2\nnoise\nconfig:\n",
        "kind=join\ngroup=g\nrank=1\npid=2\nspeaks=2-1\nconfig:\n",
        "kind=join\ngroup=g\nrank=1\npid=2\naddresses=x\nconfig:\n",
        "kind=join\ngroup=g\nrank=1\npid=2\ntext=no\nconfig:\n",
        "kind=join\ngroup=g\nrank=1\npid=2\nhost=\x1b[2J\nconfig:\n",
    ] {
        assert_eq!(Hello::decode(bad.as_bytes()), None, "{bad:?}");
    }
    let many: String = (0..=MORE_MAX).map(|at| format!("key{at}=x\n")).collect();
    assert_eq!(Hello::decode(format!("{many}{good}").as_bytes()), None);
    let doors = vec!["a:1"; ADDRESSES_MAX + 1].join(",");
    assert_eq!(Hello::decode(format!("addresses={doors}\n{good}").as_bytes()), None);
    assert_eq!(Hello::decode(b"\xff\n"), None);
    let long = format!("{good}{}", "x".repeat(HELLO_BYTES_MAX));
    assert_eq!(Hello::decode(long.as_bytes()), None);
}

#[test]
fn what_cannot_be_said_is_named() {
    let said = |change: fn(&mut Hello)| {
        let mut hello = hello();
        change(&mut hello);
        hello.check().map_err(|error| error.detail)
    };
    assert!(said(|hello| hello.group = "a b".into()).unwrap_err().contains("\"a b\""));
    assert!(said(|hello| hello.config = "x".repeat(HELLO_BYTES_MAX)).is_err());
    assert!(said(|hello| hello.more.push(("kind".into(), "join".into()))).is_err());
    assert!(said(|hello| hello.more.push(("a\nb".into(), "c".into()))).is_err());
    assert!(said(|_| ()).is_ok());
}

#[test]
fn a_mismatch_names_both_values() {
    let (mine, mut theirs) = (hello(), hello());
    assert_eq!(compare(&mine, &theirs, "rank 1"), Ok(()));
    theirs.config = "members=4\nsubgroup.0=all\n".into();
    let error = compare(&mine, &theirs, "rank 1").unwrap_err();
    assert_eq!(error.status, Status::Mismatch);
    assert!(error.detail.contains("`members=4`") && error.detail.contains("`members=3`"));
    (theirs.config, theirs.wire) = (mine.config.clone(), 2);
    let error = compare(&mine, &theirs, "rank 1").unwrap_err();
    assert_eq!(error.status, Status::WireVersion, "{error}");
    theirs.group = "other".into();
    let error = compare(&mine, &theirs, "rank 1").unwrap_err();
    assert!(error.detail.contains("`other`") && error.detail.contains("`demo`"), "{error}");
}

fn line() -> impl Strategy<Value = String> {
    let key = "(kind|group|rank|pid|incarnation|speaks|wire|host|addresses|text|[a-z]{0,4})";
    let value = "(join|enter|demo|1-2|[0-9]{1,21}|-3[0-9] [a-z ]{0,9}|\\[::1\\]:7|a:1,b:2|.{0,12})";
    prop_oneof![
        6 => (key, value).prop_map(|(key, value)| format!("{key}={value}\n")),
        1 => Just("config:\n".to_string()),
        1 => ".{0,12}\n?",
    ]
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn fuzz_any_bytes_are_a_hello_or_nonsense(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        prop_assert!(Hello::decode(&bytes).is_none_or(|hello| hello.check().is_ok()));
    }

    /// Lines that look like those of a hello. What is understood can be said again, is bounded, and
    /// writes one line of a log at the most.
    #[test]
    fn fuzz_lines_are_a_hello_or_nonsense(
        begins in any::<bool>(),
        lines in proptest::collection::vec(line(), 0..12),
    ) {
        let begin = if begins { "kind=join\ngroup=demo\nrank=1\npid=2\n" } else { "" };
        let text = format!("{begin}{}", lines.concat());
        if let Some(hello) = Hello::decode(text.as_bytes()) {
            hello.check().unwrap();
            let who = hello.who("192.0.2.1:5".parse().unwrap());
            prop_assert!(!who.chars().any(char::is_control));
            prop_assert!(hello.more.len() <= MORE_MAX && hello.addresses.len() <= ADDRESSES_MAX);
        }
    }
}
