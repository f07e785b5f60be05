// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the polling thread does with messages and views: lines for standard output, and words about
//! members for standard error.

use super::lines::{Joiner, Piece};
use crate::text::{bytes_text, remark};
use squall::driver::Application;
use squall::driver::lane::Dropped;
use squall::driver::views::{MemberInfo, ViewInfo};
use squall::error::{Fault, Status, Suspicion};
use squall::mem::Message;
use std::sync::{Arc, Mutex, MutexGuard};

pub struct Printer {
    joiner: Joiner,
    /// What is to be written.
    pub pending: Vec<u8>,
    /// Members whose input has ended.
    pub ends: u16,
    /// This one's is among them, and everybody has all of it.
    pub own_end: bool,
    /// The most members that a view had.
    pub most_members: usize,
    /// How many this member waits for before it sends.
    pub at_least: usize,
    pub trouble: Option<String>,
    pub suspicion: Option<Suspicion>,
    /// Labels of the members of the last view.
    pub members: Vec<u16>,
    /// This member's rank.
    rank: u16,
}

impl Printer {
    pub fn new(rank: u16, members: u16, at_least: usize) -> Printer {
        Printer {
            joiner: Joiner::new(members),
            pending: Vec::new(),
            ends: 0,
            own_end: false,
            most_members: 0,
            at_least,
            trouble: None,
            suspicion: None,
            members: (0..members).collect(),
            rank,
        }
    }

    fn take(&mut self, message: &Message) {
        match self.joiner.take(message.rank, message.bytes(), &mut self.pending) {
            Piece::Taken => {}
            Piece::Missed => remark(&format!(
                "a line of member {} had begun before this one joined: it is left out",
                self.joiner.label(message.rank)
            )),
            Piece::End => {
                self.ends += 1;
                self.own_end |= message.rank == self.rank;
            }
            Piece::Nonsense => {
                let (label, len) = (self.joiner.label(message.rank), message.len.into());
                self.trouble = Some(format!(
                    "member {label} sent a message of {} that `squall cat` does not know: only \
                     `squall cat` of the same version may be in this group",
                    bytes_text(len)
                ));
            }
        }
    }

    /// Ranks move from view to view; seats do not, so they are the labels.
    fn change(&mut self, view: &ViewInfo) {
        let first = self.most_members == 0;
        // Who joins a group that runs comes late to those that are not new in its first view.
        let joins = first && view.epoch > 1;
        let authors = view.members.iter().zip(0..).map(|(member, rank)| {
            let unheard = joins && !view.joined.contains(&rank);
            (member.incarnation, member.seat, unheard)
        });
        let cut = self.joiner.change(authors);
        self.rank = view.rank;
        self.members = view.members.iter().map(|member| member.seat).collect();
        let mut text = format!("view {}: members {}", view.epoch, list(&self.members));
        if first {
            text.push_str(&format!("; this is {}", self.members[usize::from(view.rank)]));
        } else {
            for rank in &view.joined {
                let seat = self.members[usize::from(*rank)];
                text.push_str(&format!("; {seat} has joined"));
            }
        }
        view.left.iter().for_each(|left| text.push_str(&departure(left)));
        let was_short = self.most_members < self.at_least;
        self.most_members = self.most_members.max(view.members.len());
        if self.most_members < self.at_least {
            text.push_str(&format!("; sends when there are {}", self.at_least));
        } else if was_short && self.at_least > 1 {
            text.push_str("; sends from now on");
        }
        remark(&text);
        for label in cut {
            remark(&format!("the last line of member {label} has no end: it is not printed"));
        }
    }
}

/// `0, 1, 4`.
pub fn list(labels: &[u16]) -> String {
    labels.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

/// Faults speak of ranks that are no more; here seats are what members are called.
fn departure((member, fault): &(MemberInfo, Fault)) -> String {
    let seat = member.seat;
    match fault {
        Fault::Left { .. } => format!("; {seat} has left"),
        Fault::Lost { .. } => {
            format!("; {seat} is gone: its process ended or its connection broke")
        }
        Fault::Reported { .. } => format!("; {seat} is gone: another member believes it failed"),
        fault => format!("; {seat} is gone: {fault}"),
    }
}

pub struct Shared(pub Arc<Mutex<Printer>>);

pub fn lock(printer: &Mutex<Printer>) -> MutexGuard<'_, Printer> {
    printer.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Application for Shared {
    fn deliver(&mut self, _subgroup: u16, batch: &[Message]) {
        let mut printer = lock(&self.0);
        for message in batch {
            if printer.trouble.is_some() {
                return;
            }
            printer.take(message);
        }
    }

    fn view(&mut self, view: &ViewInfo) {
        lock(&self.0).change(view);
    }

    fn dropped(&mut self, message: &Dropped) {
        lock(&self.0).trouble = Some(format!(
            "a line was accepted and can be sent in no view any more ({}): start this member again \
             with --join",
            message.why
        ));
    }

    fn stopped(&mut self, _status: Status, suspicion: Option<Suspicion>) {
        lock(&self.0).suspicion = suspicion;
    }
}
