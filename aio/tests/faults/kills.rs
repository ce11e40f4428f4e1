//! A process that is killed while it writes, and what the next one finds.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use aio::DirectMode;
use aio_testkit::leftovers::{aio_slots, settles};

use crate::support::child::{again, is_child};
use crate::support::{Folder, backends, pattern};

const OP: usize = 50_000;
const OPS: u64 = 250;

/// What the child works on: backend and path.
const WORK: &str = "AIO_TEST_KILLED";

#[test]
#[ignore = "needs processes of its own: .ci/faults"]
fn in_the_middle_of_writes() {
    const NAME: &str = "kills::in_the_middle_of_writes";
    if is_child(NAME) {
        return write_for_ever();
    }
    for backend in backends() {
        let (folder, slots) = (Folder::new(), aio_slots());
        let path = folder.file("t", &pattern(1000, OP * OPS as usize));
        let mut child = again(NAME)
            .env(WORK, format!("{backend} {}", path.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Each line is an op whose ticket was Ok.
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("written ")?.parse::<u64>().ok());
        let mut written: Vec<u64> = Vec::new();
        let mut killed = false;
        for number in told {
            written.push(number);
            if written.len() == 100 {
                child.kill().unwrap();
                killed = true;
            }
        }
        assert!(killed && !child.wait().unwrap().success(), "it was not killed");
        assert!(written.len() < OPS as usize, "nothing was in flight any more");

        // What was Ok is there, and what was not is old or new or partly both.
        let found = std::fs::read(&path).unwrap();
        assert_eq!(found.len(), OP * OPS as usize);
        let old = pattern(1000, found.len());
        for number in 0..OPS {
            let range = number as usize * OP..(number as usize + 1) * OP;
            let (found, old, new) = (&found[range.clone()], &old[range], pattern(number, OP));
            if written.contains(&number) {
                assert!(found == new, "op {number} was Ok, on {backend}");
            } else {
                let is_either =
                    found.iter().zip(old).zip(&new).all(|((found, old), new)| found == old || found == new);
                assert!(is_either, "op {number}, on {backend}");
            }
        }
        settles("a killed process", "fs.aio-nr", aio_slots, |now| *now <= slots);
        let aio = crate::handle(backend, DirectMode::Auto);
        let file = aio.open(&path).unwrap();
        file.write(pattern(7, found.len()), 0).wait().unwrap();
        file.sync_all().wait().unwrap();
        assert!(std::fs::read(&path).unwrap() == pattern(7, found.len()));
    }
}

fn write_for_ever() {
    let work = std::env::var(WORK).unwrap();
    let (backend, path) = work.split_once(' ').unwrap();
    let aio = crate::handle(backend.parse().unwrap(), DirectMode::Auto);
    let file = aio.open(path).unwrap();
    let mut tickets = std::collections::VecDeque::new();
    for number in 0..OPS {
        tickets.push_back((number, file.write(pattern(number, OP), number * OP as u64)));
        if tickets.len() > 16 {
            let (number, ticket) = tickets.pop_front().unwrap();
            ticket.wait().unwrap();
            println!("written {number}");
        }
    }
    // The others are in flight until it is killed.
    loop {
        std::thread::park();
    }
}
