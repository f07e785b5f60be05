// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registered memory as the driver has it: it opens streams, says who is no member any more, and ends
//! the whole.

use super::direct::Device;
use super::door::{Memories, Shared, start};
use super::{Stream, worker};
use crate::error::{Error, Status};
use std::sync::Arc;

/// The driver's end; with it the thread ends.
pub struct Owner(Memories);

impl Owner {
    /// Of a member with that incarnation. `wake`: its polling thread, whatever that does.
    pub fn new(incarnation: u64, wake: Box<dyn Fn() + Send + Sync>) -> Owner {
        Owner::running(incarnation, wake, worker::run)
    }

    /// The same with another thread.
    pub(super) fn running(
        incarnation: u64,
        wake: Box<dyn Fn() + Send + Sync>,
        run: fn(&Shared),
    ) -> Owner {
        Owner(Memories(Arc::new(Shared::new(incarnation, wake, run))))
    }

    /// What the thread sees.
    #[cfg(test)]
    pub(super) fn shared(&self) -> Arc<Shared> {
        self.0.0.clone()
    }

    pub fn memories(&self) -> Memories {
        self.0.clone()
    }

    /// Memory that is registered from now on may be read and written by that device itself.
    pub fn use_device(&self, device: Arc<dyn Device>) {
        let _ = self.0.0.device.set(device); // there is one at the most
    }

    /// Whether somebody waits for a stream: one load.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        self.0.0.wanted.observe() != 0
    }

    /// To whom a stream is to be opened. Each is answered by `opened`.
    pub fn wants(&self) -> Vec<u64> {
        let mut state = self.0.0.lock();
        self.0.0.wanted.publish(0);
        std::mem::take(&mut state.wants)
    }

    /// Here it is; `None`: there can be none, operations on that one's memory end with `Gone`.
    pub fn opened(&self, whom: u64, stream: Option<Stream>) {
        self.0.0.lock().mail.opened.push((whom, stream));
        self.0.0.ring();
    }

    /// Somebody has opened one to this member.
    pub fn offered(&self, whom: u64, stream: Stream) -> Result<(), Error> {
        let mut state = self.0.0.lock();
        if state.stopped.is_some() || state.fenced.contains(&whom) {
            return Ok(()); // hung up on
        }
        start(&self.0.0, &mut state)?;
        state.mail.offered.push((whom, stream));
        drop(state);
        self.0.0.ring();
        Ok(())
    }

    /// That incarnation is no member any more (R5). Waits for a step of the memory thread's at the
    /// most, and for a device to end its queues.
    pub fn fence(&self, whom: u64) {
        let mut state = self.0.0.lock();
        if !state.fenced.insert(whom) {
            return;
        }
        state.mail.fenced.push(whom);
        self.0.0.ring();
        self.0.0.pass(state, |step| step.whom == whom);
        self.0.0.cut(|of| of == whom);
    }

    /// The group is over: what is open ends with that status, and nobody touches memory of this
    /// member. Waits as `fence`.
    pub fn stop(&self, status: Status) {
        let mut state = self.0.0.lock();
        if state.stopped.is_some() {
            return;
        }
        state.stopped = Some(status);
        self.0.0.ring();
        self.0.0.news.notify_all();
        self.0.0.pass(state, |_| true);
        self.0.0.cut(|_| true);
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.stop(Status::Closed);
        let thread = self.0.0.lock().thread.take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}
