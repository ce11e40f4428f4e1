//! What must not go wrong with a file that is replaced.

#[path = "../support/mod.rs"]
mod support;

mod commits;
mod rights;
mod targets;

use std::fs;

use aio::Error;
use aio::error::OpKind;
use support::Folder;

fn names(folder: &Folder) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(folder.path("")).unwrap().map(name).collect();
    names.sort();
    names
}

fn assert_not_replaced(error: &Error, errno: i32, advice: &str) {
    assert!(matches!(error, Error::Io(error) if error.op == OpKind::Replace), "{error}");
    assert_eq!(error.raw_os_error(), Some(errno), "{error}");
    assert!(error.to_string().contains(advice), "{error}");
}
