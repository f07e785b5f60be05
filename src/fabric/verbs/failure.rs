// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a queue to a peer has ended, in words: what the device says, what that means, what to do.

use super::sys::bindings::{ibv_wc_status, ibv_wc_status as S};
use std::fmt;

/// The first thing that went wrong on a queue; it carries nothing more after that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Which queue, in words: its number and its peer's.
    pub queue: String,
    pub cause: Cause,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A completion with an error.
    Completion { status: u32, vendor: u32 },
    /// The device took no more work (`errno`), though by our account there was room.
    Post { errno: i32 },
    /// Completions could not be polled.
    Poll,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            Cause::Completion { status, vendor } => {
                let (name, meaning) = meaning(status);
                write!(f, "{}: {name} ({status}, vendor {vendor:#x}): {meaning}", self.queue)
            }
            Cause::Post { errno } => {
                let cause = std::io::Error::from_raw_os_error(errno);
                let queue = &self.queue;
                write!(f, "{queue}: the device refuses writes: {cause}; look into the system's log")
            }
            Cause::Poll => {
                write!(f, "{}: completions cannot be read; look into the system's log", self.queue)
            }
        }
    }
}

/// The status's name in the specification, and what it means here.
fn meaning(status: u32) -> (&'static str, &'static str) {
    let bug = "a bug in squall or in the device's driver";
    match ibv_wc_status(status) {
        S::IBV_WC_RETRY_EXC_ERR => (
            "transport retry counter exceeded",
            "the peer's process, its host or the path to it does not answer",
        ),
        S::IBV_WC_RNR_RETRY_EXC_ERR => {
            ("receiver-not-ready retry counter exceeded", "the peer takes no bells")
        }
        S::IBV_WC_REM_ACCESS_ERR => {
            ("remote access error", "the peer has taken back the memory that was written to")
        }
        S::IBV_WC_REM_INV_REQ_ERR => ("remote invalid request error", bug),
        S::IBV_WC_REM_OP_ERR => ("remote operation error", "the peer's device failed"),
        S::IBV_WC_REM_ABORT_ERR => ("remote aborted error", "the peer's device failed"),
        S::IBV_WC_WR_FLUSH_ERR => {
            ("work request flushed", "the queue was ended, by the device or by the peer's fault")
        }
        S::IBV_WC_LOC_PROT_ERR => ("local protection error", bug),
        S::IBV_WC_LOC_LEN_ERR => ("local length error", bug),
        // What rdma_rxe says where a packet could not be handed to the network.
        S::IBV_WC_LOC_QP_OP_ERR => (
            "local queue pair operation error",
            "this machine's device could not send: its link may be down (`rdma link`), else a bug of Squall",
        ),
        S::IBV_WC_LOC_ACCESS_ERR => ("local access error", bug),
        S::IBV_WC_FATAL_ERR => ("fatal error", "this machine's device failed"),
        S::IBV_WC_RESP_TIMEOUT_ERR => ("response time-out", "the peer's device does not answer"),
        S::IBV_WC_GENERAL_ERR => ("general error", "this machine's device failed"),
        _ => ("unknown error", "look into the system's log"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_it_means() {
        let of = |status: ibv_wc_status| {
            let cause = Cause::Completion { status: status.0, vendor: 0x81 };
            Failure { queue: "queue 0x12 to 0x34".into(), cause }.to_string()
        };
        let text = of(S::IBV_WC_RETRY_EXC_ERR);
        assert_eq!(
            text,
            "queue 0x12 to 0x34: transport retry counter exceeded (12, vendor 0x81): the peer's \
             process, its host or the path to it does not answer"
        );
        for status in 1..30 {
            let text = of(ibv_wc_status(status));
            assert!(text.contains(&format!("({status}, vendor 0x81): ")), "{text}");
        }
    }
}
