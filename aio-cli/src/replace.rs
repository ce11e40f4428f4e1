//! Files that are there as a whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::failure::Failure;
use crate::host::disk;
use crate::interrupt::Made;

/// Makes `path` a file with these bytes, in place of one that may be there.
///
/// They go into a file beside it first, which then takes its name: a picture is never half written, and a failure leaves
/// what was there.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Failed(format!("cannot write {}: {error}", path.display()));
    // What a symbolic link points to is replaced, not the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(&target).is_ok_and(|existing| !existing.is_file()) {
        return Err(Failure::Failed(format!("cannot write {}: it exists and is not a regular file", path.display())));
    }
    let (made, mut file) = Made::by(|| kept_beside(&target)).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    fs::rename(made.path(), &target).map_err(failed)?;
    made.keep();
    Ok(())
}

/// One that [`Made`] removes, also when the process is told to end at once.
fn kept_beside(target: &Path) -> io::Result<(PathBuf, File)> {
    let (file, path) = temporary_beside(target)?.keep()?;
    Ok((path, file))
}

/// A new file in the folder of `target`, with the mode that any new file has.
pub fn temporary_beside(target: &Path) -> io::Result<NamedTempFile> {
    // Unlike tempfile_in, this leaves the error as the kernel gave it.
    tempfile::Builder::new().prefix(".tensor-aio-").make_in(disk::folder_of(target), |path| File::create_new(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_made_or_replaced_and_nothing_stays_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.svg");
        for bytes in [&b"first"[..], b"2"] {
            replace(&path, bytes).unwrap();
            assert_eq!((fs::read(&path).unwrap().as_slice(), names(dir.path())), (bytes, vec!["a.svg".to_owned()]));
        }
        fs::write(dir.path().join("usual"), b"").unwrap();
        let mode = |name| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("a.svg"), mode("usual"));
    }

    #[test]
    fn a_link_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let [path, link] = ["a.svg", "link.svg"].map(|name| dir.path().join(name));
        fs::write(&path, b"old").unwrap();
        symlink("a.svg", &link).unwrap();
        replace(&link, b"new").unwrap();
        assert!(link.is_symlink() && fs::read(&path).unwrap() == b"new");
    }

    #[test]
    fn where_nothing_can_be_written_the_reason_is_said() {
        let dir = tempfile::tempdir().unwrap();
        for (path, reason) in
            [(dir.path().to_owned(), "not a regular file"), (dir.path().join("no/a.svg"), "No such file")]
        {
            let failure = replace(&path, b"x").unwrap_err().to_string();
            assert!(failure.contains(reason) && failure.contains(path.to_str().unwrap()), "{failure}");
            assert!(!failure.contains(".tensor-aio-"), "the file beside it is nobody's business: {failure}");
        }
        assert!(names(dir.path()).is_empty());
    }
}
