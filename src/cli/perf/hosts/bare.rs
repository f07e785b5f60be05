// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bare TCP between two hosts, as an engine's figures are to be compared with it: there and back in
//! nanoseconds (median), or a stream in bytes a second; and where the engine goes by RDMA, bare RDMA.
//!
//! Rank 0 listens on a port that it tells in the group, with a token that whoever calls has to show: so
//! it is measured with a member. `TCP_NODELAY`; who idles by spinning or yielding reads sockets that
//! never block. Every wait has an end.

mod rdma;

use super::super::plan::{Plan, Test, new_histogram};
use crate::text::IdleOption;
use rustix::thread::sched_yield;
use squall::driver::idle::pin;
use squall::driver::network::{PORT_DEFAULT, Rdma};
use squall::fabric::tcp::address::{Address, Host, Lookup, parse};
use squall::fabric::tcp::secret::random;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

pub use rdma::Figure;

/// How long a floor takes, about.
pub const SECONDS: f64 = 0.5;
const FOR: Duration = Duration::from_millis(400);
/// Of a stream that is not counted.
const WARM_UP: Duration = Duration::from_millis(80);
/// Round trips that are not.
const TRIPS_WARM: u32 = 100;
/// How long to wait for the other one, and for bytes of its.
const PATIENCE: Duration = Duration::from_secs(5);
const TOKEN_BYTES: usize = 32;
/// Bytes of a write of a stream, but for `bw`, whose messages they are.
const WRITE_BYTES: usize = 64 << 10;
const WRITE_BYTES_MAX: usize = 1 << 20;
/// Idle rounds between two looks at the clock.
const LOOK_EVERY: u32 = 1024;

enum Side {
    /// Rank 0.
    Answers(Vec<TcpListener>),
    Calls(Address),
}

/// One side of one floor.
pub struct Bare {
    side: Side,
    token: String,
    test: Test,
    size: usize,
    idle: IdleOption,
    core: Option<usize>,
    rdma: Option<Rdma>,
}

impl Bare {
    fn new(side: Side, token: String, plan: &Plan, core: Option<usize>) -> Bare {
        let size = match plan.test {
            Test::Rate => WRITE_BYTES,
            Test::Lat | Test::Bw => (plan.size as usize).min(WRITE_BYTES_MAX),
        };
        let (test, idle) = (plan.test, plan.idle);
        Bare { side, token, test, size, idle, core, rdma: None }
    }

    /// By RDMA, if that is what the engine goes by: messages of a rate are written as they are.
    pub fn by(mut self, rdma: Option<Rdma>, plan: &Plan) -> Bare {
        if rdma.is_some() {
            self.size = (plan.size as usize).min(WRITE_BYTES_MAX);
        }
        self.rdma = rdma;
        self
    }

    /// Rank 0's; the port and the token are for the other one.
    pub fn answers(
        listen: &[String],
        port: u16,
        plan: &Plan,
        core: Option<usize>,
    ) -> Result<(Bare, u16, String), String> {
        let (listener, port) = listen_on(listen, port)?;
        let token = random::<{ TOKEN_BYTES / 2 }>().map_err(|why| why.to_string())?;
        let token: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok((Bare::new(Side::Answers(vec![listener]), token.clone(), plan, core), port, token))
    }

    /// The other one's. `founder`: rank 0's address in the group.
    pub fn calls(
        founder: &str,
        port: u16,
        token: String,
        plan: &Plan,
        core: Option<usize>,
    ) -> Bare {
        let host = parse(founder, Some(PORT_DEFAULT)).map_or(Host::Any, |address| address.host);
        Bare::new(Side::Calls(Address { host, port }), token, plan, core)
    }

    /// Measures in a thread of its own.
    pub fn start(self) -> io::Result<JoinHandle<Result<Figure, String>>> {
        Builder::new().name("squall-floor".into()).spawn(move || self.run())
    }

    fn run(self) -> Result<Figure, String> {
        if let Some(core) = self.core {
            pin(core).map_err(|why| why.to_string())?;
        }
        let lost = |cause: io::Error| format!("the bare connection is lost: {cause}");
        match &self.side {
            Side::Answers(listeners) => {
                let stream = self.accept(&listeners[0])?;
                let mut wire = Wire::new(stream, self.idle).map_err(lost)?;
                if let Some(rdma) = &self.rdma {
                    return rdma::measure(&self, rdma, &mut wire, true);
                }
                let figure = match self.test {
                    Test::Lat => self.trips(&mut wire),
                    Test::Rate | Test::Bw => self.pours(&mut wire),
                };
                figure.map(|one| Figure { one, chained: 0.0 }).map_err(lost)
            }
            Side::Calls(address) => {
                let stream = self.call(address)?;
                let mut wire = Wire::new(stream, self.idle).map_err(lost)?;
                if let Some(rdma) = &self.rdma {
                    return rdma::measure(&self, rdma, &mut wire, false);
                }
                let echoed = match self.test {
                    Test::Lat => self.echoes(&mut wire),
                    Test::Rate | Test::Bw => self.drinks(&mut wire),
                };
                echoed.map(|_| Figure::default()).map_err(lost)
            }
        }
    }

    fn accept(&self, listener: &TcpListener) -> Result<TcpStream, String> {
        let until = Instant::now() + PATIENCE;
        let not = |cause: io::Error| format!("cannot accept: {cause}");
        listener.set_nonblocking(true).map_err(not)?;
        while Instant::now() < until {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                Err(cause) => return Err(not(cause)),
            };
            let mut shown = [0; TOKEN_BYTES];
            stream.set_nonblocking(false).map_err(not)?;
            stream.set_read_timeout(Some(Duration::from_secs(1))).map_err(not)?;
            if stream.read_exact(&mut shown).is_ok() && shown == self.token.as_bytes() {
                return Ok(stream);
            }
        }
        let at = listener.local_addr().map(|at| at.port()).unwrap_or(0);
        Err(format!(
            "nobody came to port {at}; if a firewall is between, open one for --floor-port"
        ))
    }

    fn call(&self, address: &Address) -> Result<TcpStream, String> {
        let mut lookup =
            Lookup::start(std::slice::from_ref(address)).map_err(|why| why.to_string())?;
        let until = Instant::now() + PATIENCE;
        while !lookup.poll() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut why = lookup.trouble().map_or("no address".into(), |trouble| trouble.to_string());
        for numeric in lookup.addresses() {
            match TcpStream::connect_timeout(&numeric, PATIENCE / 2) {
                Ok(mut stream) => match stream.write_all(self.token.as_bytes()) {
                    Ok(()) => return Ok(stream),
                    Err(cause) => why = format!("{numeric}: {cause}"),
                },
                Err(cause) => {
                    why = format!(
                        "{numeric} cannot be reached ({cause}); if a firewall is between, open a port \
                         for --floor-port"
                    );
                }
            }
        }
        Err(why)
    }

    /// There and back, the median in nanoseconds.
    fn trips(&self, wire: &mut Wire) -> io::Result<f64> {
        let mut bytes = vec![1; self.size];
        let mut histogram = new_histogram();
        let start = Instant::now();
        for trip in 0u32.. {
            let begin = Instant::now();
            wire.write_all(&bytes)?;
            wire.read_all(&mut bytes)?;
            if trip >= TRIPS_WARM {
                histogram.saturating_record(begin.elapsed().as_nanos() as u64);
            }
            if trip > TRIPS_WARM && start.elapsed() > FOR {
                break;
            }
        }
        Ok(histogram.value_at_quantile(0.5) as f64)
    }

    fn echoes(&self, wire: &mut Wire) -> io::Result<f64> {
        let mut bytes = vec![0; self.size];
        loop {
            match wire.read_all(&mut bytes) {
                Ok(()) => wire.write_all(&bytes)?,
                Err(cause) if cause.kind() == ErrorKind::UnexpectedEof => return Ok(0.0),
                Err(cause) => return Err(cause),
            }
        }
    }

    /// A stream; the other end says how fast it came.
    fn pours(&self, wire: &mut Wire) -> io::Result<f64> {
        let bytes = vec![1; self.size];
        let start = Instant::now();
        while start.elapsed() < FOR {
            wire.write_all(&bytes)?;
        }
        wire.stream.shutdown(std::net::Shutdown::Write)?;
        let mut said = [0; 8];
        wire.read_all(&mut said)?;
        Ok(f64::from_le_bytes(said))
    }

    fn drinks(&self, wire: &mut Wire) -> io::Result<f64> {
        let mut bytes = vec![0; self.size.max(WRITE_BYTES)];
        let (mut first, mut from, mut total, mut before) = (None, None, 0u64, 0u64);
        loop {
            let got = wire.read_some(&mut bytes)?;
            if got == 0 {
                break;
            }
            if self.test == Test::Bw {
                std::hint::black_box(super::super::message::touch(&bytes[..got]));
            }
            total += got as u64;
            let now = Instant::now();
            let begun = *first.get_or_insert(now);
            if from.is_none() && now - begun >= WARM_UP {
                (from, before) = (Some(now), total);
            }
        }
        let seconds = from.map_or(0.0, |from| from.elapsed().as_secs_f64());
        let rate = if seconds > 0.0 { (total - before) as f64 / seconds } else { 0.0 };
        wire.write_all(&rate.to_le_bytes())?;
        Ok(rate)
    }
}

/// The address that a text names, if that needs no lookup and is that of an interface.
fn socket(text: &str) -> Option<SocketAddr> {
    let numeric = parse(text, Some(PORT_DEFAULT)).ok().and_then(|at| at.numeric().ok()).flatten();
    numeric.filter(|numeric| !numeric.ip().is_unspecified())
}

/// The first such of those that a member listens on.
pub fn own_address(listen: &[String]) -> Option<IpAddr> {
    listen.iter().find_map(|text| socket(text)).map(|at| at.ip())
}

/// Where the group listens, on another port.
fn listen_on(listen: &[String], port: u16) -> Result<(TcpListener, u16), String> {
    let mut at: Vec<SocketAddr> = listen.iter().filter_map(|text| socket(text)).collect();
    // All, of both families if there are two.
    let all = ["::", "0.0.0.0"].map(|ip| SocketAddr::new(ip.parse::<IpAddr>().expect("one"), 0));
    if at.is_empty() {
        at.extend(all);
    }
    let mut why = String::new();
    for mut address in at {
        address.set_port(port);
        match TcpListener::bind(address).and_then(|of| Ok((of.local_addr()?.port(), of))) {
            Ok((port, listener)) => return Ok((listener, port)),
            Err(cause) => why = format!("cannot listen on {address}: {cause}"),
        }
    }
    Err(why)
}

/// A connection that is read as its idle strategy says.
struct Wire {
    stream: TcpStream,
    idle: IdleOption,
}

impl Wire {
    fn new(stream: TcpStream, idle: IdleOption) -> io::Result<Wire> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nonblocking(idle != IdleOption::Park)?;
        Ok(Wire { stream, idle })
    }

    /// Until `once` does something.
    #[inline]
    fn wait(
        &mut self,
        mut once: impl FnMut(&mut TcpStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut since = None;
        for round in 1u32.. {
            match once(&mut self.stream) {
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => {
                    if self.idle == IdleOption::Park {
                        return Err(ErrorKind::TimedOut.into()); // it has waited
                    }
                    if round.is_multiple_of(LOOK_EVERY)
                        && since.get_or_insert_with(Instant::now).elapsed() > PATIENCE
                    {
                        return Err(ErrorKind::TimedOut.into());
                    }
                    if self.idle == IdleOption::Yield {
                        sched_yield()
                    } else {
                        std::hint::spin_loop()
                    }
                }
                other => return other,
            }
        }
        unreachable!("the clock stops it before")
    }

    fn read_some(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.wait(|stream| stream.read(bytes))
    }

    fn read_all(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            match self.wait(|stream| stream.read(&mut bytes[at..]))? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                got => at += got,
            }
        }
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            at += self.wait(|stream| stream.write(&bytes[at..]))?;
        }
        Ok(())
    }
}
