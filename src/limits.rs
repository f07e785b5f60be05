// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every bound of the house, and under it the proof that it fits its neighbours.

/// Members of a group. Sets of members are this many bits on the wire.
pub const MEMBERS_MAX: usize = 64;
/// Words of a set of members.
pub const MEMBERS_WORDS: usize = MEMBERS_MAX.div_ceil(64);
const _: () = assert!(MEMBERS_MAX <= u16::MAX as usize && MEMBERS_WORDS * 64 == MEMBERS_MAX);

/// Subgroups of a group.
pub const SUBGROUPS_MAX: usize = 32;
/// Producing threads of one member in one subgroup.
pub const LANES_MAX: usize = 8;
/// Senders (member and lane) of one subgroup.
pub const SENDERS_MAX: usize = 256;
const _: () = assert!(SENDERS_MAX >= MEMBERS_MAX, "every member may be a sender with one lane");

/// A count beyond this is nonsense, not traffic: at 10^9 messages a second it is 3 days per sender
/// and a peer's word above it makes that peer suspect.
pub const COUNT_MAX: u64 = 1 << 48;
// A number is count * senders + sender: it must not overflow for any count a peer may claim.
const _: () =
    assert!(COUNT_MAX as u128 * SENDERS_MAX as u128 + SENDERS_MAX as u128 <= u64::MAX as u128);

/// Payloads begin at multiples of this.
pub const SLOT_ALIGN: u64 = 16;
/// Bytes of the record of a run, and of a slot's descriptor.
pub const RUN_BYTES: u64 = 32;
pub const DESCRIPTOR_BYTES: u64 = 8;

/// The largest message that a subgroup may be configured for, in bytes.
pub const MESSAGE_BYTES_MAX: u64 = 1 << 30;
/// The largest ring: four of the largest messages fit.
pub const RING_BYTES_MAX: u64 = 1 << 33;
const _: () =
    assert!(MESSAGE_BYTES_MAX <= u32::MAX as u64 && RING_BYTES_MAX > 4 * (MESSAGE_BYTES_MAX + 64));
/// The largest ring that is chosen unasked, as long as four of the largest messages fit.
pub const RING_BYTES_USUAL: u64 = 4 << 20;
/// The smallest ring.
pub const RING_BYTES_MIN: u64 = 4096;

/// Messages that one sender may have unreleased.
pub const WINDOW_MAX: u64 = 1 << 20;

/// Slots that one lane's messages get their index for in one poll; the rest wait for the next one.
pub const TAKE_MAX: u64 = 1024;
/// Messages in one call of the application.
pub const BATCH_MAX: usize = 512;
/// Bytes after which a call of the application ends, so that large messages are released soon.
pub const BATCH_BYTES: i64 = 256 << 10;
/// Posts of one poll and its done. Peers that have been sent the same need, per subgroup, at the
/// most: for each lane six spans (of payloads, descriptors and runs, each of which may go round) and
/// a post of `slots`, three of the hot line, and in *received* mode two per eight senders. That fits
/// at least once (asserted in `group::outbox`); what does not fit waits for the next poll.
pub const POSTS_MAX: usize = 512;

/// The time to suspicion: how long a member may be silent. Long enough for a loaded machine with two
/// cores; the least is some ticks of a scheduler, the most is what anybody calls a hang.
pub const SUSPICION_NS_DEFAULT: u64 = 1_000_000_000;
pub const SUSPICION_NS_MIN: u64 = 20_000_000;
pub const SUSPICION_NS_MAX: u64 = 3_600_000_000_000;
/// The least time without progress after which a policy of lag may act.
pub const LAG_NS_MIN: u64 = 1_000_000;
const _: () =
    assert!(SUSPICION_NS_MIN <= SUSPICION_NS_DEFAULT && SUSPICION_NS_DEFAULT <= SUSPICION_NS_MAX);

/// A name of a group or a member, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Cells that one writer changes together share a line of this many bytes; other writers' cells
/// never do. 128, because x86 prefetches lines in pairs. Part of the wire.
pub const LINE_BYTES: usize = 128;

/// Version of the wire: control block, rings, rendezvous. A view runs at the highest that all its
/// members speak (`base::Versions`); who cannot speak it is refused, with both values named.
pub const WIRE_VERSION: u32 = 1;
