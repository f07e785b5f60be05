use std::cell::UnsafeCell;
pub struct T(UnsafeCell<Vec<(u8,u64)>>);
unsafe impl Sync for T {}
pub static TR: T = T(UnsafeCell::new(Vec::new()));
pub static MASK: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
const CAP: usize = 8_000_000;
#[inline(always)]
pub fn stamp(k: u8) {
    unsafe {
        if MASK.load(std::sync::atomic::Ordering::Relaxed) >> k & 1 == 0 { return; }
        let v = &mut *TR.0.get();
        if v.len() < v.capacity() { v.push((k, std::arch::x86_64::_rdtsc())); }
    }
}
pub fn init() {
    let m: u64 = std::env::var("SQ_MASK").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    if m == 0 { return; }
    unsafe { let v = &mut *TR.0.get(); v.resize(CAP,(0,0)); v.clear(); }
    MASK.store(m, std::sync::atomic::Ordering::Relaxed);
}
pub fn dump(rank: usize) {
    let m = MASK.swap(0, std::sync::atomic::Ordering::Relaxed);
    if m == 0 { return; }
    unsafe {
        let v = &*TR.0.get();
        let mut out = Vec::with_capacity(v.len()*9);
        for (k,t) in v { out.push(*k); out.extend(t.to_le_bytes()); }
        std::fs::write(format!("/tmp/trace.{rank}"), out).unwrap();
    }
}
