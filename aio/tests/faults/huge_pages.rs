//! Huge pages that are switched off, and a control group without room for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use aio::op::Direction::{Read, Write};
use aio::{Backend, DirectMode};

use crate::pages::{HUGE, Memory, USES, can_be_made, in_huge_pages, transfer};
use crate::support::child::{again, alone, assert_passes, is_child};
use crate::support::log::log_to;
use crate::support::{Folder, backends, pattern};

const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
const LEN: usize = 8 * HUGE;

/// `transparent_hugepage/enabled`; has its old value again when it is dropped.
struct Setting(String);

impl Setting {
    fn never() -> Option<Self> {
        let changed = fs::read_to_string(SETTING).and_then(|before| fs::write(SETTING, "never").map(|()| before));
        match changed {
            Ok(before) => {
                let chosen = before.split_once('[').and_then(|(_, rest)| rest.split_once(']')).expect("a choice").0;
                Some(Self(chosen.to_owned()))
            }
            Err(error) => {
                eprintln!("SKIPPED: {SETTING} cannot be set: {error}");
                None
            }
        }
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(SETTING, &self.0) {
            eprintln!("{SETTING} stays changed, it was {}: {error}", self.0);
        }
    }
}

fn each(test: impl Fn(Backend, &Path, &[u8])) {
    let folder = Folder::new();
    let content = pattern(16, LEN);
    for backend in backends() {
        let path = folder.file(backend.name(), &content);
        test(backend, &path, &content);
    }
}

/// The arena and the caller's memory get huge pages all the same.
#[test]
#[ignore = "needs root, to switch them off: .ci/faults"]
fn that_are_switched_off() {
    // By itself: the arena of other tests would be in the same mappings.
    alone("huge_pages::that_are_switched_off", || {
        if !can_be_made() {
            return;
        }
        let Some(_never) = Setting::never() else { return };
        assert_eq!(Memory::touched(LEN, 1).huge(), 0, "they are switched off");
        each(|backend, path, content| {
            let aio = aio::builder().backend(backend).direct(DirectMode::On).arena_limit(1 << 30).build().unwrap();
            // Small ones too, of a region that may be registered by then.
            let mut buffers = Vec::new();
            for len in std::iter::once(LEN).chain([HUGE / 4; 8]) {
                let buffer = aio.open(path).unwrap().read(aio.alloc(len).unwrap(), 0).wait().unwrap();
                assert!(*buffer == content[..len], "{backend}, {len} bytes");
                buffers.push(buffer);
            }
            // They are cut from one mapping.
            let start = buffers[0].as_ptr().addr();
            let huge = in_huge_pages(start..start + LEN);
            assert!(huge >= LEN + 2 * HUGE, "{backend}: {huge} of {}", aio.arena().mapped());
            let mut fresh = Memory::fresh(LEN);
            assert_eq!(transfer(&aio, path, Read, fresh.bytes()), 0);
            assert!(fresh.bytes() == content && fresh.huge() == LEN, "{backend}");
            let mut plain = Memory::touched(LEN, 1);
            let staged: Vec<_> = (1..=USES).map(|_| transfer(&aio, path, Write, plain.bytes())).collect();
            assert_eq!((staged.last(), plain.huge()), (Some(&0), LEN), "{backend}: {staged:?}");
            assert!(fs::read(path).unwrap() == [1; LEN], "{backend}");
        });
    });
}

const GROUP: &str = "AIO_TEST_GROUP";

/// Ops and buffers stay in small pages, and succeed; it is tried once in ten seconds, and not for each op.
#[test]
#[ignore = "needs root: .ci/faults"]
fn that_the_control_group_has_no_room_for() {
    const NAME: &str = "huge_pages::that_the_control_group_has_no_room_for";
    if is_child(NAME) {
        let group = PathBuf::from(std::env::var_os(GROUP).unwrap());
        fs::write(group.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        return without_room(&group);
    }
    let Some(group) = MemoryGroup::new() else { return };
    assert_passes(again(NAME).env(GROUP, &group.0));
}

fn without_room(group: &Path) {
    if !can_be_made() {
        return;
    }
    let began = Instant::now();
    let refused = Arc::new(AtomicUsize::new(0));
    let counter = refused.clone();
    log_to(move |event| {
        let mut is_it = false;
        event.record(&mut |_: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            is_it |= format!("{value:?}").contains("no room for huge pages");
        });
        counter.fetch_add(usize::from(is_it), Ordering::Relaxed);
    });
    each(|backend, path, content| {
        let aio = aio::builder().backend(backend).direct(DirectMode::On).build().unwrap();
        let mut memory = Memory::touched(LEN, 1);
        // What it takes beside is there already.
        assert!(transfer(&aio, path, Read, memory.bytes()) > 0 || refused.load(Ordering::Relaxed) > 0, "{backend}");
        let limit = limit_to_what_is_used(group);
        for _ in 0..2 * USES {
            memory.bytes().fill(1);
            transfer(&aio, path, Read, memory.bytes());
            assert!(memory.bytes() == content, "{backend}");
        }
        assert!(memory.huge() < LEN, "{backend}: there was room");
        drop(limit);
    });
    let most = 1 + began.elapsed().as_secs() as usize / 10;
    assert!((1..=most).contains(&refused.load(Ordering::Relaxed)), "tried once in ten seconds");
}

/// A control group for memory, gone again when it is dropped.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new() -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let own_hierarchy = root.join("memory");
        let parent = if own_hierarchy.is_dir() { own_hierarchy } else { root.to_owned() };
        let group = Self(parent.join(format!("aio-test-{}", std::process::id())));
        match fs::create_dir(&group.0).and_then(|()| fs::read(&files(&group.0)[0])) {
            Ok(_) => Some(group),
            Err(error) => {
                eprintln!("SKIPPED: no control group with a limit of memory: {error}");
                None
            }
        }
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        crate::support::until(|| fs::remove_dir(&self.0).is_ok() || !self.0.exists());
    }
}

/// Lifts the limit again.
struct Limit(PathBuf);

impl Drop for Limit {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, "-1").or_else(|_| fs::write(&self.0, "max"));
    }
}

/// The limit of a group and what it uses, in version 1 and 2.
fn files(group: &Path) -> [PathBuf; 2] {
    let names = [["memory.limit_in_bytes", "memory.usage_in_bytes"], ["memory.max", "memory.current"]];
    let version_1 = group.join(names[0][0]).exists();
    names[usize::from(!version_1)].map(|name| group.join(name))
}

/// Leaves less room than a huge page.
fn limit_to_what_is_used(group: &Path) -> Limit {
    let [limit, usage] = files(group);
    let used: usize = fs::read_to_string(usage).unwrap().trim().parse().unwrap();
    fs::write(&limit, (used + HUGE / 2).to_string()).unwrap();
    Limit(limit)
}
