// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is let through and who is not, without a socket; then any bytes in any pieces.

use super::*;
use crate::fabric::tcp::secret::Secret;
use crate::fabric::tcp::session::cases;
use proptest::prelude::*;

pub fn secret(of: u8) -> Secret {
    let bytes: Vec<u8> = (0..40).map(|at| at ^ of).collect();
    Secret::from_bytes(&bytes, "a test").unwrap()
}

fn terms(secret: Option<Secret>) -> Terms {
    let versions = Versions { min: 1, max: 1 };
    Terms { group: "demo".into(), secret, versions, incarnation: 0 }
}

fn hello(kind: Kind) -> Hello {
    Hello::new(kind, "demo", 2, 77, "members=3\nwindow=8\n")
}

fn caller(terms: &Terms, nonce: u8) -> Handshake {
    let hello = Hello { group: terms.group.clone(), ..hello(Kind::Join) };
    let hello = Hello { incarnation: terms.incarnation, ..hello };
    Handshake::call(Arc::new(terms.clone()), hello, [nonce; NONCE_BYTES]).unwrap()
}

fn answerer(terms: &Terms, nonce: u8) -> Handshake {
    Handshake::answer(Arc::new(terms.clone()), [nonce; NONCE_BYTES])
}

/// What went to the caller, and to the answerer.
type Said = (Vec<u8>, Vec<u8>);

/// Carries bytes between the two until nothing moves; the answerer welcomes whoever asks. `change`
/// may alter what is on its way: to the answerer?, its place in that direction, the byte.
fn carry(
    one: &mut Handshake,
    other: &mut Handshake,
    change: impl Fn(bool, usize, u8) -> u8,
) -> Said {
    let mut said = (Vec::new(), Vec::new());
    loop {
        let mut moved = false;
        for to_other in [true, false] {
            let (from, to, log) = match to_other {
                true => (&mut *one, &mut *other, &mut said.1),
                false => (&mut *other, &mut *one, &mut said.0),
            };
            let out = from.output().to_vec();
            from.sent(out.len());
            moved |= !out.is_empty();
            let at = log.len();
            log.extend(out.iter().enumerate().map(|(i, byte)| change(to_other, at + i, *byte)));
            to.feed(&log.clone()[at..]);
            if matches!(to.progress(), Progress::Asked(_)) {
                to.welcome(&Hello { rank: 0, ..hello(Kind::Probe) }).unwrap();
                moved = true;
            }
        }
        if !moved {
            return said;
        }
    }
}

fn meet(one: &Terms, other: &Terms) -> (Handshake, Handshake) {
    let (mut caller, mut answerer) = (caller(one, 1), answerer(other, 2));
    carry(&mut caller, &mut answerer, |_, _, byte| byte);
    (caller, answerer)
}

fn refusal(of: &Handshake) -> Refusal {
    match of.progress() {
        Progress::Refused(refusal) => refusal.clone(),
        other => panic!("{other:?}"),
    }
}

fn reason(of: &Handshake) -> Option<Reason> {
    match of.progress() {
        Progress::Refused(refusal) => Some(refusal.reason),
        _ => None,
    }
}

#[test]
fn two_that_hold_the_secret_agree() {
    let terms = terms(Some(secret(0)));
    let (caller, answerer) = meet(&terms, &terms);
    assert!(caller.is_proven() && answerer.is_proven());
    let (one, other) = (caller.agreed().unwrap(), answerer.agreed().unwrap());
    let (ours, others) = (one.keys.unwrap(), other.keys.unwrap());
    assert_eq!((ours.send, ours.receive), (others.receive, others.send));
    assert_ne!(ours.send, ours.receive, "a record sent back must not verify");
    assert_eq!((one.peer.kind, one.peer.rank), (Kind::Welcome, 0));
    assert_eq!((other.peer.kind, other.peer.rank), (Kind::Join, 2));
    assert_eq!((one.wire, other.wire), (1, 1));
    assert_eq!(format!("{ours:?} {:?}", terms.secret), "Keys(not shown) Some(Secret(not shown))");
}

#[test]
fn where_the_network_is_trusted_there_are_no_keys() {
    let (caller, answerer) = meet(&terms(None), &terms(None));
    assert_eq!(caller.agreed().unwrap().keys, None);
    assert_eq!(answerer.agreed().unwrap().peer, hello(Kind::Join).with_incarnation(0));
}

impl Hello {
    fn with_incarnation(self, incarnation: u64) -> Hello {
        Hello { incarnation, ..self }
    }
}

/// The keys depend on everything that was said.
#[test]
fn every_connection_has_keys_of_its_own() {
    let base = terms(Some(secret(0)));
    let keys = |nonces: (u8, u8), incarnation, secret_of, answer: &str| {
        let terms = Terms { secret: Some(secret(secret_of)), incarnation, ..base.clone() };
        let mut caller = caller(&terms, nonces.0);
        let mut answerer = answerer(&Terms { incarnation: 0, ..terms }, nonces.1);
        let mut turn = |to_answerer: bool| {
            let (from, to) = match to_answerer {
                true => (&mut caller, &mut answerer),
                false => (&mut answerer, &mut caller),
            };
            let out = from.output().to_vec();
            from.sent(out.len());
            to.feed(&out);
        };
        [true, false, true, false, true].into_iter().for_each(&mut turn);
        answerer.welcome(&Hello { config: answer.into(), ..hello(Kind::Join) }).unwrap();
        let keys = answerer.agreed().unwrap().keys.unwrap();
        [keys.send, keys.receive]
    };
    let all = [
        keys((1, 2), 5, 0, ""),
        keys((3, 2), 5, 0, ""),
        keys((1, 3), 5, 0, ""),
        keys((1, 2), 6, 0, ""),
        keys((1, 2), 5, 1, ""),
        keys((1, 2), 5, 0, "members=3\n"),
    ];
    for (at, one) in all.as_flattened().iter().enumerate() {
        assert!(!all.as_flattened()[..at].contains(one), "{at}");
    }
    assert_eq!(keys((1, 2), 5, 0, ""), all[0]);
}

/// A stranger's gain from knocking, listening and guessing: 48 bytes that say nothing.
#[test]
fn a_stranger_learns_nothing_of_the_group() {
    let known = Terms { group: "payroll".into(), ..terms(Some(secret(0))) };
    let mut answerer = answerer(&known, 2);
    answerer.feed(&[]);
    assert_eq!(answerer.output(), b"", "who says nothing hears nothing");
    let mut stranger = caller(&terms(Some(secret(9))), 1);
    answerer.feed(&stranger.output().to_vec());
    let opening = answerer.output().to_vec();
    assert_eq!(opening.len(), OPENING_BYTES);
    let other = Handshake::answer(Arc::new(terms(Some(secret(5)))), [2; NONCE_BYTES]);
    assert_eq!(opening, other.mine.bytes, "the same of every group");
    stranger.sent(OPENING_BYTES);
    stranger.feed(&opening);
    answerer.sent(OPENING_BYTES);
    answerer.feed(stranger.output());
    assert_eq!(answerer.output(), [2, 0, 0, 0, ALERT, WRONG_PROOF]);
    assert!(!answerer.is_proven());
    assert_eq!(reason(&answerer), Some(Reason::Proof));
}

#[test]
fn a_wrong_secret_is_refused_and_both_say_so() {
    let (caller, answerer) = meet(&terms(Some(secret(0))), &terms(Some(secret(1))));
    for side in [caller, answerer] {
        let refusal = refusal(&side);
        assert_eq!(refusal.reason, Reason::Proof);
        assert!(refusal.error.detail.contains("sha256sum"), "{}", refusal.error);
    }
}

#[test]
fn one_that_trusts_and_one_that_does_not_name_both() {
    let (has, trusts) = (terms(Some(secret(0))), terms(None));
    for (one, other) in [(&has, &trusts), (&trusts, &has)] {
        let (caller, answerer) = meet(one, other);
        for (side, own) in [(caller, one), (answerer, other)] {
            let refusal = refusal(&side);
            assert_eq!(refusal.reason, Reason::Trust);
            assert_eq!(refusal.error.status, Status::Mismatch);
            let (ours, others) = match own.secret {
                Some(_) => ("this process authenticates", "it trusts"),
                None => ("this process trusts", "it authenticates"),
            };
            let detail = refusal.error.detail;
            assert!(detail.contains(ours) && detail.contains(others), "{detail}");
        }
    }
}

fn speaks(min: u16, max: u16) -> Terms {
    Terms { versions: Versions { min, max }, ..terms(Some(secret(0))) }
}

/// A library of the next version meets one of this version, then one that is too old for it.
#[test]
fn the_next_version_speaks_to_this_one() {
    let now = speaks(1, 1);
    let next = speaks(1, 2);
    let later = speaks(2, 3);
    for (one, other, wire) in
        [(&now, &next, 1), (&next, &now, 1), (&next, &next, 2), (&later, &next, 2)]
    {
        let (caller, answerer) = meet(one, other);
        let (caller, answerer) = (caller.agreed().unwrap(), answerer.agreed().unwrap());
        assert_eq!((caller.wire, answerer.wire), (wire, wire));
        assert_eq!((caller.versions, answerer.versions), (other.versions, one.versions));
    }
    let members = [now.versions, next.versions, next.versions];
    assert_eq!(Versions::common(members), Some(1), "the group runs at the lowest");
    assert_eq!(Versions::common([next.versions, later.versions]), Some(2));
    assert_eq!(Versions::common([now.versions, next.versions, later.versions]), None);
    for (one, other) in [(&now, &later), (&later, &now)] {
        let (caller, answerer) = meet(one, other);
        for side in [caller, answerer] {
            let Refusal { reason, error } = refusal(&side);
            assert_eq!((reason, error.status), (Reason::Versions, Status::WireVersion));
            let both = ["wire version 1", "wire versions 2 to 3"];
            assert!(both.iter().all(|text| error.detail.contains(text)), "{error}");
        }
    }
}

/// Somebody on the way lowers what both say they speak.
#[test]
fn versions_lowered_on_the_way_are_found_out() {
    let next = speaks(1, 2);
    let (mut caller, mut answerer) = (caller(&next, 1), answerer(&next, 2));
    carry(&mut caller, &mut answerer, |_, at, byte| if at == 10 { 1 } else { byte });
    assert_eq!(reason(&answerer), Some(Reason::Proof));
    assert!(caller.agreed().is_none());
}

#[test]
fn another_group_is_named_to_both() {
    for secret_of in [Some(secret(0)), None] {
        let one = terms(secret_of);
        let other = Terms { group: "other-group".into(), ..one.clone() };
        let (caller, answerer) = meet(&one, &other);
        for side in [caller, answerer] {
            let Refusal { reason, error } = refusal(&side);
            assert_eq!((reason, error.status), (Reason::Group, Status::Mismatch));
            assert!(error.detail.contains("`demo`") && error.detail.contains("`other-group`"));
        }
    }
}

#[test]
fn a_process_that_calls_itself_hears_so() {
    let me = Terms { incarnation: 4711, ..terms(Some(secret(0))) };
    let (caller, answerer) = meet(&me, &me);
    assert_eq!(reason(&caller), Some(Reason::Itself));
    assert_eq!(reason(&answerer), Some(Reason::Itself));
}

/// Whoever has no secret sends back what it hears.
#[test]
fn an_echo_is_no_member() {
    for trusts in [false, true] {
        let terms = terms((!trusts).then(|| secret(0)));
        let mut caller = caller(&terms, 1);
        let out = caller.output().to_vec();
        caller.feed(&out);
        assert_eq!(reason(&caller), Some(Reason::Itself));
    }
    // Its own opening, then the caller's proof sent back; likewise at an answerer.
    let terms = terms(Some(secret(0)));
    let mut called = caller(&terms, 1);
    called.sent(OPENING_BYTES);
    called.feed(&Opening::new(&terms, [9; NONCE_BYTES]).bytes);
    let proof = called.output().to_vec();
    called.feed(&proof);
    assert_eq!(reason(&called), Some(Reason::Proof));
    let mut answering = answerer(&terms, 2);
    answering.feed(&Opening::new(&terms, [9; NONCE_BYTES]).bytes);
    let opening = answering.output().to_vec();
    answering.feed(&opening);
    assert_eq!(reason(&answering), Some(Reason::Garbage));
}

/// A member is made to call a stranger, which carries the call on to that member's own door.
#[test]
fn a_call_carried_back_to_its_caller_is_refused() {
    let me = Terms { incarnation: 4711, ..terms(Some(secret(0))) };
    let (mut caller, mut answerer) = (caller(&me, 1), answerer(&me, 2));
    carry(&mut caller, &mut answerer, |_, _, byte| byte);
    assert_eq!(reason(&caller), Some(Reason::Itself));
}

#[test]
fn a_replay_is_refused_by_either_side() {
    let terms = terms(Some(secret(0)));
    let (mut one, mut other) = (caller(&terms, 1), answerer(&terms, 2));
    let (to_caller, to_answerer) = carry(&mut one, &mut other, |_, _, byte| byte);
    let mut answering = answerer(&terms, 3);
    answering.feed(&to_answerer);
    assert_eq!(reason(&answering), Some(Reason::Proof));
    let mut calling = caller(&terms, 4);
    calling.feed(&to_caller);
    assert_eq!(reason(&calling), Some(Reason::Proof));
    // With the same nonce the bytes are good: that is what the nonce is for.
    let mut again = answerer(&terms, 2);
    assert_eq!(again.feed(&to_answerer), to_answerer.len());
    assert!(matches!(again.progress(), Progress::Asked(_)));
}

#[test]
fn a_refusal_is_heard_in_the_callers_own_words() {
    for secret_of in [Some(secret(0)), None] {
        let terms = terms(secret_of);
        let ask = |config: &str| {
            let (mut caller, mut answerer) = (caller(&terms, 1), answerer(&terms, 2));
            for _ in 0..3 {
                let out = caller.output().to_vec();
                caller.sent(out.len());
                answerer.feed(&out);
                let out = answerer.output().to_vec();
                answerer.sent(out.len());
                caller.feed(&out);
            }
            let mine = Hello { config: config.into(), ..hello(Kind::Probe) };
            answerer.refuse(&mine, Status::InUse, "rank 2 is\nalready there");
            caller.feed(answerer.output());
            assert_eq!(reason(&answerer), Some(Reason::Refused));
            refusal(&caller)
        };
        let Refusal { reason, error } = ask(&hello(Kind::Join).config);
        assert_eq!((reason, error.status), (Reason::Refused, Status::InUse));
        assert_eq!(error.detail, "it says no: rank 2 is already there");
        let error = ask("members=3\nwindow=9\n").error;
        assert_eq!(error.status, Status::Mismatch);
        assert!(error.detail.contains("`window=9`") && error.detail.contains("`window=8`"));
        // A configuration too long to be said leaves room for the sentence.
        let long: String = (0..8000).map(|at| format!("subgroup.{at}\n")).collect();
        assert_eq!(ask(&long).error.status, Status::InUse);
    }
}

/// Every byte of an authenticated handshake, altered in two ways, on its way to either side.
#[test]
fn nothing_can_be_altered() {
    let terms = terms(Some(secret(0)));
    let (mut one, mut other) = (caller(&terms, 1), answerer(&terms, 2));
    let (to_caller, to_answerer) = carry(&mut one, &mut other, |_, _, byte| byte);
    for (direction, length) in [(true, to_answerer.len()), (false, to_caller.len())] {
        for at in 0..length {
            for bits in [1, 0x80] {
                let (mut caller, mut answerer) = (caller(&terms, 1), answerer(&terms, 2));
                carry(&mut caller, &mut answerer, |way, place, byte| {
                    if way == direction && place == at { byte ^ bits } else { byte }
                });
                let told = if direction { answerer } else { caller };
                let agreed = matches!(told.progress(), Progress::Agreed | Progress::Asked(_));
                assert!(!agreed, "byte {at} with bits {bits}, to the answerer: {direction}");
            }
        }
    }
}

/// A length costs nothing until its bytes come.
#[test]
fn a_claimed_length_takes_no_memory() {
    let terms = terms(None);
    let mut answerer = answerer(&terms, 2);
    answerer.feed(&Opening::new(&terms, [9; NONCE_BYTES]).bytes);
    let mut longest = ((1 + HELLO_BYTES_MAX) as u32).to_le_bytes().to_vec();
    longest.push(HELLO);
    answerer.feed(&longest);
    assert_eq!(answerer.wanted(), HELLO_BYTES_MAX);
    answerer.feed(b"k");
    assert!(answerer.held.capacity() <= 128);
    for head in [[0xff, 0xff, 0xff, 0xff, HELLO], [2, 0, 1, 0, HELLO], [1, 0, 0, 0, HELLO], [9; 5]]
    {
        let mut answerer = self::answerer(&terms, 2);
        answerer.feed(&Opening::new(&terms, [9; NONCE_BYTES]).bytes);
        answerer.feed(&head);
        assert_eq!(reason(&answerer), Some(Reason::Garbage), "{head:?}");
    }
}

/// What a stranger can make an answerer hold before its proof (A1).
#[test]
fn a_stranger_takes_little_memory() {
    let terms = terms(Some(secret(0)));
    let mut answerer = answerer(&terms, 2);
    answerer.feed(&Opening::new(&terms, [9; NONCE_BYTES]).bytes);
    answerer.feed(&[1 + MARK_BYTES as u8, 0, 0, 0, PROOF]);
    answerer.feed(&[7; MARK_BYTES - 1]);
    assert!(answerer.held.capacity() <= 128 && answerer.wanted() == 1);
}

#[test]
fn a_hang_up_is_told_by_how_far_it_was() {
    let terms = terms(Some(secret(0)));
    let mut caller = caller(&terms, 1);
    caller.hung_up();
    assert!(refusal(&caller).error.detail.contains("at once"));
    let (mut caller, answerer) = (self::caller(&terms, 1), answerer(&terms, 2));
    caller.feed(&answerer.mine.bytes);
    caller.hung_up();
    assert!(refusal(&caller).error.detail.contains("sha256sum"));
    let (mut caller, _) = meet(&terms, &terms);
    caller.hung_up();
    assert_eq!(caller.progress(), Progress::Agreed, "it comes after the handshake");
}

#[test]
fn a_hello_that_cannot_be_said_is_refused_at_once() {
    let config = "x\n".repeat(HELLO_BYTES_MAX);
    let long = Hello { config, ..hello(Kind::Join) };
    let terms = Arc::new(terms(None));
    let error = Handshake::call(terms, long, [1; NONCE_BYTES]).err().unwrap();
    assert_eq!(error.status, Status::Invalid);
}

/// One piece of what a hostile peer says.
#[derive(Clone, Debug)]
enum Piece {
    Any(Vec<u8>),
    Opening {
        form: u8,
        flags: u8,
        min: u16,
        max: u16,
        nonce: u8,
    },
    Message {
        length: i8,
        kind: u8,
        body: Vec<u8>,
    },
    /// A part of what an honest peer said in another connection.
    Replay {
        from: usize,
        bytes: usize,
    },
    /// A message that does not come.
    Claim {
        length: u32,
        kind: u8,
    },
    Hello(Vec<u8>),
}

fn piece() -> impl Strategy<Value = Piece> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..80);
    let small = || prop_oneof![3 => Just(1u16), 1 => 0..4u16, 1 => any::<u16>()];
    let flag = || prop_oneof![3 => 0..2u8, 1 => any::<u8>()];
    let form = prop_oneof![9 => Just(1u8), 1 => any::<u8>()];
    let opening = (form, flag(), small(), small(), any::<u8>());
    let body = proptest::collection::vec(any::<u8>(), 0..140);
    let text = "(kind=(join|probe|welcome|refuse)\n|group=demo\n|rank=[0-9]{1,6}\n|pid=[0-9]{1,11}\n|text=-3[0-9] no\n|[a-z]{0,3}=?\n|config:\n){0,9}";
    prop_oneof![
        1 => bytes().prop_map(Piece::Any),
        4 => opening.prop_map(|(form, flags, min, max, nonce)| Piece::Opening { form, flags, min, max, nonce }),
        3 => (-1..2i8, 0..5u8, body).prop_map(|(length, kind, body)| Piece::Message { length, kind, body }),
        2 => (0..600usize, 0..400usize).prop_map(|(from, bytes)| Piece::Replay { from, bytes }),
        2 => text.prop_map(|text: String| Piece::Hello(text.into_bytes())),
        1 => (any::<u32>(), 0..32u32, 0..5u8)
            .prop_map(|(length, bits, kind)| Piece::Claim { length: length >> bits, kind }),
    ]
}

fn said(pieces: &[Piece], honest: &[u8]) -> Vec<u8> {
    let mut said = Vec::new();
    let message = |length: usize, kind: u8, body: &[u8], said: &mut Vec<u8>| {
        said.extend_from_slice(&(length as u32).to_le_bytes());
        said.push(kind);
        said.extend_from_slice(body);
    };
    for piece in pieces {
        match piece {
            Piece::Any(bytes) => said.extend_from_slice(bytes),
            Piece::Opening { form, flags, min, max, nonce } => {
                let versions = Versions { min: *min, max: *max };
                let mut bytes =
                    Opening::new(&Terms { versions, ..terms(None) }, [*nonce; 32]).bytes;
                (bytes[6], bytes[7]) = (*form, *flags);
                said.extend_from_slice(&bytes);
            }
            Piece::Message { length, kind, body } => {
                let length = (1 + body.len()).saturating_add_signed(isize::from(*length));
                message(length, *kind, body, &mut said);
            }
            Piece::Replay { from, bytes } => {
                let from = *from.min(&honest.len());
                said.extend_from_slice(&honest[from..honest.len().min(from + bytes)]);
            }
            Piece::Hello(text) => message(1 + text.len(), HELLO, text, &mut said),
            Piece::Claim { length, kind } => message(*length as usize, *kind, b"", &mut said),
        }
    }
    said
}

/// Feeds it in pieces of those sizes, then as it comes; whoever asks is welcomed.
fn hear(mut side: Handshake, bytes: &[u8], sizes: &[usize]) -> (Handshake, Vec<u8>) {
    let (mut at, mut sizes, mut output) = (0, sizes.iter(), Vec::new());
    loop {
        let size = sizes.next().copied().unwrap_or(usize::MAX).min(bytes.len() - at);
        let taken = side.feed(&bytes[at..at + size]);
        at += taken;
        output.extend_from_slice(side.output());
        side.sent(side.output().len());
        assert!(side.held.capacity() <= 2 * (HEAD_BYTES + HELLO_BYTES_MAX + MARK_BYTES));
        assert!(side.held.capacity() <= 128 + 2 * bytes.len());
        if matches!(side.progress(), Progress::Asked(_)) {
            side.welcome(&hello(Kind::Welcome)).unwrap();
        } else if side.wanted() == 0 || at == bytes.len() {
            return (side, output);
        }
    }
}

proptest! {
    #![proptest_config(cases(400))]

    /// Any bytes, however they are split: the same answer, no panic, little memory; and nobody gets
    /// through who does not hold the secret.
    #[test]
    fn fuzz_any_bytes_in_any_pieces(
        pieces in proptest::collection::vec(piece(), 0..7),
        sizes in proptest::collection::vec(prop_oneof![Just(0usize), Just(1), 1..60usize], 0..40),
        calls in any::<bool>(),
        trusts in any::<bool>(),
    ) {
        let terms = terms((!trusts).then(|| secret(0)));
        let (mut one, mut other) = (caller(&terms, 200), answerer(&terms, 201));
        let (to_caller, to_answerer) = carry(&mut one, &mut other, |_, _, byte| byte);
        let bytes = said(&pieces, if calls { &to_caller } else { &to_answerer });
        let side = || if calls { caller(&terms, 1) } else { answerer(&terms, 2) };
        let (whole, all) = hear(side(), &bytes, &[]);
        let (split, parts) = hear(side(), &bytes, &sizes);
        prop_assert_eq!(whole.progress(), split.progress());
        prop_assert_eq!((whole.held.clone(), all), (split.held.clone(), parts));
        prop_assert!(trusts || !whole.is_proven());
        prop_assert_eq!(whole.agreed(), split.agreed());
    }

    /// An honest peer's bytes with some altered, lost or put in.
    #[test]
    fn fuzz_a_handshake_that_was_tampered_with(
        edits in proptest::collection::vec((0..900usize, 0..3u8, any::<u8>()), 1..4),
        sizes in proptest::collection::vec(1..60usize, 0..40),
        calls in any::<bool>(),
    ) {
        let terms = terms(Some(secret(0)));
        let side = || if calls { caller(&terms, 1) } else { answerer(&terms, 2) };
        let (mut one, mut other) = (caller(&terms, 1), answerer(&terms, 2));
        let (to_caller, to_answerer) = carry(&mut one, &mut other, |_, _, byte| byte);
        let honest = if calls { to_caller } else { to_answerer };
        let mut bytes = honest.clone();
        for (at, what, byte) in edits {
            let at = at % bytes.len().max(1);
            match what {
                0 => bytes.insert(at, byte),
                _ if bytes.is_empty() => {}
                1 => bytes[at] ^= byte,
                _ => drop(bytes.remove(at)),
            }
        }
        let (whole, all) = hear(side(), &bytes, &[]);
        let (split, parts) = hear(side(), &bytes, &sizes);
        prop_assert_eq!(whole.progress(), split.progress());
        prop_assert_eq!(all, parts);
        let through = matches!(whole.progress(), Progress::Agreed);
        prop_assert_eq!(through, bytes.starts_with(&honest), "as it was, and no other way");
    }
}
