//! A fork in the middle of I/O: the child gets `Forked`, and the parent does not notice.

use aio::Error;

use crate::support::child::{alone, forked};
use crate::support::{Folder, pattern};

const LEN: usize = 300_000;

#[test]
#[ignore = "needs a process of its own: .ci/faults"]
fn in_the_middle_of_io() {
    alone("forks::in_the_middle_of_io", || {
        crate::each("a fork", |backend, direct| {
            let aio = crate::handle(backend, direct);
            let folder = Folder::new();
            let file = aio.create(folder.path("t")).unwrap();
            let mut in_flight = 0;
            for round in 0..4 {
                let contents: Vec<_> = (0..20).map(|at| pattern(round * 100 + at, LEN)).collect();
                let writes = (0..).zip(contents).map(|(at, content)| file.write(content, at * LEN as u64));
                let writes: Vec<_> = writes.collect();
                in_flight += writes.iter().filter(|write| !write.is_done()).count();
                let wrong = forked(|| {
                    let is_forked = |error: &Error| matches!(error, Error::Forked);
                    let mut byte = [0];
                    let answers = [
                        is_forked(file.read(vec![0; 10], 0).wait().unwrap_err().error()),
                        is_forked(&file.read_at(&mut byte, 0).unwrap_err()),
                        is_forked(&file.write_at(&byte, 0).unwrap_err()),
                        is_forked(file.sync_all().wait().unwrap_err().error()),
                        is_forked(&aio.open(folder.path("t")).unwrap_err()),
                        is_forked(&aio.alloc(10).unwrap_err()),
                        is_forked(&aio.wait().unwrap_err()),
                        is_forked(&aio.scope(|_| {}).unwrap_err()),
                        is_forked(&aio.create_atomic(folder.path("new")).unwrap_err()),
                        is_forked(&aio.clone().close().unwrap_err()),
                    ];
                    answers.iter().position(|answer| !answer).map(|index| 1 + index as i32)
                });
                assert_eq!(wrong, 0, "the child");
                all_written(&folder, &file, writes, round);
            }
            assert!(in_flight > 0, "nothing was in flight in any round");
        });
    });
}

fn all_written(folder: &Folder, file: &aio::AioFile, writes: Vec<aio::Ticket<Vec<u8>>>, round: u64) {
    for write in writes {
        write.wait().unwrap();
    }
    file.sync_data().wait().unwrap();
    let found = std::fs::read(folder.path("t")).unwrap();
    for at in 0..20 {
        assert!(found[at * LEN..][..LEN] == pattern(round * 100 + at as u64, LEN), "{at}");
    }
    assert!(!folder.path("new").exists());
}
