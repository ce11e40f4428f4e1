//! A file that is replaced keeps its rights and its access list, and no other user gets more than before.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use aio_testkit::conformance::refusing;

use crate::support::Folder;
use crate::support::users::{NOBODY, as_nobody, give_to_nobody, nobodys, set_mode};

#[test]
fn nobody_gets_more_rights_than_before() {
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
    let path = folder.file("t", b"old");
    for bits in [0o600, 0o640, 0o444, 0o4755] {
        fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
        let new = aio.create_atomic(&path).unwrap();
        new.write(vec![1; 10], 0).wait().unwrap();
        new.commit().wait().unwrap();
        let kept = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        // A write may take set-user-ID away; nothing adds to what was there.
        assert_eq!((kept & !bits, kept & 0o777), (0, bits & 0o777));
    }
    // Who may not give files away does not give its own rights away instead.
    if !give_to_nobody(&path) {
        return;
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
    let replaced = refusing(&[libc::SYS_fchown], libc::EPERM, || {
        let new = aio.create_atomic(&path).unwrap();
        // Nothing is written: a write would take the bits away, too.
        new.commit().wait().unwrap();
    });
    if replaced.is_some() {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o755);
    }
}

#[test]
fn a_file_that_its_owner_may_not_write_can_be_replaced() {
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
    let Some((_, path)) = nobodys(&folder) else { return };
    set_mode(&path, 0o444);
    as_nobody(|| {
        let new = aio.create_atomic(&path).unwrap();
        new.write(vec![1; 10], 0).wait().unwrap();
        new.commit().wait().unwrap();
    });
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.permissions().mode() & 0o7777, fs::read(&path).unwrap()), (0o444, vec![1; 10]));
}

const ACCESS_LIST: &str = "system.posix_acl_access";

/// `user::rw-`, `user:1234:rw-`, `group::---`, `mask::rw-`, `other::---`.
fn access_list() -> Vec<u8> {
    let entries =
        [(0x01_u16, 6_u16, u32::MAX), (0x02, 6, 1234), (0x04, 0, u32::MAX), (0x10, 6, u32::MAX), (0x20, 0, u32::MAX)];
    let entry = |(tag, rights, id): (u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [2_u32.to_le_bytes().to_vec(), entries.map(entry).concat()].concat()
}

#[test]
fn access_lists_are_kept_and_not_inherited() {
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
    let replace = |path: &Path| {
        let new = aio.create_atomic(path).unwrap();
        new.write(vec![1; 10], 0).wait().unwrap();
        new.commit().wait().unwrap();
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        (xattr::get(path, ACCESS_LIST).unwrap(), mode)
    };
    let path = folder.file("t", b"old");
    if let Err(error) = xattr::set(&path, ACCESS_LIST, &access_list()) {
        eprintln!("SKIPPED: access lists: {error}");
        return;
    }
    assert_eq!(replace(&path), (Some(access_list()), 0o660));
    // A group of the mask's rights is not what it was, if the list cannot be given.
    let bare = refusing(&[libc::SYS_fsetxattr], libc::EPERM, || replace(&path));
    assert!(bare.is_none() || bare == Some((None, 0o600)), "{bare:?}");

    let plain = folder.file("plain", b"old");
    set_mode(&plain, 0o660);
    xattr::set(folder.path(""), "system.posix_acl_default", &access_list()).unwrap();
    assert_eq!(replace(&plain), (None, 0o660));
}

#[test]
fn a_group_that_cannot_be_given_gives_nobody_rights() {
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
    let path = folder.file("t", b"old");
    // The second one denies the group what everybody else has.
    for (old, new) in [(0o664, 0o644), (0o604, 0o600)] {
        set_mode(&path, old);
        if chown(&path, None, Some(NOBODY)).is_err() {
            eprintln!("SKIPPED: a file of another group");
            return;
        }
        let replace = || aio.create_atomic(&path).unwrap().commit().wait().unwrap();
        if refusing(&[libc::SYS_fchown], libc::EPERM, replace).is_some() {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, new);
        }
    }
}
