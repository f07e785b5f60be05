// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is an address and what is not, and that names keep nobody waiting.

use super::*;
use crate::fabric::tcp::session::cases;
use proptest::prelude::*;
use std::time::{Duration, Instant};

fn good(text: &str) -> Address {
    parse(text, None).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn addresses_are_read_as_they_are_written() {
    for text in [
        "192.0.2.7:7000",
        "[2001:db8::7]:7000",
        "[fe80::7%eth0]:65535",
        "node-7.example:0",
        "localhost:1",
        "my_host.:22",
        "*:7000",
    ] {
        assert_eq!(good(text).to_string(), text);
    }
    assert_eq!(good("192.0.2.7:7000").host, Host::V4(Ipv4Addr::new(192, 0, 2, 7)));
    assert_eq!(good("[::1]:7").host, Host::V6(Ipv6Addr::LOCALHOST, None));
    assert_eq!(
        good("[fe80::7%eth0]:7").host,
        Host::V6("fe80::7".parse().unwrap(), Some("eth0".into()))
    );
    assert_eq!(parse("node", Some(7000)).unwrap().to_string(), "node:7000");
    assert_eq!(parse("[::1]", Some(7000)).unwrap().to_string(), "[::1]:7000");
    assert_eq!(parse("node:1", Some(7000)).unwrap().port, 1);
    let numeric: SocketAddr = "[fe80::7%3]:9".parse().unwrap();
    assert_eq!(Address::from(numeric).numeric(), Ok(Some(numeric)));
}

#[test]
fn what_is_wrong_is_said_with_how_it_is_written() {
    for (text, says) in [
        ("", "port is missing"),
        (":7000", "host is missing"),
        ("node", "port is missing"),
        ("node:", "port is missing"),
        ("node:x", "the port `x` is no number"),
        ("node:+7", "no number"),
        ("node:65536", "65536 is not one of 0 to 65535"),
        ("node:99999999999999999999", "not one of"),
        ("::1:7000", "`[ADDRESS]:PORT`"),
        ("2001:db8::7", "stands in brackets"),
        ("a:b:c", "more than one colon"),
        ("[::1:7000", "`]` is missing"),
        ("[::1]7000", "after `]` comes `:PORT`"),
        ("[::1]", "port is missing"),
        ("[::g]:7", "`::g` is no IPv6 address"),
        ("[fe80::1%]:7", "names no interface"),
        ("[fe80::1%way-too-long-for-one]:7", "names no interface"),
        ("[192.0.2.7]:7", "no IPv6 address"),
        ("tcp://node:7000/", "without `tcp://`"),
        ("://\0", "without `://`"), // the sentence held what came after it
        ("\x1b://a", "the port"),
        ("127.1:7", "four numbers"),
        ("1.2.3.4.5:7", "four numbers"),
        ("256.1.1.1:7", "four numbers"),
        ("0x7f000001:7", "four numbers"),
        ("2130706433:7", "four numbers"),
        ("a..b:7", "between its dots"),
        ("-a:7", "no part of a name"),
        ("a b:7", "no part of a name"),
        ("naïve:7", "no part of a name"),
        ("a\n\x1b:7", "address `a\\n\\u{1b}:7`"),
    ] {
        let error = parse(text, None).unwrap_err();
        assert_eq!(error.status, Status::Invalid);
        assert!(error.detail.contains(says), "{text:?}: {error}");
        assert!(!error.detail.chars().any(char::is_control));
    }
    assert!(parse(&format!("{}:7", "a.".repeat(127)), None).is_err());
    assert!(parse(&format!("{}:7", "a".repeat(64)), None).is_err());
    let long = parse(&"é".repeat(500), None).unwrap_err().detail;
    assert!(long.contains("too long") && long.chars().count() < 130, "{long}");
}

#[test]
fn a_list_has_commas_or_blanks() {
    let list = parse_list("a:1, b:2\n[::1]:3  ,", None).unwrap();
    let texts: Vec<String> = list.iter().map(Address::to_string).collect();
    assert_eq!(texts, ["a:1", "b:2", "[::1]:3"]);
    assert!(parse_list(" ,\n", None).unwrap_err().detail.contains("no address"));
    assert!(parse_list("a:1,b", None).unwrap_err().detail.contains("`b`"));
    assert!(
        parse_list(&"a:1,".repeat(LIST_MAX + 1), None).unwrap_err().detail.contains("more than")
    );
}

#[test]
fn an_interface_is_looked_for() {
    let here = good("[fe80::7%lo]:7").numeric().unwrap().unwrap();
    assert!(matches!(here, SocketAddr::V6(v6) if v6.scope_id() > 0));
    let error = good("[fe80::7%nosuch0]:7").numeric().unwrap_err();
    assert!(error.detail.contains("no interface `nosuch0`"), "{error}");
    assert_eq!(good("node:7").numeric(), Ok(None));
}

fn until(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "it takes too long");
        std::thread::yield_now();
    }
}

/// A stand-in for the system's resolver.
fn resolve(name: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    let at = |last: u8| SocketAddr::new(Ipv4Addr::new(192, 0, 2, last).into(), port);
    match name {
        "members.svc" => Ok(vec![at(1), at(2), "[2001:db8::3]:1".parse().unwrap(), at(2)]),
        "crowd.svc" => Ok((0..200).map(at).collect()),
        "empty.svc" => Ok(Vec::new()),
        "hangs.svc" => {
            std::thread::sleep(Duration::from_secs(3600));
            Ok(Vec::new())
        }
        _ => Err(std::io::Error::other("no such name")),
    }
}

#[test]
fn a_name_may_have_several_addresses() {
    let list = parse_list("192.0.2.9:7,members.svc:7,gone.svc:7,192.0.2.1:7,empty.svc:7", None);
    let list = list.unwrap();
    let mut lookup = Lookup::start_by(&list, resolve).unwrap();
    assert_eq!(lookup.addresses()[0].to_string(), "192.0.2.9:7", "numbers are there at once");
    until(|| lookup.poll());
    let found: Vec<String> = lookup.addresses().iter().map(SocketAddr::to_string).collect();
    assert_eq!(found, ["192.0.2.9:7", "192.0.2.1:7", "192.0.2.2:7", "[2001:db8::3]:1"]);
    let trouble = lookup.trouble().unwrap();
    assert!(trouble.detail.contains("`gone.svc`") && trouble.detail.contains("no such name"));
    assert!(lookup.of(4).unwrap().as_ref().unwrap_err().detail.contains("no address"));
    let mut crowd = Lookup::start_by(&[good("crowd.svc:7")], resolve).unwrap();
    until(|| crowd.poll());
    assert_eq!(crowd.addresses().len(), ADDRESSES_PER_NAME_MAX);
}

/// A name server that does not answer holds nobody up, and no other name.
#[test]
fn a_name_that_hangs_keeps_nobody_waiting() {
    let list = parse_list("hangs.svc:7,members.svc:7", None).unwrap();
    let mut lookup = Lookup::start_by(&list, resolve).unwrap();
    until(|| {
        assert!(!lookup.poll());
        lookup.addresses().len() == 3
    });
    assert_eq!(lookup.of(0), None);
}

#[test]
fn the_system_knows_this_host() {
    let mut lookup = Lookup::start(&[good("localhost:7000")]).unwrap();
    until(|| lookup.poll());
    let found = lookup.addresses();
    assert!(!found.is_empty() && found.iter().all(|at| at.ip().is_loopback()), "{found:?}");
    assert!(found.iter().all(|at| at.port() == 7000));
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn fuzz_any_text_is_an_address_or_refused(
        text in prop_oneof![
            "\\PC{0,40}",
            "\\[?[0-9a-f:%.]{0,24}\\]?(:[0-9]{0,6})?",
            "([a-z0-9_.-]{0,8}\\.){0,3}[a-z0-9-]{0,8}(:[0-9]{0,6}){0,2}",
            "(?s).{0,40}",
        ],
        port in proptest::option::of(any::<u16>()),
    ) {
        match parse(&text, port) {
            Ok(address) => {
                let shown = address.to_string();
                prop_assert_eq!(parse(&shown, None), Ok(address), "{}", shown);
                prop_assert!(shown.len() <= TEXT_BYTES_MAX);
            }
            Err(error) => {
                prop_assert_eq!(error.status, Status::Invalid);
                prop_assert!(!error.detail.chars().any(char::is_control), "{}", error);
            }
        }
    }

    #[test]
    fn fuzz_any_text_is_a_list_or_refused(text in "([a-z0-9.:\\[\\]*%]{0,9}[ ,\n]?){0,12}") {
        if let Ok(list) = parse_list(&text, Some(1)) {
            prop_assert!((1..=LIST_MAX).contains(&list.len()));
        }
    }
}
