/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * squall.h - totally ordered, stable multicast between the processes of a group.
 *
 * Generated from src/capi; do not edit (`cargo build --features header` writes it).
 *
 * THREADS    A group is polled by one thread at a time: the caller's, in squall_poll, or one of its
 *            own. Each lane of a sender belongs to one thread at a time. Everything else: any.
 * CALLBACKS  run on the thread that polls. They may send, in any lane of theirs. They may not poll,
 *            wait, arm or close: SQUALL_REENTRANT. No exception or longjmp may leave them.
 * MEMORY     What a callback gets is valid until it returns. Outputs are written on success only.
 * STATUSES   0 or negative; where a count is the answer, it is >= 0. squall_last_error has the cause,
 *            the value and the remedy, per thread.
 * STRUCTS    begin with their size, which their _init sets; zero is the default of every field.
 * SETTINGS   are those of the struct; squall_group_attr_read fills it from a file and the environment.
 * FORK       A forked child has none of its parent's groups: their handles answer SQUALL_CLOSED
 *            there, and the others notice the parent's end, not the child's. It may open its own.
 *            One that was forked in a delivery callback may return from it: squall_poll answers
 *            SQUALL_CLOSED; what the callback was given is the parent's and may change. One that
 *            was forked in another callback, or in a signal handler that interrupted this library,
 *            and one made by _Fork or by clone past the C library, may only exec or _exit.
 */

#ifndef SQUALL_H
#define SQUALL_H

#include <stddef.h>
#include <stdint.h>

/* Version of this header; squall_version() is that of the library. */
#define SQUALL_VERSION_MAJOR 0
#define SQUALL_VERSION_MINOR 1
#define SQUALL_VERSION_PATCH 0
#define SQUALL_VERSION \
  ((SQUALL_VERSION_MAJOR << 16) | (SQUALL_VERSION_MINOR << 8) | SQUALL_VERSION_PATCH)

/* Another lane of this member than the first: a subgroup argument of the sending functions. */
#define SQUALL_LANE(subgroup, lane) ((uint32_t)(subgroup) | (uint32_t)(lane) << 16)


/**
 * Levels of log sentences.
 */
#define SQUALL_LOG_ERROR 1

#define SQUALL_LOG_WARNING 2

#define SQUALL_LOG_NOTICE 3

/**
 * Deliver in the total order, once every member has the message.
 */
#define SQUALL_MODE_STABLE 0

/**
 * Deliver on receipt, in the order of each sender.
 *
 * Where views change (SQUALL_MEMBERSHIP_VIEWS): of a sender that stays in the group, all members that
 * stay deliver every message, once and in order. Of one that fails some may deliver last
 * messages that others never get: where that matters, use SQUALL_MODE_STABLE. Who joins begins with
 * the first message of each sender that not all had; with a state, after what its source had.
 */
#define SQUALL_MODE_RECEIVED 1

/**
 * Senders wait for a member that makes no progress, however long.
 */
#define SQUALL_LAG_WAIT 0

/**
 * The same; and when it has made none for `lag_ms`, the callback `lags` hears of it.
 */
#define SQUALL_LAG_REPORT 1

/**
 * When it has made none for `lag_ms` the group goes on without it, as if it had failed: only with
 * SQUALL_MEMBERSHIP_VIEWS.
 */
#define SQUALL_LAG_EVICT 2

/**
 * Poll a while, then sleep until a peer rings. Needed for `squall_fd` and `squall_arm`.
 */
#define SQUALL_IDLE_PARK 0

/**
 * Give the core away and poll on: for more members than cores.
 */
#define SQUALL_IDLE_YIELD 1

/**
 * Poll on: lowest latency, a whole core.
 */
#define SQUALL_IDLE_SPIN 2

/**
 * The group polls itself in a thread of its own, which blocks all signals.
 */
#define SQUALL_FLAG_OWN_THREAD 1

/**
 * That thread runs on `core`; only with `SQUALL_FLAG_OWN_THREAD`.
 */
#define SQUALL_FLAG_PIN 2

/**
 * Lock the shared pages in memory; without `SQUALL_FLAG_REQUIRE`, as far as RLIMIT_MEMLOCK allows.
 */
#define SQUALL_FLAG_LOCK 4

/**
 * Use huge pages; without `SQUALL_FLAG_REQUIRE`, if there are any.
 */
#define SQUALL_FLAG_HUGE 8

/**
 * What `SQUALL_FLAG_LOCK` and `SQUALL_FLAG_HUGE` ask for is had, or the group is not opened; only
 * with one of them.
 */
#define SQUALL_FLAG_REQUIRE 16

/**
 * Join a group that runs instead of founding one; only with SQUALL_MEMBERSHIP_VIEWS. `rank` says
 * nothing then; `members` is as at the founders.
 */
#define SQUALL_FLAG_JOIN 32

/**
 * The group's secret is read from the descriptor `secret_fd`; not with SQUALL_FABRIC_SHM.
 */
#define SQUALL_FLAG_SECRET_FD 64

/**
 * Nothing is authenticated: whoever reaches a port of a member is believed, and may be a member.
 * Instead of a secret, and at all members or at none; not with SQUALL_FABRIC_SHM.
 */
#define SQUALL_FLAG_TRUSTED_NETWORK 128

/**
 * As `SQUALL_FLAG_REQUIRE`, for `SQUALL_FLAG_LOCK` only.
 */
#define SQUALL_FLAG_REQUIRE_LOCK 256

/**
 * As `SQUALL_FLAG_REQUIRE`, for `SQUALL_FLAG_HUGE` only.
 */
#define SQUALL_FLAG_REQUIRE_HUGE 512

/**
 * Of two members the one of the lower rank goes on alone when it loses the other; else neither is a
 * majority, and both stop. Of three nobody can leave in good order then: `squall_leave` waits until there
 * are more, or fewer, and `squall_group_close` is a failure to the others. At all members or at none; only
 * with SQUALL_MEMBERSHIP_VIEWS.
 */
#define SQUALL_FLAG_TIE_BREAK 1024

/**
 * In `suspicion_ms`: silence is never held against a member.
 */
#define SQUALL_SUSPICION_NEVER UINT32_MAX

/**
 * Shared memory: all members are on this host.
 */
#define SQUALL_FABRIC_SHM 0

/**
 * TCP, between members on one host, too; only with SQUALL_MEMBERSHIP_VIEWS.
 */
#define SQUALL_FABRIC_TCP 1

/**
 * Shared memory within a host, TCP between hosts; only with SQUALL_MEMBERSHIP_VIEWS.
 */
#define SQUALL_FABRIC_AUTO 2

/**
 * RDMA (InfiniBand, RoCE), between members on one host, too; only with SQUALL_MEMBERSHIP_VIEWS. Needs
 * libibverbs.so.1 and a device when the group is opened. Which one: `rdma`.
 */
#define SQUALL_FABRIC_VERBS 3

/**
 * Shared memory within a host, RDMA between hosts; as SQUALL_FABRIC_VERBS otherwise.
 */
#define SQUALL_FABRIC_SHM_VERBS 4

/**
 * `rank`, `members` and `founders` are given.
 */
#define SQUALL_LAUNCHER_NONE 0

/**
 * They are those of the Slurm job step, from its environment variables (SLURM_PROCID and others): leave
 * them 0. The members of a host listen on adjoining ports, from the one in `listen` on, or 7471.
 */
#define SQUALL_LAUNCHER_SLURM 1

/**
 * The members are those of the attributes; the first loss ends the group.
 */
#define SQUALL_MEMBERSHIP_FIXED 0

/**
 * Whoever fails or leaves is dropped and the others go on, as long as they are a majority of those
 * that there were; others may join (SQUALL_FLAG_JOIN).
 */
#define SQUALL_MEMBERSHIP_VIEWS 1

/**
 * Not a member of that subgroup.
 */
#define SQUALL_PLACE_NONE 0

/**
 * A member that only receives.
 */
#define SQUALL_PLACE_MEMBER 1

/**
 * A member that sends, too.
 */
#define SQUALL_PLACE_SENDER 2

/**
 * In `flags` of a message: it was delivered before this process was a member, after the state that it
 * has got was fixed. Apply it like any other.
 */
#define SQUALL_MESSAGE_CATCHUP 1

/**
 * `state_load`: a state is coming; `bytes` is a `squall_version_t`. If something came before, it is
 * void, with all messages after it: the source has failed, or had to start over.
 */
#define SQUALL_STATE_BEGIN 0

/**
 * `state_load`: the next `len` bytes of it, cut anywhere.
 */
#define SQUALL_STATE_CHUNK 1

/**
 * `state_load`: that was all, and it came as it was sent; `bytes` is NULL. Messages follow.
 */
#define SQUALL_STATE_LOADED 2

/**
 * `state_load`: the group has gone to another view, still without this process; `bytes` is a
 * `squall_version_t`. Ranks of messages are those of this view from now on.
 */
#define SQUALL_STATE_VIEW 3

/**
 * In `restarts_max`: not once.
 */
#define SQUALL_RESTARTS_NONE UINT32_MAX

/**
 * Messages of a subgroup that one turn delivers at the most, and that one callback gets.
 */
#define SQUALL_BATCH_MAX 512

/**
 * Memory of the host's, at `address`.
 */
#define SQUALL_MEMORY_HOST 0

/**
 * Memory that CUDA has allocated, at the device address `address`.
 */
#define SQUALL_MEMORY_CUDA 1

/**
 * Memory behind a dma-buf's `descriptor`, from `offset` on.
 */
#define SQUALL_MEMORY_DMABUF 2

/**
 * Other members may read it.
 */
#define SQUALL_MEMORY_READ 1

/**
 * Other members may write it.
 */
#define SQUALL_MEMORY_WRITE 2

/**
 * Only if a network device reads and writes it itself; else SQUALL_NOT_DIRECT.
 */
#define SQUALL_MEMORY_DIRECT 4

/**
 * How memory is reached: copied to and from sockets.
 */
#define SQUALL_PATH_STAGED 1

/**
 * The same, and between them and the device through pinned memory of the host's.
 */
#define SQUALL_PATH_BOUNCE 2

/**
 * A network device reads and writes the host's memory itself.
 */
#define SQUALL_PATH_DIRECT 3

/**
 * A network device reads and writes the device's memory, through a dma-buf.
 */
#define SQUALL_PATH_DMABUF 4

/**
 * The same through the driver's module for that (peermem).
 */
#define SQUALL_PATH_PEERMEM 5

/**
 * A completion is that of a put of this member's;
 */
#define SQUALL_DONE_PUT 1

/**
 * or of a get;
 */
#define SQUALL_DONE_GET 2

/**
 * or somebody has put something into memory of this member, and announced it.
 */
#define SQUALL_ANNOUNCED 3

/**
 * In `flags` of an access, a put's: its owner hears of it, with `word`.
 */
#define SQUALL_ACCESS_ANNOUNCE 1

/**
 * The answers of calls: 0, or negative and grouped by what is lost. The numbers are frozen.
 */
typedef enum squall_status {
  /**
   * Done.
   */
  SQUALL_OK = 0,
  /**
   * Nothing is lost: no free slot, or there is work. Poll, then try again.
   */
  SQUALL_AGAIN = -1,
  /**
   * Nothing is lost: a wait ended before anything happened. Only `squall_memory_wait` answers it:
   * `squall_wait` says SQUALL_OK then too, and opening says SQUALL_NOT_COMPLETE.
   */
  SQUALL_TIMED_OUT = -2,
  /**
   * Nothing is lost: the subgroup has fewer members than `shard_members_min` and waits for more. Try
   * again in the next view (the view callback says who lacks how many).
   */
  SQUALL_INADEQUATE = -3,
  /**
   * This call is lost: an argument is out of its range (`squall_last_error` says which).
   */
  SQUALL_INVALID = -10,
  /**
   * This call is lost: the message is longer than the subgroup's largest.
   */
  SQUALL_TOO_LONG = -11,
  /**
   * This call is lost: this member does not send in that subgroup or lane.
   */
  SQUALL_NOT_SENDER = -12,
  /**
   * This call is lost: a struct's `size` is not one that this library knows.
   */
  SQUALL_WRONG_SIZE = -13,
  /**
   * This call is lost: no such handle was ever opened.
   */
  SQUALL_NO_HANDLE = -14,
  /**
   * This call is lost: the handle was closed.
   */
  SQUALL_CLOSED = -15,
  /**
   * This call is lost: it came from inside a callback, or beside another thread in the same call.
   */
  SQUALL_REENTRANT = -16,
  /**
   * This call is lost: the group polls itself in a thread of its own.
   */
  SQUALL_OWN_THREAD = -17,
  /**
   * This call is lost: no message is reserved in that lane (publish, abort), or one is (send,
   * reserve).
   */
  SQUALL_NOT_RESERVED = -18,
  /**
   * This operation is lost: the owner of the memory is no member any more, or the connection to it
   * broke; what was carried out is not known.
   */
  SQUALL_GONE = -19,
  /**
   * This operation is lost: the memory is not registered any more.
   */
  SQUALL_NO_REGION = -20,
  /**
   * This operation is lost: its owner has not allowed that.
   */
  SQUALL_DENIED = -21,
  /**
   * This call is lost: only direct access was asked for, and no device reaches that memory itself.
   */
  SQUALL_NOT_DIRECT = -22,
  /**
   * Not opened: not enough memory. This one and those that follow may also say why a member stops
   * that can have no next view.
   */
  SQUALL_NO_MEMORY = -30,
  /**
   * Not opened: a limit is in the way (`squall_last_error` names it and the remedy).
   */
  SQUALL_LIMIT = -31,
  /**
   * Not opened: that rank of that group is open in a live process.
   */
  SQUALL_IN_USE = -32,
  /**
   * Not opened: another user's process holds the group's name.
   */
  SQUALL_FOREIGN_OWNER = -33,
  /**
   * Not opened: the members have different configurations.
   */
  SQUALL_MISMATCH = -34,
  /**
   * Not opened: the members speak different versions of the wire.
   */
  SQUALL_WIRE_VERSION = -35,
  /**
   * Not opened: not all members arrived in time.
   */
  SQUALL_NOT_COMPLETE = -36,
  /**
   * Not opened: the system refused something.
   */
  SQUALL_SYSTEM = -37,
  /**
   * The group is lost: a member's process ended without closing it.
   */
  SQUALL_PEER_LOST = -50,
  /**
   * The group is lost: a member wrote nonsense and was cut off.
   */
  SQUALL_PEER_FAULT = -51,
  /**
   * The group is over: a member has closed it, nothing more can become stable.
   */
  SQUALL_PEER_LEFT = -52,
  /**
   * The group is lost; only close is left.
   */
  SQUALL_FAILED = -53,
  /**
   * The group goes on without this member: the others believed it failed. Close it, and open it
   * anew to join again.
   */
  SQUALL_EXPELLED = -54,
  /**
   * This member stops: those that it can see are no majority of the group.
   */
  SQUALL_PARTITIONED = -55,
  /**
   * This member has left, as it asked to.
   */
  SQUALL_LEFT = -56,
  /**
   * This member stops: too many leaders failed in one view change.
   */
  SQUALL_EXHAUSTED = -57,
  /**
   * A bug of ours was caught. The group is poisoned; only close is left.
   */
  SQUALL_PANIC = -90,
} squall_status;

/**
 * Receives the library's sentences. `text` is valid until it returns.
 */
typedef void (*squall_log_fn)(void *user, int32_t level, const char *text);

/**
 * One subgroup: an ordered stream of messages with its own members; or several, its shards, each with
 * some of them. The list must be the same at all members, but for `lag`.
 *
 * Everywhere else shards are numbered through, as subgroups of their own: if the first of the list has
 * three shards they are the subgroups 0, 1 and 2, and the second of the list begins with 3.
 */
typedef struct squall_subgroup_attr_t {
  /**
   * Set by `squall_subgroup_attr_init`.
   */
  uint32_t size;
  /**
   * `SQUALL_MODE_…`.
   */
  uint32_t mode;
  /**
   * Ranks of its members; NULL: all members of the group.
   */
  const uint16_t *members;
  /**
   * Ranks among them that may send; NULL: all of them.
   */
  const uint16_t *senders;
  /**
   * How many ranks `members` and `senders` point to.
   */
  uint32_t member_count;
  uint32_t sender_count;
  /**
   * Producing threads per sender, 1 to 8; 0: 1.
   */
  uint32_t lanes;
  /**
   * Messages that one lane may have unreleased; 0: 4096.
   */
  uint32_t window;
  /**
   * Bytes of the largest message; 0: 1 MiB.
   */
  uint32_t message_bytes_max;
  /**
   * Reserved: 0.
   */
  uint32_t reserved;
  /**
   * Bytes of a lane's ring; 0: room for a window of the largest messages, but no more than
   * 4 MiB, unless four of them need more.
   */
  uint64_t window_bytes;
  /**
   * Disjoint parts, 1 to 32 of all subgroups; 0: 1. A member is in one of them at the most, and
   * stays in it (unless another one lacks members that this one can spare).
   */
  uint32_t shards;
  /**
   * Members that each shard needs, 0 to 64. One with fewer waits: see SQUALL_INADEQUATE. Without
   * SQUALL_MEMBERSHIP_VIEWS the group is not opened with fewer. 0: it may even be empty.
   */
  uint32_t shard_members_min;
  /**
   * Members that each shard may have; who is too many has no place until one is free. 0: no bound.
   */
  uint32_t shard_members_max;
  /**
   * Only the first so many to arrive in a shard send there; if one goes, the next in line follows.
   * Not together with `senders`. 0: no bound.
   */
  uint32_t senders_first;
  /**
   * `SQUALL_LAG_...`: what is done about a member that its senders wait for.
   */
  uint32_t lag;
  /**
   * With SQUALL_LAG_REPORT and SQUALL_LAG_EVICT: after how long without any progress, in milliseconds,
   * 1 to 3600000; there is no default.
   */
  uint32_t lag_ms;
  /**
   * Its name; no two are the same. NULL: none. Copied.
   */
  const char *name;
} squall_subgroup_attr_t;

/**
 * What the transfer of the application's state may take, at this member, whether it gives the state
 * or gets it. 0 is the default everywhere; members need not have the same.
 */
typedef struct squall_transfer_attr_t {
  /**
   * Set by `squall_transfer_attr_init`.
   */
  uint32_t size;
  /**
   * Who gives: how often a transfer starts over because messages came faster than the other took
   * them and the buffer was full; 0: 3; SQUALL_RESTARTS_NONE: it fails at once. Each time the buffer
   * is twice as long, up to `catchup_bytes_max`. Nothing is kept on a disk.
   */
  uint32_t restarts_max;
  /**
   * Who gives: bytes of the buffer for what is delivered while the state is sent, a power of two; 0:
   * 64 MiB. Each message takes its length and up to 39 bytes. It is larger where two of the longest
   * messages need more, and there during a transfer only; four can run at once.
   */
  uint64_t catchup_bytes;
  /**
   * Bytes; 0: 256 MiB, or `catchup_bytes` if that is more.
   */
  uint64_t catchup_bytes_max;
  /**
   * Who gives: the other asks to be a member when it lacks no more than so many bytes of messages
   * (0: 1 MiB; a fourth of the buffer at the most) and so many messages (0: 8192). All wait while
   * it applies those.
   */
  uint64_t near_bytes;
  uint64_t near_messages;
  /**
   * How long the other side may stand still, in milliseconds; 0: 30000. Its callbacks count.
   */
  uint32_t patience_ms;
  /**
   * Reserved: 0.
   */
  uint32_t reserved;
} squall_transfer_attr_t;

/**
 * A group and this process' place in it.
 *
 * Strings and structs that it points to are copied by `squall_group_open`, and need to live until it
 * returns; those that `squall_group_attr_read` puts here live until `squall_group_attr_free`. Strings
 * are UTF-8. Addresses are "HOST:PORT", "[IPv6]:PORT" or "NAME:PORT", several parted by commas; the
 * port is 7471 if none is named.
 */
typedef struct squall_group_attr_t {
  /**
   * Set by `squall_group_attr_init`.
   */
  uint32_t size;
  /**
   * This process' rank: 0 to `members` - 1.
   */
  uint32_t rank;
  /**
   * How many members the group has, 1 to 64.
   */
  uint32_t members;
  /**
   * `SQUALL_IDLE_…`.
   */
  uint32_t idle;
  /**
   * Name of the group on this host: up to 64 letters, digits, '-', '_', '.'. Copied.
   */
  const char *name;
  /**
   * Subgroups; NULL: one, of all members. Copied.
   */
  const struct squall_subgroup_attr_t *subgroups;
  /**
   * How many.
   */
  uint32_t subgroup_count;
  /**
   * `SQUALL_FLAG_OWN_THREAD`, `SQUALL_FLAG_PIN`, …
   */
  uint32_t flags;
  /**
   * With `SQUALL_FLAG_PIN`: the core of the group's own thread.
   */
  uint32_t core;
  /**
   * How long opening waits for the others, in milliseconds; 0: a minute.
   */
  uint32_t open_timeout_ms;
  /**
   * `SQUALL_MEMBERSHIP_…`.
   */
  uint32_t membership;
  /**
   * With SQUALL_MEMBERSHIP_VIEWS: how long a member may be silent before the others go on without
   * it, in milliseconds, the same everywhere; 0: 1000. SQUALL_SUSPICION_NEVER.
   */
  uint32_t suspicion_ms;
  /**
   * With SQUALL_MEMBERSHIP_VIEWS: what the transfer of the state may take; NULL: the default. Copied.
   */
  const struct squall_transfer_attr_t *transfer;
  /**
   * `SQUALL_FABRIC_…`, the same everywhere. What follows, up to `secret_fd`, is for members on several
   * hosts: with SQUALL_FABRIC_SHM it is nothing (`launcher` aside).
   */
  uint32_t fabric;
  /**
   * `SQUALL_LAUNCHER_…`.
   */
  uint32_t launcher;
  /**
   * Addresses to listen on, of an interface or "*:PORT"; NULL: all of this host, and the port that
   * `founders` says of this member, or 7471. Calls come from the first that is one address.
   */
  const char *listen;
  /**
   * The one address that others are told to reach this member by; NULL: as they see it.
   */
  const char *advertise;
  /**
   * Addresses of the founders, as many as `members`, by rank. Needed by who founds.
   */
  const char *founders;
  /**
   * With SQUALL_FLAG_JOIN: addresses of members, any of which will do; a name may have several.
   * NULL: `founders`.
   */
  const char *contacts;
  /**
   * A file with the group's secret, which must belong to this user and be readable by nobody else
   * (`squall secret FILE` makes one). Neither it nor its bytes are kept or logged. NULL:
   * SQUALL_FLAG_SECRET_FD or SQUALL_FLAG_TRUSTED_NETWORK is needed.
   */
  const char *secret_file;
  /**
   * With SQUALL_FLAG_SECRET_FD: the same from an open file or pipe, read to its end when the group is
   * opened, for 5 s at the most. It stays open, and the caller's.
   */
  int32_t secret_fd;
  /**
   * Reserved: 0.
   */
  uint32_t reserved;
  /**
   * How often a busy turn looks at connections, in nanoseconds; 0: 10 ms.
   */
  uint64_t liveness_every_ns;
  /**
   * Of `squall_group_attr_read`: leave it as it is.
   */
  void *owned;
  /**
   * Users of this host whose processes may be members, beside this process' own: names or numbers,
   * parted by commas. NULL: none. Each member decides for itself: all need each other's.
   */
  const char *peers_users;
  /**
   * A unix group, by name or number: processes that have it may be members; this one must have it,
   * too. NULL: none.
   */
  const char *peers_group;
  /**
   * An existing directory in which members on this host find each other, the same for all, who can
   * read and write it: for containers that share a volume and no network. NULL: abstract names.
   */
  const char *peers_directory;
  /**
   * Parts a machine: members with another name are on another host, and meet over TCP though they
   * could share memory. Up to 24 letters, digits, '-', '_', '.'; NULL: none; not with
   * SQUALL_FABRIC_SHM.
   */
  const char *host;
  /**
   * With SQUALL_FABRIC_VERBS or SQUALL_FABRIC_SHM_VERBS: which port of this host, and how, as
   * "device=mlx5_0,port=1,gid_index=3,mtu=4096,timeout=14,retry=6,traffic_class=0,service_level=0"; what
   * is left out is chosen, as `squall config --example` says. NULL: all of it.
   */
  const char *rdma;
} squall_group_attr_t;

/**
 * An open group: a value, not a pointer. 0 is none. A process has at most 256 at once.
 */
typedef uint64_t squall_group_t;

/**
 * A delivered message. It and its bytes are valid until the callback returns.
 */
typedef struct squall_message_t {
  /**
   * The payload where it landed; aligned to 16. Not NULL, also if `len` is 0.
   */
  const void *bytes;
  /**
   * Bytes of it.
   */
  uint32_t len;
  /**
   * Rank of the member that sent it.
   */
  uint16_t rank;
  /**
   * Its lane.
   */
  uint8_t lane;
  /**
   * SQUALL_MESSAGE_CATCHUP, or 0.
   */
  uint8_t flags;
  /**
   * Position in the total order that the subgroup has in the view at hand; grows, with gaps where a
   * sender had nothing to say, and begins anew in every view. So what a state contains is told by
   * two numbers, the view's `epoch` and this one; where members do not change there is one view.
   * In *received* mode: position among its sender's messages, as far.
   */
  uint64_t number;
  /**
   * When the sender's polling thread took the message up: its CLOCK_MONOTONIC in nanoseconds, at
   * most some turns old.
   */
  uint64_t time_ns;
} squall_message_t;

/**
 * Receives a batch of a subgroup, in delivery order; `count` is 1 to SQUALL_BATCH_MAX.
 */
typedef void (*squall_deliver_fn)(void *user,
                                  squall_group_t group,
                                  uint32_t subgroup,
                                  const struct squall_message_t *messages,
                                  uint32_t count);

/**
 * Receives one message of a subgroup, in delivery order.
 */
typedef void (*squall_message_fn)(void *user,
                                  squall_group_t group,
                                  uint32_t subgroup,
                                  const struct squall_message_t *message);

/**
 * Hears once that the group has stopped: why, which rank is the cause (-1: none), and a sentence
 * that is valid until it returns.
 */
typedef void (*squall_stopped_fn)(void *user,
                                  squall_group_t group,
                                  int status,
                                  int32_t rank,
                                  const char *text);

/**
 * A member of a view.
 */
typedef struct squall_member_t {
  /**
   * Of this process and this opening of the group only; never 0.
   */
  uint64_t incarnation;
  /**
   * Its place on this host: who founded the group has its first rank.
   */
  uint32_t seat;
  /**
   * Reserved: 0.
   */
  uint32_t reserved;
} squall_member_t;

/**
 * Who was a member of the view before, and is no more.
 */
typedef struct squall_departed_t {
  uint64_t incarnation;
  uint32_t seat;
  /**
   * SQUALL_PEER_LEFT, SQUALL_PEER_LOST or SQUALL_PEER_FAULT.
   */
  int32_t status;
  /**
   * Why, in a sentence.
   */
  const char *text;
} squall_departed_t;

/**
 * A subgroup of a view: ranks, ascending.
 */
typedef struct squall_shard_t {
  const uint16_t *members;
  const uint16_t *senders;
  uint32_t member_count;
  uint32_t sender_count;
} squall_shard_t;

/**
 * Which part of the attributes a subgroup of a view is, and whether it has its members.
 */
typedef struct squall_part_t {
  /**
   * Index of the subgroup in the attributes, and which of its shards, from 0.
   */
  uint32_t of;
  uint32_t shard;
  /**
   * How many members it lacks: it has so many fewer than `shard_members_min`. As long as it does it
   * waits: sends there answer SQUALL_INADEQUATE, nothing is delivered, and what was sent and not
   * delivered is kept for the view in which it has enough.
   */
  uint32_t lacks;
  /**
   * Reserved: 0.
   */
  uint32_t reserved;
} squall_part_t;

/**
 * A view: valid until the callback returns.
 */
typedef struct squall_view_t {
  /**
   * Bytes that the library has written; later versions write more.
   */
  uint32_t size;
  /**
   * My rank in it.
   */
  uint32_t rank;
  /**
   * The view's number; it grows by one.
   */
  uint64_t epoch;
  /**
   * By rank.
   */
  const struct squall_member_t *members;
  /**
   * Ranks that were not in the view before; in the first one, all.
   */
  const uint16_t *joined;
  /**
   * Who is no more.
   */
  const struct squall_departed_t *departed;
  /**
   * By subgroup: each shard is one, numbered through.
   */
  const struct squall_shard_t *subgroups;
  uint32_t member_count;
  uint32_t joined_count;
  uint32_t departed_count;
  uint32_t subgroup_count;
  /**
   * By subgroup.
   */
  const struct squall_part_t *parts;
  /**
   * The wire version that the view runs at: the highest that all its members speak.
   */
  uint32_t wire;
  /**
   * Reserved: 0.
   */
  uint32_t reserved;
} squall_view_t;

/**
 * Hears that a view begins: after the last message of the one before, before its own first. Only with
 * SQUALL_MEMBERSHIP_VIEWS; then of the first view, too.
 */
typedef void (*squall_view_fn)(void *user, squall_group_t group, const struct squall_view_t *view);

/**
 * Hears of a message of mine that was accepted and that no view takes any more: which lane of which
 * subgroup, what `squall_send` answered for it, its bytes (valid until it returns), and why. On the
 * thread that polls, before `stopped`; in `squall_group_close` on the one that closes.
 *
 * SQUALL_NOT_SENDER (this member does not send there in the new view), SQUALL_TOO_LONG (its largest
 * message is smaller there), SQUALL_LEFT (it was alone, and closed; or it has left while the subgroup
 * lacked members): it is delivered at no member that goes on; where messages are delivered on receipt
 * (SQUALL_MODE_RECEIVED), at none that has not had it before, as some may have, this one too.
 * SQUALL_EXPELLED, SQUALL_PARTITIONED, SQUALL_EXHAUSTED, SQUALL_NO_MEMORY,
 * SQUALL_LIMIT, SQUALL_SYSTEM (it is over for this member), SQUALL_TIMED_OUT (`squall_group_close`
 * has waited for a second): this member did not see it delivered; others may have it all the same.
 */
typedef void (*squall_dropped_fn)(void *user,
                                  squall_group_t group,
                                  uint32_t subgroup,
                                  uint64_t ordinal,
                                  const void *bytes,
                                  uint32_t len,
                                  int status);

/**
 * How far a state is in one subgroup.
 */
typedef struct squall_position_t {
  /**
   * Messages of the view `epoch` with smaller numbers are in the state, and all of earlier views; with
   * SQUALL_MODE_RECEIVED it means nothing.
   */
  uint64_t number;
  uint32_t subgroup;
  /**
   * 1: the subgroup has one order (SQUALL_MODE_STABLE).
   */
  uint32_t ordered;
} squall_position_t;

/**
 * What a state contains: valid until the callback returns.
 */
typedef struct squall_version_t {
  /**
   * Bytes that the library has written; later versions write more.
   */
  uint32_t size;
  uint32_t position_count;
  /**
   * The view's number.
   */
  uint64_t epoch;
  /**
   * The subgroups whose state this is, ascending: those in which the one that joins will be and the
   * member that gives the state is, each shard one. Those of other subgroups are not part of it.
   */
  const struct squall_position_t *positions;
  /**
   * Incarnations of the view's members, by rank.
   */
  const uint64_t *members;
  uint32_t member_count;
  /**
   * Reserved: 0.
   */
  uint32_t reserved;
} squall_version_t;

/**
 * Fixes the state as it is now, for one that joins: after all messages that have been delivered, and
 * none beyond. The group of this member stands still until it returns, and all wait for it: copy on
 * write, fork a child that writes to a pipe, or give out a version that is kept anyway.
 *
 * Puts what stands for it at `checkpoint` (not NULL) and answers SQUALL_OK; or a negative status,
 * which ends this transfer and nothing else. Runs on the thread that polls.
 */
typedef int (*squall_checkpoint_open_fn)(void *user,
                                         squall_group_t group,
                                         const struct squall_version_t *version,
                                         void **checkpoint);

/**
 * Puts the next bytes of a checkpoint at `place`, at most `len` (256 KiB or less), and answers how
 * many; 0 is the end. Or a negative status, which ends this transfer and nothing else.
 *
 * Runs on a thread of the transfer, beside everything else; it may take its time, but no longer than
 * `patience_ms` of the one that joins (`squall_transfer_attr_t`; 30 s). It may not call the library.
 */
typedef int64_t (*squall_checkpoint_read_fn)(void *user, void *checkpoint, void *place, uint32_t len);

/**
 * Nobody reads the checkpoint any more, to its end or not. Called once for each that was opened, and
 * before `squall_group_close` returns; on the thread of the transfer, or on the one that polls or
 * closes. It may not call the library.
 */
typedef void (*squall_checkpoint_close_fn)(void *user, void *checkpoint);

/**
 * Takes the state of the group that this process joins: SQUALL_STATE_BEGIN, then chunks, then
 * SQUALL_STATE_LOADED. Then come the messages after it, through `deliver` or `message`, flagged
 * SQUALL_MESSAGE_CATCHUP, and last the first view. Answers SQUALL_OK, or a negative status, which
 * ends the joining.
 *
 * Runs inside `squall_group_open`, as all callbacks do until the first view: `group` may not be used
 * yet. It may take its time: the group goes on meanwhile, and this process is no member yet.
 */
typedef int (*squall_state_load_fn)(void *user,
                                    squall_group_t group,
                                    uint32_t what,
                                    const void *bytes,
                                    uint32_t len);

/**
 * A member of a view that is to be made.
 */
typedef struct squall_candidate_t {
  /**
   * How many joined the group before it: founders have their first ranks, 0, 1, 2 ...; never given
   * twice.
   */
  uint64_t seniority;
  /**
   * Of this process and this opening of the group only; 0 of all founders in the first view, where
   * nobody knows it yet.
   */
  uint64_t incarnation;
  /**
   * Its place on this host: who founded the group has its first rank.
   */
  uint32_t seat;
  /**
   * Reserved: 0.
   */
  uint32_t reserved;
} squall_candidate_t;

/**
 * Who is to be placed, and what there was: valid until the callback returns.
 */
typedef struct squall_roster_t {
  /**
   * Bytes that the library has written; later versions write more.
   */
  uint32_t size;
  uint32_t member_count;
  /**
   * By rank in the view that is to be made.
   */
  const struct squall_candidate_t *members;
  /**
   * By subgroup of the view: which shard of which subgroup of the attributes it is.
   */
  const struct squall_part_t *parts;
  /**
   * By subgroup of the view, `member_count` bytes each, by rank: 0, that member was not in it in the
   * view before; or how many had arrived there up to it, 1 for the first.
   */
  const uint8_t *before;
  uint32_t subgroup_count;
  /**
   * Reserved: 0.
   */
  uint32_t reserved;
} squall_roster_t;

/**
 * Places the members of a view. `places` has `subgroup_count` times `member_count` bytes: that of a
 * member in a subgroup is `places[subgroup * member_count + rank]`, SQUALL_PLACE_... It comes filled
 * with what the library would do without the callback: change what you want otherwise, and answer
 * SQUALL_OK. A negative status, or places that break the attributes (`members`, `shard_members_max`,
 * one shard for a member, ...), end this member: SQUALL_INVALID, with the rule in the log and in
 * `stopped`. A shard with too few members waits (`shard_members_min`).
 *
 * Every member asks its own callback, and all must answer the same: from what they are given and from
 * nothing else, neither clock nor environment nor chance, nor what was asked before. It may be asked
 * more than once for the same view. Answers are compared before the view is used: members that are not
 * of one mind with a majority of it stop (SQUALL_MISMATCH), and the others go on without them. Either
 * all members have such a callback or none.
 *
 * Runs inside `squall_group_open`, and on the thread that polls. It may not call the library.
 */
typedef int (*squall_place_fn)(void *user, const struct squall_roster_t *roster, uint8_t *places);

/**
 * Hears that senders of a subgroup have waited so many nanoseconds for a member that made no progress
 * at all; again after each such time. Only where the subgroup has SQUALL_LAG_REPORT; or
 * SQUALL_LAG_EVICT, and without that member there would be no majority.
 */
typedef void (*squall_lags_fn)(void *user,
                               squall_group_t group,
                               uint32_t subgroup,
                               uint32_t rank,
                               uint64_t for_ns);

/**
 * What a group calls. Where a callback says nothing else, it runs on the thread that polls: inside
 * `squall_poll`, or on the group's own thread; and before a joiner's first view inside
 * `squall_group_open`, where `group` may not be used yet. After that they may send; they may not
 * poll, wait, arm or close (`SQUALL_REENTRANT`). No exception and no longjmp may leave them.
 */
typedef struct squall_callbacks_t {
  /**
   * Set by `squall_callbacks_init`.
   */
  uint32_t size;
  /**
   * Reserved: 0.
   */
  uint32_t reserved;
  /**
   * Handed to each callback.
   */
  void *user;
  /**
   * Batches. Takes precedence over `message`.
   */
  squall_deliver_fn deliver;
  /**
   * Single messages, a convenience.
   */
  squall_message_fn message;
  /**
   * May be NULL.
   */
  squall_stopped_fn stopped;
  /**
   * May be NULL.
   */
  squall_view_fn view;
  /**
   * May be NULL.
   */
  squall_dropped_fn dropped;
  /**
   * May be NULL, all three together: there is no state; a process with `state_load` cannot join
   * then.
   */
  squall_checkpoint_open_fn checkpoint_open;
  squall_checkpoint_read_fn checkpoint_read;
  /**
   * May be NULL if nothing is to be given back.
   */
  squall_checkpoint_close_fn checkpoint_close;
  /**
   * May be NULL: with SQUALL_FLAG_JOIN this process joins without a state then.
   */
  squall_state_load_fn state_load;
  /**
   * May be NULL: the library places members in shards.
   */
  squall_place_fn place;
  /**
   * May be NULL: SQUALL_LAG_REPORT does nothing then.
   */
  squall_lags_fn lags;
} squall_callbacks_t;

/**
 * One subgroup of this member: counts since the group was opened, and positions in the view `epoch`.
 * Fields that a library does not know are left as they are.
 */
typedef struct squall_stats_t {
  /**
   * Set by the caller: sizeof(squall_stats_t).
   */
  uint32_t size;
  /**
   * Index of the subgroup.
   */
  uint32_t subgroup;
  /**
   * How far this member is in the order of the view at hand: received, stable everywhere, delivered.
   */
  uint64_t prefix;
  uint64_t stable;
  uint64_t delivered;
  /**
   * Messages that it sent (one that is sent again in a later view counts there, too), indices that
   * became nulls, batches announced.
   */
  uint64_t sent;
  uint64_t nulls;
  uint64_t announced;
  /**
   * Sends and reserves that found no room.
   */
  uint64_t pressed;
  /**
   * Messages and bytes delivered, and calls of the callback.
   */
  uint64_t messages;
  uint64_t bytes;
  uint64_t batches;
  /**
   * How far the slowest member is in the view at hand, as this one knows.
   */
  uint64_t slowest;
  /**
   * Of the whole member: turns, those with work, sleeps, the longest time between two looks at
   * the clock in nanoseconds (a look comes every 32 turns, or sooner).
   */
  uint64_t turns;
  uint64_t busy_turns;
  uint64_t sleeps;
  uint64_t loop_gap_max_ns;
  /**
   * The view in which those are positions.
   */
  uint64_t epoch;
  /**
   * Of the whole member, where members change (else 0): changes that it went through. To join is
   * one, of which only the steps from installed on are its own; a founder's first view is none.
   */
  uint64_t view_changes;
  /**
   * When the last of these changes reached each of its steps here: CLOCK_MONOTONIC in nanoseconds, by
   * the last look at the clock (some turns early; built: exactly; delivers: when the turn that delivered
   * it was over); 0: it did not (nobody was suspected, say), or not yet, or there was none. One that is
   * read while a view begins may be of the change before.
   *
   * suspected: it suspects somebody; wedged: what it has received in the old view is final; agreed:
   * who is in the next one is decided. These three come in any order. echoed: it holds the cut that
   * the old view ends with, in all its subgroups; ended: that much is delivered here; passed: and
   * everywhere; installed: it makes the memory of the new view; built: it has that of all members,
   * and its view callback follows; delivers: the first message of the new view is delivered.
   */
  uint64_t suspected_ns;
  uint64_t wedged_ns;
  uint64_t agreed_ns;
  uint64_t echoed_ns;
  uint64_t ended_ns;
  uint64_t passed_ns;
  uint64_t installed_ns;
  uint64_t built_ns;
  uint64_t delivers_ns;
} squall_stats_t;

/**
 * One piece of a gathered message.
 */
typedef struct squall_piece_t {
  /**
   * May be NULL only if `len` is 0.
   */
  const void *bytes;
  size_t len;
} squall_piece_t;

/**
 * What is to be registered.
 */
typedef struct squall_memory_attr_t {
  /**
   * Set by `squall_memory_attr_init`.
   */
  uint32_t size;
  /**
   * `SQUALL_MEMORY_HOST`, `SQUALL_MEMORY_CUDA` or `SQUALL_MEMORY_DMABUF`.
   */
  uint32_t kind;
  /**
   * Of the host's memory, or the device's; NULL for a dma-buf.
   */
  void *address;
  /**
   * Bytes.
   */
  uint64_t length;
  /**
   * Of a dma-buf: where in it the memory begins.
   */
  uint64_t offset;
  /**
   * Of a dma-buf; copied, and only looked at for that kind.
   */
  int32_t descriptor;
  /**
   * `SQUALL_MEMORY_READ`, `SQUALL_MEMORY_WRITE`, `SQUALL_MEMORY_DIRECT`; without the first two it is
   * for operations of this member's only.
   */
  uint32_t flags;
} squall_memory_attr_t;

/**
 * Memory of this member that is registered; 0 is none.
 */
typedef uint64_t squall_memory_t;

/**
 * Names registered memory at other members. Pass these 64 bytes on as they are, in a message say; they
 * permit nothing that the owner has not allowed.
 */
typedef struct squall_ticket_t {
  uint64_t words[8];
} squall_ticket_t;

/**
 * What became of it. Fields that a library does not know are left as they are.
 */
typedef struct squall_memory_info_t {
  /**
   * Set by the caller: sizeof(squall_memory_info_t).
   */
  uint32_t size;
  /**
   * How others reach it: `SQUALL_PATH_…`.
   */
  uint32_t path;
  /**
   * Bytes.
   */
  uint64_t length;
  /**
   * `SQUALL_MEMORY_READ`, `SQUALL_MEMORY_WRITE`.
   */
  uint32_t flags;
  /**
   * Reserved: 0.
   */
  uint32_t reserved;
} squall_memory_info_t;

/**
 * A put or a get: between memory of this member's and that of a ticket.
 */
typedef struct squall_access_t {
  /**
   * Set by `squall_access_init`.
   */
  uint32_t size;
  /**
   * `SQUALL_ACCESS_ANNOUNCE`.
   */
  uint32_t flags;
  /**
   * This member's, and where in it.
   */
  squall_memory_t memory;
  uint64_t offset;
  /**
   * The other one's, and where in it. Copied.
   */
  const struct squall_ticket_t *ticket;
  uint64_t ticket_offset;
  /**
   * Bytes; 0 is allowed.
   */
  uint64_t length;
  /**
   * Comes back with the completion.
   */
  uint64_t tag;
  /**
   * With `SQUALL_ACCESS_ANNOUNCE`: what its owner gets.
   */
  uint64_t word;
} squall_access_t;

/**
 * An operation of this member's that is over, or an announcement.
 */
typedef struct squall_completion_t {
  /**
   * `tag` of the access; 0 of an announcement.
   */
  uint64_t tag;
  /**
   * Who owns the ticket's memory; of an announcement, who has put it.
   */
  uint64_t incarnation;
  /**
   * This member's memory, and where in it.
   */
  squall_memory_t memory;
  uint64_t offset;
  uint64_t length;
  /**
   * Of an announcement.
   */
  uint64_t word;
  /**
   * SQUALL_OK: of a put, the bytes are visible to whoever hears of it from now on, at their owner's,
   * and for memory of a device to work that begins from now on; of a get, they are here. Or
   * SQUALL_GONE, SQUALL_NO_REGION, SQUALL_DENIED, SQUALL_INVALID (beyond the memory's end),
   * SQUALL_SYSTEM (it is not there), or why the group is over; then the bytes are undefined.
   */
  int32_t status;
  /**
   * `SQUALL_DONE_PUT`, `SQUALL_DONE_GET`, `SQUALL_ANNOUNCED`.
   */
  uint32_t what;
  /**
   * Reserved: 0.
   */
  uint64_t reserved;
} squall_completion_t;



#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the loaded library, to be compared with `SQUALL_VERSION` of the header: equal
 * major numbers fit.
 *
 * Threads: any. Cost: none. Since: 0.1
 */
uint32_t squall_version(void);

/**
 * The version of the loaded library as text, "major.minor.patch". Static.
 *
 * Threads: any. Since: 0.1
 */
const char *squall_version_text(void);

/**
 * One sentence for a status. Static; never NULL, for unknown numbers neither.
 *
 * Threads: any. Since: 0.1
 */
const char *squall_status_text(int status);

/**
 * Copies the sentence about the last call of this thread that failed: cause, value and remedy, in
 * UTF-8. SQUALL_AGAIN is no failure and leaves it as it is. What does not fit is left out, by whole
 * letters.
 *
 * @param bytes  Where to; may be NULL if `len` is 0. Always ended with a NUL if `len` is not 0.
 * @param len    Bytes there.
 * @return       Bytes needed for all of it, its NUL included; 1 if there was no error.
 *
 * Threads: any; each has its own. Since: 0.1
 */
size_t squall_last_error(char *bytes, size_t len);

/**
 * Sets where the library's few sentences go; NULL silences it (as at the start). Nothing is ever
 * said on the data path. A bug of ours that was caught (SQUALL_PANIC) is said here too.
 *
 * @param log   Called from any thread that opens, polls or closes a group, or meets a bug. Must not
 *              call squall.
 * @param user  Handed to it.
 *
 * Threads: any. Since: 0.1
 */
void squall_log_set(squall_log_fn log, void *user);

/**
 * Makes `attr` the default: all members, all of them senders, the total order.
 *
 * @param attr  May be NULL: nothing happens.
 * @param size  sizeof *attr.
 *
 * Threads: any. Since: 0.1
 */
void squall_subgroup_attr_init(struct squall_subgroup_attr_t *attr, uint32_t size);

/**
 * Makes `attr` the default: one subgroup of all members, polled by the caller.
 *
 * @param attr  May be NULL: nothing happens.
 * @param size  sizeof *attr.
 *
 * Threads: any. Since: 0.1
 */
void squall_group_attr_init(struct squall_group_attr_t *attr, uint32_t size);

/**
 * Makes `callbacks` empty; set `deliver` or `message` before opening.
 *
 * @param callbacks  May be NULL: nothing happens.
 * @param size       sizeof *callbacks.
 *
 * Threads: any. Since: 0.1
 */
void squall_callbacks_init(struct squall_callbacks_t *callbacks, uint32_t size);

/**
 * Reads a configuration file (`squall.toml`), then the environment, into attributes.
 *
 * Each key that is set there sets its field; the other fields stay. So what a program sets before is
 * its own default, and what it sets afterwards wins over file and environment. Nothing is opened,
 * looked up or listened on: `squall_group_open` says what is still missing, or in the way.
 *
 * `squall config --example` prints every key; `a.b` is SQUALL_A__B in the environment, a key of the
 * first `[[subgroup]]` SQUALL_SUBGROUP__0__KEY; other variables that begin with SQUALL_ are errors. Fields
 * have the names of their keys (open_timeout is `open_timeout_ms`, members_min `shard_members_min`), but:
 *
 *   group                        `name`
 *   join, tie_break              SQUALL_FLAG_JOIN, SQUALL_FLAG_TIE_BREAK
 *   lock, huge_pages             SQUALL_FLAG_LOCK, SQUALL_FLAG_REQUIRE_LOCK, and the like for huge ones
 *   core                         `core` and SQUALL_FLAG_PIN: a program that polls itself pins its own
 *                                thread, and takes that flag away
 *   fabric                       `fabric`, and SQUALL_MEMBERSHIP_VIEWS unless it is "shm"
 *   network.secret_fd            `secret_fd` and SQUALL_FLAG_SECRET_FD
 *   network.trusted_network      SQUALL_FLAG_TRUSTED_NETWORK
 *   peers.*                      `peers_users`, `peers_group`, `peers_directory`
 *   rdma.*                       `rdma`: all of them in one text
 *   transfer.*                   `transfer`, a struct of the library's, over what the program's says
 *   [[subgroup]]                 `subgroups`: those of the file instead of the program's
 *
 * @param attr  Initialised by `squall_group_attr_init`; changed on success only.
 * @param path  The file; NULL: none, the environment only. The environment is passed over in a program
 *              that has more rights than who has started it (set-user-ID).
 * @return SQUALL_OK, or
 *         SQUALL_INVALID     a key, a value, or two that contradict each other: `squall_last_error` has
 *                            the line or variable, what it may be, and the nearest key;
 *         SQUALL_SYSTEM      the file cannot be read;
 *         SQUALL_WRONG_SIZE  `attr` was not initialised, or by an older header, without the field of a
 *                            key that is set;
 *         SQUALL_PANIC       a bug of ours.
 *
 * Threads:   any, also in callbacks; no other may change the environment meanwhile (setenv).
 * Ownership: what `attr` points to is the library's, until `squall_group_attr_free`; the struct may be
 *            copied, and one of the copies is freed, once. It may be changed, but not in place: to
 *            change a subgroup, copy the list.
 * Cost:      reads the file; allocates some hundred bytes.
 * Since:     0.1
 */
int squall_group_attr_read(struct squall_group_attr_t *attr,
                           const char *path);

/**
 * Frees what `squall_group_attr_read` has put into attributes, and makes them the default again, as
 * `squall_group_attr_init` does. After `squall_group_open` they are not needed any more.
 *
 * @param attr  May be NULL, and may have read nothing: nothing is freed then.
 *
 * Threads: any, also in callbacks. Since: 0.1
 */
void squall_group_attr_free(struct squall_group_attr_t *attr);

/**
 * Leave in good order: what this member has sent is delivered by all first, however long that takes.
 * Returns at once; poll on until SQUALL_LEFT. (`squall_group_close` does the same, for a second, and
 * delivers nothing more here.)
 *
 * When this has returned every send, in whatever thread, is refused with SQUALL_LEFT (or with
 * SQUALL_AGAIN while a view changes); what is reserved cannot be published any more, only aborted. A
 * send that is under way may still be accepted. What was accepted is delivered at the members that
 * stay and at this one before it goes; or, if its part ends otherwise (SQUALL_EXPELLED ...), given
 * to `dropped` before `stopped` is called: nothing is lost without a word. To ask twice does nothing.
 *
 * @return SQUALL_OK, SQUALL_INVALID (members do not change), SQUALL_PANIC, SQUALL_NO_HANDLE,
 *         SQUALL_CLOSED.
 *
 * Threads: any, callbacks too. Since: 0.1
 */
int squall_leave(squall_group_t group);

/**
 * Report that a member has failed: the group goes on without it, and if it lives it hears
 * SQUALL_EXPELLED. That cannot be taken back.
 *
 * @param incarnation  Of the member, as the view callback named it; of no member: nothing happens.
 * @return As `squall_leave`.
 *
 * Threads: any, callbacks too. Since: 0.1
 */
int squall_report(squall_group_t group, uint64_t incarnation);

/**
 * Say that this process is alive: from inside a callback that takes long, at least twice in the time
 * to suspicion. A polling group does so by itself.
 *
 * @return As `squall_leave`.
 *
 * Threads: any, meant for the one that polls. Cost: a lock that nobody holds for longer than such a
 * call takes, a look at the clock and an atomic instruction. Over TCP, from within a callback: a
 * system call for each member there, too, which hears it at once; from outside of callbacks nothing
 * more, and it is heard there at the next turn. Since: 0.1
 */
int squall_keep_alive(squall_group_t group);

/**
 * Makes `attr` the default.
 *
 * @param attr  May be NULL: nothing happens.
 * @param size  sizeof *attr.
 *
 * Threads: any. Since: 0.1
 */
void squall_transfer_attr_init(struct squall_transfer_attr_t *attr, uint32_t size);

/**
 * Reads this member's statistics.
 *
 * @param subgroup  Index of a subgroup of its.
 * @param stats     Gets `stats->size` bytes of them, on success only; set `size` before.
 * @return SQUALL_OK, SQUALL_WRONG_SIZE, SQUALL_INVALID (`stats` is NULL, or no member of that
 *         subgroup), SQUALL_FAILED (a view began meanwhile: ask again), SQUALL_PANIC,
 *         SQUALL_NO_HANDLE, SQUALL_CLOSED.
 *
 * Threads: any. Cost: some hundred nanoseconds; if another thread polls the group, some
 * microseconds, and that one is interrupted unless it is just in a call. Since: 0.1
 */
int squall_stats_get(squall_group_t group, uint32_t subgroup, struct squall_stats_t *stats);

/**
 * Opens a group and waits until all its members have.
 *
 * Processes of one user (or of those that `peers_users` and `peers_group` name) on one host that open
 * the same name with the same attributes, each with its own rank, form the group; they may start in
 * any order. With `fabric` they may be on several
 * hosts, and prove to each other that they have the group's secret. Waiting, it goes on calling those
 * that are not there yet, and looks names up anew.
 *
 * @param attr       What to open; copied. Initialise it with `squall_group_attr_init`.
 * @param callbacks  What to call; copied. Initialise it with `squall_callbacks_init`.
 * @param group      Gets the handle, on success only.
 * @return SQUALL_OK, or
 *         SQUALL_INVALID, SQUALL_WRONG_SIZE   an argument; `squall_last_error` names it;
 *         SQUALL_IN_USE        that rank of that group is open in a live process, or a port is;
 *         SQUALL_FOREIGN_OWNER another user's process holds the name;
 *         SQUALL_MISMATCH, SQUALL_WIRE_VERSION  the members do not fit; both values are named;
 *         SQUALL_NOT_COMPLETE  not all members came within `open_timeout_ms`; what stood in the way of
 *                              the last call is named: nobody listens, a name that is unknown, another
 *                              secret;
 *         SQUALL_NO_MEMORY, SQUALL_LIMIT, SQUALL_SYSTEM  this machine; the remedy is named;
 *         SQUALL_LIMIT         also if this process has 256 groups open already;
 *         SQUALL_PANIC         a bug of ours;
 *         with SQUALL_FLAG_JOIN also what `state_load` has answered, and why the group is over.
 *
 * Threads:   any. With SQUALL_FLAG_OWN_THREAD callbacks may run before this returns.
 * Ownership: the handle is the caller's, to be closed by it.
 * Cost:      allocates and maps everything that the group will ever use.
 * Since:     0.1
 */
int squall_group_open(const struct squall_group_attr_t *attr,
                      const struct squall_callbacks_t *callbacks,
                      squall_group_t *group);

/**
 * Closes a group: this member leaves in good order. What is stable is still delivered at the
 * others; then they hear SQUALL_PEER_LEFT. Closing 0 does nothing.
 *
 * Where members change the others go on without it, and have first all that it has sent: as
 * `squall_leave`, but that it delivers nothing more itself, and waits for a second at the most. What
 * it does not know to be delivered by then goes to `dropped` with SQUALL_TIMED_OUT. If there is no
 * other member, what its own callbacks have not had goes there with SQUALL_LEFT. No other callback
 * is called.
 *
 * While others get this member's state it waits for them, too: for `checkpoint_read`, if that is being
 * called, and a second for last words; for one that is being joined just then, until that has what it
 * lacks or has taken nothing for 30 s.
 *
 * @return SQUALL_OK, SQUALL_NO_HANDLE, SQUALL_CLOSED, SQUALL_REENTRANT (from inside a callback, or
 *         another thread is in the group), or SQUALL_PANIC: its own thread had died of a bug of ours;
 *         closed it is all the same.
 *
 * Threads: any but those of `checkpoint_read` and `checkpoint_close`; no other call with this handle
 *          may be running or come later than its end.
 * Since:   0.1
 */
int squall_group_close(squall_group_t group);

/**
 * This member's rank, or a negative status. Where members change: in the view at hand.
 * Threads: any. Since: 0.1
 */
int squall_group_rank(squall_group_t group);

/**
 * How many members the group has, or a negative status. Where members change: in the view at hand.
 * Threads: any. Since: 0.1
 */
int squall_group_members(squall_group_t group);

/**
 * Take one turn: send what is waiting, receive, deliver at most `limit` messages to the callbacks.
 * Never blocks.
 *
 * @param limit  Messages to deliver at the most. Whatever it is, one turn delivers SQUALL_BATCH_MAX
 *               per subgroup at the most.
 * @return How many were delivered (>= 0), or
 *         SQUALL_REENTRANT   from inside a callback, or another thread is in here;
 *         SQUALL_OWN_THREAD  the group polls itself;
 *         SQUALL_PEER_LOST, SQUALL_PEER_LEFT  the group is over, and everything that was stable has
 *                            been delivered;
 *         SQUALL_PEER_FAULT  it is over at once: what a member wrote is nonsense;
 *         SQUALL_EXPELLED, SQUALL_PARTITIONED, SQUALL_LEFT, SQUALL_EXHAUSTED  where members change:
 *                            it is over for this one;
 *         SQUALL_LIMIT, SQUALL_NO_MEMORY, SQUALL_SYSTEM, SQUALL_NOT_COMPLETE  likewise: this process
 *                            lacks what the next view needs, which `squall_last_error` names with the
 *                            remedy; or the view lacks members;
 *         SQUALL_CLOSED      also in a child that was forked in a callback and has returned from it;
 *         SQUALL_FAILED, SQUALL_PANIC, SQUALL_NO_HANDLE.
 *
 * Threads: one at a time, any. Cost: some tens of nanoseconds if there is nothing. Since: 0.1
 */
int squall_poll(squall_group_t group,
                uint32_t limit);

/**
 * Idle once, as the group's strategy says: spin, yield, or sleep until a peer rings. Returns at
 * once if there is work.
 *
 * @param timeout_ms  With SQUALL_IDLE_PARK: how long to sleep at the most; negative: for ever.
 * @return SQUALL_OK: poll now, whether something happened, the time was over, or neither (it may
 *         return early); or as `squall_poll`.
 *
 * Threads: as `squall_poll`. Since: 0.1
 */
int squall_wait(squall_group_t group, int32_t timeout_ms);

/**
 * A descriptor for an event loop: readable when a turn is due. It belongs to the group; do not
 * read, write or close it. Call `squall_arm` before sleeping on it.
 *
 * @return The descriptor (>= 0), or as `squall_poll`.
 *
 * Threads: as `squall_poll`. Since: 0.1
 */
int squall_fd(squall_group_t group);

/**
 * Say that this thread is about to sleep on `squall_fd`.
 *
 * @return SQUALL_OK    it may sleep: whoever has news will make the descriptor readable;
 *         SQUALL_AGAIN there is work: poll instead;
 *         SQUALL_INVALID  the group was not opened with SQUALL_IDLE_PARK;
 *         or as `squall_poll`.
 *
 * Threads: as `squall_poll`. Since: 0.1
 */
int squall_arm(squall_group_t group);

/**
 * Send `len` bytes to every member of a subgroup, in the subgroup's total order.
 *
 * Copies the bytes into the next slot; never blocks. The message is delivered at every member of
 * the subgroup, this one included, at the same place of the order. Where members change and that
 * cannot be, `dropped` gets it back.
 *
 * @param group     Open group.
 * @param subgroup  Index in the list given at open, or SQUALL_LANE(index, lane).
 * @param bytes     May be NULL only if `len` is 0.
 * @param len       Bytes; at most `message_bytes_max`.
 * @return The message's ordinal in its lane (>= 0), or
 *         SQUALL_AGAIN       no free slot, or a view change is under way: poll, then try again;
 *         SQUALL_TOO_LONG    `len` exceeds `message_bytes_max`;
 *         SQUALL_INADEQUATE  the subgroup waits for members: try again in the next view;
 *         SQUALL_NOT_SENDER  this member does not send in that subgroup or lane, where members change:
 *                            in the view at hand;
 *         SQUALL_NOT_RESERVED  a message is reserved in that lane: publish or abort it first;
 *         SQUALL_PEER_LOST, SQUALL_PEER_FAULT, SQUALL_PEER_LEFT, SQUALL_FAILED  the group is over;
 *         SQUALL_LEFT        where members change: this one leaves, as `squall_leave` asked;
 *         SQUALL_EXPELLED, SQUALL_PARTITIONED, SQUALL_EXHAUSTED, SQUALL_NO_MEMORY, SQUALL_LIMIT,
 *         SQUALL_SYSTEM, SQUALL_NOT_COMPLETE  it is over for this one, as `squall_poll` says;
 *         SQUALL_INVALID, SQUALL_PANIC, SQUALL_NO_HANDLE, SQUALL_CLOSED.
 *
 * Threads:   one sending thread per lane at a time; may run beside squall_poll.
 * Ownership: `bytes` may be reused when the call returns.
 * Order:     none between subgroups; within a lane as sent.
 * Cost:      one copy of `len` bytes; no system call, except one bell if the poller sleeps.
 * Since:     0.1
 */
int64_t squall_send(squall_group_t group,
                    uint32_t subgroup,
                    const void *bytes,
                    uint32_t len);

/**
 * Send one message that lies in several pieces, as if they were adjoining.
 *
 * @param pieces  At most 64; may be NULL only if `count` is 0.
 * @return As `squall_send`.
 *
 * Threads, ownership, order, cost: as `squall_send`. Since: 0.1
 */
int64_t squall_sendv(squall_group_t group,
                     uint32_t subgroup,
                     const struct squall_piece_t *pieces,
                     uint32_t count);

/**
 * Send several messages, one after the other, as many as there is room for.
 *
 * @param messages  Each piece is a message of its own; may be NULL only if `count` is 0.
 * @return How many were sent, from the first on (> 0, or 0 if `count` is 0), or, if the first could
 *         not be sent, what `squall_send` answers for it.
 *
 * Threads, ownership, order: as `squall_send`. Cost: that of the copies, nearly. Since: 0.1
 */
int64_t squall_send_many(squall_group_t group,
                         uint32_t subgroup,
                         const struct squall_piece_t *messages,
                         uint32_t count);

/**
 * Lend the next slot of a lane, to be filled in place; then `squall_publish` or `squall_abort`.
 *
 * A reserved slot that is never published delays nobody.
 *
 * @param len    Bytes wanted; at most `message_bytes_max`.
 * @param bytes  Gets where to write, on success only; aligned to 16.
 * @return SQUALL_OK, or as `squall_send`.
 *
 * Threads:   as `squall_send`.
 * Ownership: the bytes are the caller's until publish or abort, also while others poll.
 * Cost:      no copy. Since: 0.1
 */
int squall_reserve(squall_group_t group, uint32_t subgroup, uint32_t len, void **bytes);

/**
 * Send the first `len` bytes of what is reserved in a lane.
 *
 * @param len  At most what was reserved.
 * @return The message's ordinal in its lane (>= 0), or
 *         SQUALL_NOT_RESERVED  nothing is reserved;
 *         SQUALL_TOO_LONG      more than was reserved, or, if members have changed since, than the new
 *                              view's largest;
 *         SQUALL_AGAIN         members have changed since it was reserved, or do so now, and there is no
 *                              room: poll, then try again;
 *         SQUALL_NOT_SENDER    and this member does not send in that lane any more;
 *         or why no message is accepted any more, and what else is wrong, as `squall_send`.
 *         Whatever it is, what is reserved stays so.
 *
 * Threads: as `squall_send`. Since: 0.1
 */
int64_t squall_publish(squall_group_t group,
                       uint32_t subgroup,
                       uint32_t len);

/**
 * Give a reserved slot back. No member ever hears of it.
 *
 * @return SQUALL_OK, SQUALL_NOT_RESERVED, SQUALL_INVALID (no such subgroup), SQUALL_NOT_SENDER (no
 *         such lane), SQUALL_PANIC, SQUALL_NO_HANDLE, SQUALL_CLOSED.
 *
 * Threads: as `squall_send`. Since: 0.1
 */
int squall_abort(squall_group_t group, uint32_t subgroup);

/**
 * Makes `attr` the default.
 *
 * @param attr  May be NULL: nothing happens.
 * @param size  sizeof *attr.
 *
 * Threads: any. Since: 0.1
 */
void squall_memory_attr_init(struct squall_memory_attr_t *attr, uint32_t size);

/**
 * Lend memory to the other members, as far as `attr->flags` say, and to operations of this one.
 *
 * @param attr    What. The memory must be there until `squall_memory_deregister` has returned, or
 *                `squall_group_close`. Nothing is read or written but by operations on it.
 * @param memory  Gets its handle, on success only.
 * @return SQUALL_OK, or
 *         SQUALL_INVALID, SQUALL_WRONG_SIZE  an argument; `squall_last_error` names it; or the group
 *                            is one whose members do not change;
 *         SQUALL_NOT_DIRECT  only direct access was asked for, and there is none;
 *         SQUALL_LIMIT       4096 are registered, or the system's;
 *         SQUALL_SYSTEM, SQUALL_NO_MEMORY  the device's driver, or the dma-buf's;
 *         why the group is over; SQUALL_PANIC, SQUALL_NO_HANDLE, SQUALL_CLOSED.
 *
 * Threads: any, and callbacks. Cost: the first call starts a thread, which moves the bytes; a device's
 * memory may be pinned. Since: 0.1
 */
int squall_memory_register(squall_group_t group,
                           const struct squall_memory_attr_t *attr,
                           squall_memory_t *memory);

/**
 * Take registered memory back: when this has returned, nobody reads or writes it any more. Operations
 * of others on it end with SQUALL_NO_REGION.
 *
 * @return SQUALL_OK, or
 *         SQUALL_AGAIN    operations of this member's on it are not over: poll for completions first;
 *         SQUALL_INVALID  no such memory is registered; or as `squall_memory_register`;
 *         SQUALL_PANIC, SQUALL_NO_HANDLE, SQUALL_CLOSED.
 *
 * Threads: any, and callbacks. Cost: waits for 256 KiB to be moved at the most. Since: 0.1
 */
int squall_memory_deregister(squall_group_t group,
                             squall_memory_t memory);

/**
 * What names registered memory at other members.
 *
 * @param ticket  Gets it, on success only.
 * @return As `squall_memory_deregister`, but SQUALL_AGAIN.
 *
 * Threads: any, and callbacks. Since: 0.1
 */
int squall_memory_ticket(squall_group_t group,
                         squall_memory_t memory,
                         struct squall_ticket_t *ticket);

/**
 * What was registered, and how others reach it.
 *
 * @param info  Gets what fits into `info->size` bytes, on success only; set `size` before. Afterwards it
 *              says how many of them this library knows.
 * @return As `squall_memory_ticket`, and SQUALL_WRONG_SIZE.
 *
 * Threads: any, and callbacks. Since: 0.1
 */
int squall_memory_info(squall_group_t group,
                       squall_memory_t memory,
                       struct squall_memory_info_t *info);

/**
 * Makes `access` the default.
 *
 * @param access  May be NULL: nothing happens.
 * @param size    sizeof *access.
 *
 * Threads: any. Since: 0.1
 */
void squall_access_init(struct squall_access_t *access, uint32_t size);

/**
 * Write bytes of this member's memory to where a ticket says. Never blocks.
 *
 * Operations of this member's on memory of one other are carried out in the order of these calls, and
 * complete in it; before it has completed, none has an order against messages.
 *
 * @param access  What; copied. The bytes must stay as they are until it has completed.
 * @return SQUALL_OK: it will complete (`squall_memory_poll`), whatever happens; or
 *         SQUALL_AGAIN    1024 operations have not been polled for: do that, then try again;
 *         SQUALL_INVALID, SQUALL_WRONG_SIZE  an argument, or a range; as `squall_memory_register`;
 *         SQUALL_WIRE_VERSION  the ticket is of another version;
 *         SQUALL_DENIED   the memory may not be used so by others;
 *         SQUALL_GONE     its owner is no member any more;
 *         SQUALL_EXPELLED, SQUALL_PARTITIONED, SQUALL_LEFT and others: why the group is over;
 *         SQUALL_PANIC, SQUALL_NO_HANDLE, SQUALL_CLOSED.
 *
 * Threads: any, and callbacks. Cost: a lock for some instructions; now and then a system call. A put
 * delays no message; the first one to a member opens a connection, which takes a turn of both. Since: 0.1
 */
int squall_memory_put(squall_group_t group,
                      const struct squall_access_t *access);

/**
 * Read bytes from where a ticket says into this member's memory. Never blocks.
 *
 * @param access  What; copied. Until it has completed, what is in this member's memory is undefined.
 * @return As `squall_memory_put`.
 *
 * Threads: any, and callbacks. Cost: as `squall_memory_put`. Since: 0.1
 */
int squall_memory_get(squall_group_t group,
                      const struct squall_access_t *access);

/**
 * Take what is over, and what others have announced. Never blocks.
 *
 * @param completions  Gets them.
 * @param most         How many have room there; one call takes 64 at the most.
 * @return How many (>= 0), also when the group is over; or SQUALL_INVALID, SQUALL_PANIC,
 *         SQUALL_NO_HANDLE, SQUALL_CLOSED.
 *
 * Threads: any, and callbacks. With SQUALL_IDLE_PARK `squall_wait` returns when there is something.
 * Cost: one load if there is nothing. Since: 0.1
 */
int squall_memory_poll(squall_group_t group,
                       struct squall_completion_t *completions,
                       uint32_t most);

/**
 * Wait until `squall_memory_poll` would find something, or the group is over.
 *
 * For threads beside the one that polls the group: without turns nothing is opened. That one calls
 * `squall_wait`.
 *
 * @param timeout_ms  At the most; negative: for ever.
 * @return SQUALL_OK, or
 *         SQUALL_TIMED_OUT  nothing came in that time;
 *         SQUALL_REENTRANT  from inside a callback;
 *         SQUALL_INVALID    as `squall_memory_register`;
 *         why the group is over; SQUALL_PANIC, SQUALL_NO_HANDLE, SQUALL_CLOSED.
 *
 * Threads: any but the one that polls. Since: 0.1
 */
int squall_memory_wait(squall_group_t group, int32_t timeout_ms);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SQUALL_H */
