//! Files and file systems that change under an open file.

use aio::Error;
use aio::error::OpKind;

use crate::assert_io;
use crate::disk::SmallDisk;
use crate::support::{Folder, evict, pattern};

const LEN: usize = 2 << 20;

/// Nothing can be written any more, and everything read.
#[test]
#[ignore = "needs root: .ci/faults"]
fn a_disk_becomes_read_only() {
    crate::each("a read-only remount", |backend, direct| {
        let Some(disk) = SmallDisk::of("ext4") else { return };
        let path = disk.path().join("t");
        std::fs::write(&path, pattern(1, LEN)).unwrap();
        evict(&path);
        let aio = crate::handle(backend, direct);
        let file = aio.open_with(&path, &aio::OpenOptions::new().read(true)).unwrap();
        disk.remount("ro");
        assert!(file.read(vec![0; LEN], 0).wait().unwrap() == pattern(1, LEN));
        // It falls back to what is permitted, and says what is not.
        let again = aio.open(&path).unwrap();
        let refused = again.write(vec![1; 100], 0).wait().unwrap_err().to_string();
        assert!(refused.contains("open for reading only"), "{refused}");
        let new = disk.path().join("new");
        let failed = aio.write_new(&new, vec![1; 100]).wait().unwrap_err();
        assert_io(failed.error(), OpKind::Open, libc::EROFS, &new, 0..1);
        let failed = aio.create_atomic(&path).unwrap_err();
        assert_io(&failed, OpKind::Open, libc::EROFS, &path, 0..1);
        assert!(std::fs::read(&path).unwrap() == pattern(1, LEN));
    });
}

/// A file that is cut and grows while it is read: the right bytes, or a plain word that it ended.
#[test]
#[ignore = "with the others: .ci/faults"]
fn a_file_is_cut_while_it_is_read() {
    crate::each("a file that is cut", |backend, direct| {
        let folder = Folder::new();
        let content = pattern(1, LEN);
        let path = folder.file("t", &content);
        let aio = crate::handle(backend, direct);
        let file = aio.open(&path).unwrap();
        let mut ended = [0, 0];
        for round in 0..15 {
            let reads: Vec<_> = (0..8).map(|_| file.read(vec![0; LEN], 0)).collect();
            let cut = LEN / 2 + round * 4099;
            std::fs::File::options().write(true).open(&path).unwrap().set_len(cut as u64).unwrap();
            for read in reads {
                match read.wait() {
                    Ok(found) => {
                        // Pages that went while they were read are zeros, as for any reader.
                        assert!(found[..cut] == content[..cut]);
                        let tail = found[cut..].chunks(512).zip(content[cut..].chunks(512));
                        let is_right = |(found, content): (&[u8], &[u8])| {
                            found == content
                                || found.iter().zip(content).all(|(found, content)| found == content || *found == 0)
                        };
                        assert!(tail.into_iter().all(is_right));
                        ended[0] += 1;
                    }
                    Err(failed) => {
                        let (error, found) = failed.into_parts();
                        let Error::UnexpectedEof { read, .. } = error else { panic!("{error}") };
                        let (read, found) = (read as usize, found.unwrap());
                        assert!(read >= cut && read < LEN, "{read} bytes, of at least {cut}");
                        assert!(found[..cut] == content[..cut]);
                        ended[1] += 1;
                    }
                }
            }
            std::fs::write(&path, &content).unwrap();
            evict(&path);
        }
        assert!(ended[1] > 0, "no read met the end");
    });
}

/// An open file stays the old one; an op by its name gets the new one.
#[test]
#[ignore = "with the others: .ci/faults"]
fn a_file_is_unlinked_and_replaced() {
    crate::each("a file that is replaced", |backend, direct| {
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, LEN));
        let aio = crate::handle(backend, direct);
        let file = aio.open(&path).unwrap();
        let reads: Vec<_> = (0..8).map(|_| file.read(vec![0; LEN], 0)).collect();
        std::fs::remove_file(&path).unwrap();
        for read in reads {
            assert!(read.wait().unwrap() == pattern(1, LEN));
        }
        folder.file("t", &pattern(2, LEN));
        // Odd offsets open the file once more, by another way than its name.
        file.write(pattern(3, 1001), 77).wait().unwrap();
        let mut expected = pattern(1, LEN);
        expected[77..1078].copy_from_slice(&pattern(3, 1001));
        assert!(file.read(vec![0; LEN], 0).wait().unwrap() == expected);
        file.write(pattern(4, 5000), LEN as u64).wait().unwrap();
        file.sync_all().wait().unwrap();
        assert_eq!(file.len().unwrap(), LEN as u64 + 5000);
        assert!(aio.read_path(&path, vec![0; LEN]).wait().unwrap() == pattern(2, LEN));
        assert!(std::fs::read(&path).unwrap() == pattern(2, LEN));
    });
}
