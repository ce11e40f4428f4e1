//! Processes that are killed at any moment of a save, and what the next one finds.

#[path = "../../aio/tests/support/child.rs"]
mod child;
mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use child::{again, is_child};
use support::{Generation, PATHS, handle, mix, names};

const ROUNDS: u64 = 200;

/// What a child works on: the generation it begins with, and the folder.
const WORK: &str = "AIO_STORE_KILLED";

/// The index, and a single file beside its files.
const TARGETS: [&str; 2] = [PATHS[0], "single.safetensors"];

#[test]
fn a_process_that_is_killed_leaves_the_old_set_or_the_new_one() {
    const NAME: &str = "a_process_that_is_killed_leaves_the_old_set_or_the_new_one";
    if is_child(NAME) {
        return save_for_ever();
    }
    let folder = tempfile::tempdir().unwrap();
    let paths = TARGETS.map(|name| folder.path().join(name));
    paths.iter().for_each(|path| Generation(0).save(&handle(), path).unwrap());
    let whole = names(folder.path()).len();
    let (mut generation, mut left, mut advanced) = (0, 0, 0);
    for round in 0..ROUNDS {
        let mut child = again(NAME)
            .env(WORK, format!("{} {}", generation + 1, folder.path().display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        // Where it stands then is up to the machine; so is how long a save takes.
        let random = mix(round);
        assert!(lines.by_ref().any(|line| line.starts_with("begins")), "the child did not begin");
        std::thread::sleep(Duration::from_micros(random % 30_000));
        child.kill().unwrap();
        let mut saved = [generation; 2];
        for line in lines {
            if let Some((target, number)) = line.strip_prefix("saved ").and_then(|line| line.split_once(' ')) {
                saved[target.parse::<usize>().unwrap()] = number.parse().unwrap();
            }
        }
        assert!(!child.wait().unwrap().success(), "it was not killed");

        for (path, saved) in paths.iter().zip(saved) {
            let found = Generation::open(&handle(), path).unwrap();
            assert!([saved, saved + 1].contains(&found.0), "round {round}: {found:?}, of which {saved} was saved");
            advanced += found.0 - generation;
        }
        assert_eq!(
            Generation::open(&handle(), folder.path()).unwrap(),
            Generation::open(&handle(), &paths[0]).unwrap()
        );
        left += names(folder.path()).len() - whole;
        // No lock stays, and what is left does not, but for the temporary of a single file: a process that lives may
        // be writing to it.
        generation = saved[0].max(saved[1]) + 2;
        paths.iter().for_each(|path| Generation(generation).save(&handle(), path).unwrap());
        for name in names(folder.path()).iter().filter(|name| name.starts_with('.')) {
            assert!(name.starts_with(".single.safetensors.") && name.ends_with(".tmp"), "{name}");
            std::fs::remove_file(folder.path().join(name)).unwrap();
        }
        assert_eq!(names(folder.path()).len(), whole, "{:?}", names(folder.path()));
        assert_eq!(Generation::open(&handle(), folder.path()).unwrap(), Generation(generation));
    }
    eprintln!("{ROUNDS} kills left {left} files, and {advanced} saves before them had ended");
    assert!(left > 0, "none of them hit a save");
    assert!(advanced > 0, "none of them let a save end");
}

/// The child: says what is saved, until it is killed.
fn save_for_ever() {
    let work = std::env::var(WORK).unwrap();
    let (first, folder) = work.split_once(' ').unwrap();
    let paths = TARGETS.map(|name| Path::new(folder).join(name));
    let aio = handle();
    let mut out = std::io::stdout();
    writeln!(out, "\nbegins").unwrap();
    for number in first.parse::<u64>().unwrap().. {
        for (target, path) in paths.iter().enumerate() {
            let generation = Generation(number);
            let options = generation.options().durable(number % 2 == 0);
            let writer = options.begin(&aio, path, generation.specs()).unwrap();
            for (name, bytes) in generation.tensors() {
                writer.write(&name, &bytes).unwrap();
            }
            writer.finish().unwrap();
            writeln!(out, "saved {target} {number}").unwrap();
        }
    }
}
