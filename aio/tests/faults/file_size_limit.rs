//! `RLIMIT_FSIZE`: EFBIG, and the signal that comes with it, which by default ends the process.

use aio::error::OpKind;
use nix::sys::resource::{Resource, setrlimit};

use crate::assert_io;
use crate::support::child::alone;
use crate::support::{Folder, pattern};

const LIMIT: u64 = 4 << 20;

#[test]
#[ignore = "needs a process of its own: .ci/faults"]
fn is_an_error_and_no_signal() {
    alone("file_size_limit::is_an_error_and_no_signal", || {
        setrlimit(Resource::RLIMIT_FSIZE, LIMIT, LIMIT).unwrap();
        // SAFETY: only asks.
        let action = unsafe {
            let mut action = std::mem::zeroed::<libc::sigaction>();
            assert_eq!(libc::sigaction(libc::SIGXFSZ, std::ptr::null(), &mut action), 0);
            action
        };
        assert_eq!(action.sa_sigaction, libc::SIG_DFL, "the signal would end this process");
        crate::each("a limit of file sizes", |backend, direct| {
            let aio = crate::handle(backend, direct);
            let folder = Folder::new();
            let path = folder.path("t");
            let file = aio.create(&path).unwrap();
            let content = pattern(1, 3 << 20);
            file.write(content.clone(), 0).wait().unwrap();
            // Across the limit, past it, and on the caller's thread; others that fit are in flight meanwhile.
            let over = [(LIMIT - 4096, 8192), (LIMIT, 4096), (LIMIT + 77, 100_000), (LIMIT - 9, 50)];
            let failing: Vec<_> = over.iter().map(|(at, len)| file.write(vec![2; *len], *at)).collect();
            let fitting: Vec<_> = (0..32).map(|i| file.write(vec![i as u8; 5000], i * 65_536 + i)).collect();
            for (at, len) in over {
                let error = file.write_at(&vec![2; len], at).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EFBIG), "{error}");
            }
            for ((at, len), ticket) in over.into_iter().zip(failing) {
                let failed = ticket.wait().unwrap_err();
                let op = if matches!(failed.error(), aio::Error::Io(io) if io.op == OpKind::Allocate) {
                    OpKind::Allocate
                } else {
                    OpKind::Write
                };
                assert_io(failed.error(), op, libc::EFBIG, &path, at..at + len as u64);
                assert!(failed.to_string().contains("ulimit -f"), "{failed}");
            }
            for ticket in fitting {
                ticket.wait().unwrap();
            }
            let mut expected = content;
            for i in 0..32 {
                expected[i * 65_537..][..5000].fill(i as u8);
            }
            let found = std::fs::read(&path).unwrap();
            assert!(found == expected, "{} bytes of {}", found.len(), expected.len());
            file.write(vec![9; 4096], LIMIT - 4096).wait().unwrap();
            assert_eq!(file.len().unwrap(), LIMIT);
        });
    });
}
