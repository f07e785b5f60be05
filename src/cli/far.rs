// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asking members on other hosts something, as a process that is none: many at once, with an end.

use squall::driver::Inquiry;
use squall::fabric::tcp::address::{Address, Lookup};
use squall::fabric::tcp::call::{Call, Called, Failure};
use squall::fabric::tcp::session::Session;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long one address may take, to its answer.
pub const EACH: Duration = Duration::from_secs(3);
/// Between two rounds: times that are shown are as exact as that.
const PAUSE: Duration = Duration::from_micros(100);

/// What came of calling an address.
pub struct Asked {
    pub address: SocketAddr,
    pub outcome: Result<Box<Session>, Failure>,
    /// From the call to the connection, and to the answer of the member's next look.
    pub connected: Option<Duration>,
    pub took: Duration,
}

/// The numeric addresses of each, or why there are none. Blocks, up to a time.
pub fn look_up(addresses: &[Address]) -> Vec<Result<Vec<SocketAddr>, String>> {
    let mut lookup = match Lookup::start(addresses) {
        Ok(lookup) => lookup,
        Err(why) => return addresses.iter().map(|_| Err(why.to_string())).collect(),
    };
    let until = Instant::now() + EACH;
    while !lookup.poll() && Instant::now() < until {
        std::thread::sleep(PAUSE);
    }
    let found = |at| match lookup.of(at) {
        Some(Ok(found)) => Ok(found.clone()),
        Some(Err(why)) => Err(why.to_string()),
        None => Err(format!(
            "the name server does not answer within {} s; check /etc/resolv.conf, or use a numeric \
             address",
            EACH.as_secs()
        )),
    };
    (0..addresses.len()).map(found).collect()
}

/// Calls all of them at the same time.
pub fn ask(inquiry: &Inquiry, addresses: &[SocketAddr]) -> Vec<Asked> {
    let call = |address: &SocketAddr| {
        let Inquiry { terms, hello, source, .. } = inquiry;
        let call = Call::new(vec![*address], *source, terms.clone(), hello.clone(), EACH);
        (*address, call, Instant::now())
    };
    let mut calls: Vec<_> = addresses.iter().map(call).collect();
    let mut asked = Vec::new();
    while !calls.is_empty() {
        calls.retain_mut(|(address, call, since)| {
            let outcome = match call.step(Instant::now()) {
                Called::Waits => return true,
                Called::Met(session) => Ok(session),
                Called::Failed(failure) => Err(failure),
            };
            let (connected, took) = (call.connected_after(), since.elapsed());
            asked.push(Asked { address: *address, outcome, connected, took });
            false
        });
        std::thread::sleep(PAUSE);
    }
    asked.sort_by_key(|of| addresses.iter().position(|address| *address == of.address));
    asked
}
