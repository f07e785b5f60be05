// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk under a seed: forgets, reorders and tears what was not synced, fails calls, and loses power
//! at any one of them.
//!
//! A file has what is read (the cache) and what a loss of power leaves (the platter). Since the last
//! sync each sector has a row of values, of which a loss of power leaves any one, or a mixture of two
//! by the byte; a sector of which the platter has zeros may have anything. Lengths and names likewise.
//! After a failed sync the cache still shows what the platter has not (D3).

use super::disk::{Disk, NoLock};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::{Arc, Mutex, MutexGuard};

const SECTOR: usize = 512;

/// What a call of the future is to do instead of what it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    Error(Errno),
    /// Writes less than it was given; other calls do as they should.
    Short,
    /// The power fails: this call is carried out in part, no later one at all.
    PowerCut,
}

#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<World>>);

struct World {
    dice: u64,
    /// Calls that change something, since the start.
    calls: u64,
    trouble: BTreeMap<u64, Trouble>,
    fired: Option<Trouble>,
    off: bool,
    reads_fail: Option<Errno>,
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    kept_names: BTreeMap<String, usize>,
    /// Changes of names since the last `sync_names`.
    renamed: Vec<(String, Option<usize>)>,
    locked: bool,
}

#[derive(Default)]
struct Inode {
    cache: Vec<u8>,
    platter: Vec<u8>,
    /// By sector: what was written there since the last sync.
    dirty: BTreeMap<usize, Vec<Vec<u8>>>,
}

pub struct SimFile {
    world: SimDisk,
    inode: usize,
    lock: bool,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if self.lock {
            self.world.world().locked = false;
        }
    }
}

impl SimDisk {
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(World {
            dice: seed,
            calls: 0,
            trouble: BTreeMap::new(),
            fired: None,
            off: false,
            reads_fail: None,
            inodes: Vec::new(),
            names: BTreeMap::new(),
            kept_names: BTreeMap::new(),
            renamed: Vec::new(),
            locked: false,
        })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Calls so far that change something.
    pub fn calls(&self) -> u64 {
        self.world().calls
    }

    /// The call with that number, from 0 on, meets trouble.
    pub fn plan(&self, call: u64, trouble: Trouble) {
        self.world().trouble.insert(call, trouble);
    }

    /// No trouble any more, besides what has been.
    pub fn calm(&self) {
        self.world().trouble.clear();
    }

    /// The trouble that was met since this was asked last.
    pub fn met(&self) -> Option<Trouble> {
        self.world().fired.take()
    }

    /// Every read fails like that from now on, or none.
    pub fn fail_reads(&self, with: Option<Errno>) {
        self.world().reads_fail = with;
    }

    /// The machine loses power and starts again.
    pub fn cut_power(&self) {
        self.world().cut_power();
    }

    /// The process dies and the machine goes on.
    pub fn kill(&self) {
        let mut world = self.world();
        (world.off, world.locked) = (false, false);
    }

    /// A file's bytes, to be damaged by a test: on the platter as in the cache.
    pub fn damage(&self, name: &str, harm: impl FnOnce(&mut Vec<u8>)) {
        let mut world = self.world();
        let inode = world.names[name];
        let inode = &mut world.inodes[inode];
        harm(&mut inode.cache);
        inode.platter = inode.cache.clone();
        inode.dirty.clear();
    }

    /// What is read of a file now.
    pub fn shown(&self, name: &str) -> Vec<u8> {
        let world = self.world();
        world.inodes[world.names[name]].cache.clone()
    }
}

impl World {
    fn word(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.dice;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.word() % bound as u64) as usize
    }

    /// Counts a call that changes something; its trouble, if it has one.
    fn call(&mut self) -> Result<Option<Trouble>, Errno> {
        if self.off {
            return Err(Errno::IO);
        }
        let trouble = self.trouble.remove(&self.calls);
        self.calls += 1;
        self.fired = trouble.or(self.fired);
        self.off |= trouble == Some(Trouble::PowerCut);
        Ok(trouble)
    }

    /// For calls that are done or not: whether it is, and what it answers.
    fn simple(&mut self) -> Result<(bool, Result<(), Errno>), Errno> {
        Ok(match self.call()? {
            Some(Trouble::Error(cause)) => (false, Err(cause)),
            Some(Trouble::PowerCut) => (self.below(2) == 0, Err(Errno::IO)),
            _ => (true, Ok(())),
        })
    }

    fn cut_power(&mut self) {
        // All of one kind is likelier than a mixture, and finds other faults.
        let mood = self.below(4);
        let mut names = self.kept_names.clone();
        for (name, inode) in std::mem::take(&mut self.renamed) {
            let kept = [false, true, self.below(2) == 0, self.below(2) == 0][mood];
            match inode {
                _ if !kept => {}
                Some(inode) => {
                    names.insert(name, inode);
                }
                None => {
                    names.remove(&name);
                }
            }
        }
        for at in 0..self.inodes.len() {
            let mut inode = std::mem::take(&mut self.inodes[at]);
            let len = [inode.platter.len(), inode.cache.len()][match mood {
                0 => 0,
                1 => 1,
                _ => self.below(2),
            }];
            inode.platter.resize(len, 0);
            for (sector, values) in std::mem::take(&mut inode.dirty) {
                self.settle(&mut inode.platter, sector, &values, mood);
            }
            inode.cache = inode.platter.clone();
            self.inodes[at] = inode;
        }
        (self.names, self.kept_names) = (names.clone(), names);
        (self.off, self.locked) = (false, false);
    }

    /// Leaves a sector as a loss of power may.
    fn settle(&mut self, platter: &mut [u8], sector: usize, values: &[Vec<u8>], mood: usize) {
        let from = sector * SECTOR;
        if from >= platter.len() {
            return;
        }
        let upto = (from + SECTOR).min(platter.len());
        let blank = platter[from..upto].iter().all(|byte| *byte == 0);
        let newest = values.len();
        let pick = [0, newest, self.below(newest + 1), self.below(newest + 1)][mood];
        let old = platter[from..upto].to_vec();
        let mut value = if pick == 0 { old } else { values[pick - 1].clone() };
        if mood == 3 {
            match self.below(6) {
                // Torn: the rest is as the newest has it.
                0 => {
                    let tear = self.below(SECTOR);
                    for (byte, new) in value.iter_mut().zip(&values[newest - 1]).skip(tear) {
                        *byte = *new;
                    }
                }
                1 if blank => {
                    let word = self.word();
                    for (at, byte) in value.iter_mut().enumerate() {
                        *byte = (word.rotate_left(at as u32 % 64) as u8) ^ at as u8;
                    }
                }
                // What another sector of the file once had.
                2 if blank && sector > 0 => {
                    let other = self.below(sector) * SECTOR;
                    value = platter[other..other + SECTOR].to_vec();
                }
                _ => {}
            }
        }
        value.resize(upto - from, 0);
        platter[from..upto].copy_from_slice(&value);
    }

    fn put(&mut self, inode: usize, at: usize, bytes: &[u8]) {
        let inode = &mut self.inodes[inode];
        let end = at + bytes.len();
        if inode.cache.len() < end {
            inode.cache.resize(end, 0);
        }
        inode.cache[at..end].copy_from_slice(bytes);
        for sector in at / SECTOR..end.div_ceil(SECTOR) {
            let (from, upto) = (sector * SECTOR, ((sector + 1) * SECTOR).min(inode.cache.len()));
            let value = inode.cache[from..upto].to_vec();
            inode.dirty.entry(sector).or_default().push(value);
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn lock(&self) -> Result<SimFile, NoLock> {
        let mut world = self.world();
        if world.off {
            return Err(NoLock::Failed(Errno::IO));
        }
        if world.locked {
            return Err(NoLock::Held { pid: Some(std::process::id()) });
        }
        world.locked = true;
        Ok(SimFile { world: self.clone(), inode: 0, lock: true })
    }

    fn names(&self) -> Result<Vec<String>, Errno> {
        let world = self.world();
        if world.off { Err(Errno::IO) } else { Ok(world.names.keys().cloned().collect()) }
    }

    fn create(&self, name: &str) -> Result<SimFile, Errno> {
        let mut world = self.world();
        if !world.off && world.names.contains_key(name) {
            return Err(Errno::EXIST);
        }
        let (done, outcome) = world.simple()?;
        if done {
            let inode = world.inodes.len();
            world.inodes.push(Inode::default());
            world.names.insert(name.into(), inode);
            world.renamed.push((name.into(), Some(inode)));
            outcome?;
            return Ok(SimFile { world: self.clone(), inode, lock: false });
        }
        Err(outcome.err().unwrap_or(Errno::IO))
    }

    fn open(&self, name: &str) -> Result<SimFile, Errno> {
        let world = self.world();
        if world.off {
            return Err(Errno::IO);
        }
        let inode = *world.names.get(name).ok_or(Errno::NOENT)?;
        Ok(SimFile { world: self.clone(), inode, lock: false })
    }

    fn remove(&self, name: &str) -> Result<(), Errno> {
        let mut world = self.world();
        let (done, outcome) = world.simple()?;
        if done {
            world.names.remove(name).ok_or(Errno::NOENT)?;
            world.renamed.push((name.into(), None));
        }
        outcome
    }

    fn sync_names(&self) -> Result<(), Errno> {
        let mut world = self.world();
        let (done, outcome) = world.simple()?;
        if done {
            world.kept_names = world.names.clone();
            world.renamed.clear();
        }
        outcome
    }

    fn bytes(&self, file: &SimFile) -> Result<u64, Errno> {
        let world = self.world();
        if world.off { Err(Errno::IO) } else { Ok(world.inodes[file.inode].cache.len() as u64) }
    }

    fn allocate(&self, file: &SimFile, bytes: u64) -> Result<(), Errno> {
        let mut world = self.world();
        let (done, outcome) = world.simple()?;
        let cache = &mut world.inodes[file.inode].cache;
        if done && cache.len() < bytes as usize {
            cache.resize(bytes as usize, 0);
        }
        outcome
    }

    fn write(&self, file: &SimFile, at: u64, gather: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let mut world = self.world();
        let trouble = world.call()?;
        let bytes = gather.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<u8>>();
        let written = match trouble {
            Some(Trouble::Error(cause)) => return Err(cause),
            Some(Trouble::Short) if bytes.len() > 1 => 1 + world.below(bytes.len() - 1),
            Some(Trouble::PowerCut) => world.below(bytes.len() + 1),
            _ => bytes.len(),
        };
        world.put(file.inode, at as usize, &bytes[..written]);
        if world.off { Err(Errno::IO) } else { Ok(written) }
    }

    fn read(&self, file: &SimFile, at: u64, place: &mut [u8]) -> Result<usize, Errno> {
        let world = self.world();
        if world.off {
            return Err(Errno::IO);
        }
        if let Some(cause) = world.reads_fail {
            return Err(cause);
        }
        let bytes = world.inodes[file.inode].cache.get(at as usize..).unwrap_or(&[]);
        let len = bytes.len().min(place.len());
        place[..len].copy_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn sync(&self, file: &SimFile) -> Result<(), Errno> {
        let mut world = self.world();
        match world.call()? {
            Some(Trouble::Error(cause)) => {
                // Some of it has come there, and none of it is to be written any more.
                let mut inode = std::mem::take(&mut world.inodes[file.inode]);
                inode.platter.resize(inode.cache.len(), 0);
                for (sector, values) in std::mem::take(&mut inode.dirty) {
                    if world.below(2) == 0 {
                        world.settle(&mut inode.platter, sector, &values, 1);
                    }
                }
                world.inodes[file.inode] = inode;
                Err(cause)
            }
            Some(Trouble::PowerCut) => Err(Errno::IO),
            _ => {
                let inode = &mut world.inodes[file.inode];
                inode.platter.resize(inode.cache.len(), 0);
                for (sector, values) in std::mem::take(&mut inode.dirty) {
                    let value = values.last().expect("it was written");
                    let from = sector * SECTOR;
                    inode.platter[from..from + value.len()].copy_from_slice(value);
                }
                Ok(())
            }
        }
    }

    fn forget(&self, file: &SimFile) -> Result<(), Errno> {
        let mut world = self.world();
        if world.off {
            return Err(Errno::IO);
        }
        let inode = &mut world.inodes[file.inode];
        inode.platter.resize(inode.cache.len(), 0);
        for sector in 0..inode.cache.len().div_ceil(SECTOR) {
            if !inode.dirty.contains_key(&sector) {
                let (from, upto) =
                    (sector * SECTOR, ((sector + 1) * SECTOR).min(inode.cache.len()));
                inode.cache[from..upto].copy_from_slice(&inode.platter[from..upto]);
            }
        }
        Ok(())
    }
}
