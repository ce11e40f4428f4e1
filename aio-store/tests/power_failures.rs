//! What is on the device when the power fails at any step of a save: the old set or the new one, whole.

#[path = "../../aio/tests/support/disk.rs"]
mod disk;
mod support;

use std::sync::mpsc;

use disk::SmallDisk;
use support::{Generation, PATHS, handle, names};

/// The generation that would be there if the power failed now.
fn after_power_failure(disk: &SmallDisk, name: &str, is_first: bool) -> Option<Generation> {
    let survivor = disk.after_power_failure().expect("what could be mounted once can be mounted again");
    let folder = survivor.path();
    // Before the first save there is an error, in a sentence; afterwards there is a set.
    let of_folder = Generation::open(&handle(), &folder).ok();
    let of_path = Generation::open(&handle(), &folder.join(name)).ok();
    // The first files of a folder without an index are a set as soon as all of them are there.
    assert!(of_path == of_folder || is_first && of_path.is_none(), "{of_path:?}, and in the folder {of_folder:?}");
    of_folder
}

#[test]
fn a_power_failure_leaves_the_old_set_or_the_new_one_at_every_step() {
    for name in PATHS {
        let Some(disk) = SmallDisk::new(64) else { return };
        let path = disk.path().join(name);
        let mut old = None;
        for new in [Generation(1), Generation(2), Generation(3)] {
            let is_first = old.is_none();
            let now = || after_power_failure(&disk, name, is_first);
            let writer = new.options().begin(&handle(), &path, new.specs()).unwrap();
            assert_eq!(now(), old, "begun");
            for (name, bytes) in new.tensors() {
                writer.write(&name, &bytes).unwrap();
            }
            assert_eq!(now(), old, "written");
            let (reached, steps) = mpsc::channel();
            let (go_on, looked_at) = mpsc::channel();
            let saving = std::thread::spawn(move || {
                writer.finish_in_steps(move |step| {
                    reached.send(step.to_owned()).unwrap();
                    looked_at.recv().unwrap();
                })
            });
            let (mut seen, mut is_over) = (Vec::new(), false);
            for step in steps {
                let found = now();
                is_over = is_over || step.starts_with("FolderSynced") && step.ends_with(name);
                let is_old = found == old && !is_over;
                assert!(is_old || found == Some(new), "after {step}: {found:?} over {old:?}");
                seen.push(step);
                go_on.send(()).unwrap();
            }
            saving.join().unwrap().unwrap();
            assert!(is_over, "{seen:?}");
            if name == PATHS[0] && old.is_some() {
                assert!(seen.last().unwrap().starts_with("removed"), "{seen:?}");
            }
            assert_eq!(now(), Some(new), "after the end");
            old = Some(new);
        }
    }
}

/// What a power failure leaves beside the old set does not outlive the next save.
#[test]
fn the_next_save_removes_what_a_power_failure_left() {
    let Some(disk) = SmallDisk::new(64) else { return };
    let path = disk.path().join(PATHS[0]);
    Generation(1).save(&handle(), &path).unwrap();
    Generation(2).save(&handle(), &path).unwrap();
    let files = names(&disk.path()).len();
    let (reached, steps) = mpsc::channel();
    let (go_on, looked_at) = mpsc::channel();
    let writer = Generation(3).write(&handle(), &path).unwrap();
    let saving = std::thread::spawn(move || {
        writer.finish_in_steps(move |step| {
            reached.send(step.to_owned()).unwrap();
            looked_at.recv().unwrap();
        })
    });
    let mut most = 0;
    for step in steps {
        let survivor = disk.after_power_failure().expect("what could be mounted once can be mounted again");
        let folder = survivor.path();
        most = most.max(names(&folder).len());
        Generation(4).save(&handle(), &folder.join(PATHS[0])).unwrap();
        assert_eq!(names(&folder).len(), files, "after {step}: {:?}", names(&folder));
        assert_eq!(Generation::open(&handle(), &folder).unwrap(), Generation(4));
        go_on.send(()).unwrap();
    }
    saving.join().unwrap().unwrap();
    assert!(most > files, "nothing was left at any step");
}
