//! Files and folders that change while they are read, and those that are no sets.
#![expect(clippy::single_range_in_vec_init, reason = "that is what a slice of one dimension is")]

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use aio::tensor::{Error, Result, SafeTensors, SaveOptions, TensorView, save};
use support::{Generation, PATHS, handle, names, pattern};

const LEN: usize = 6 << 20;
const TENSORS: u64 = 6;

/// A file of several sections of a stream; one of tensors that are long enough to be read for some time.
fn large(folder: &Path, seed: u64) -> std::path::PathBuf {
    let path = folder.join(PATHS[1]);
    let tensors: Vec<_> = (0..TENSORS).map(|at| (format!("t{at}"), pattern(seed + at, LEN))).collect();
    let views = tensors.iter().map(|(name, bytes)| (name, TensorView::of([LEN], &bytes[..]).unwrap()));
    SaveOptions::new().durable(false).save(&handle(), &path, views).unwrap();
    path
}

/// One tensor of one byte, by the format, without this library.
fn write_tiny(path: &Path, tensor: &str, byte: u8) {
    let header = serde_json::json!({ tensor: { "dtype": "U8", "shape": [1], "data_offsets": [0, 1] } }).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[byte]].concat();
    std::fs::write(path, bytes).unwrap();
}

#[track_caller]
fn refused(path: &Path, why: &str) {
    let error = SafeTensors::open(&handle(), path).unwrap_err();
    let sentence = error.to_string();
    assert!(matches!(error, Error::Incomplete { .. }) && sentence.contains(why), "{sentence}");
    assert!(!sentence.contains(char::is_control), "{sentence:?}");
}

#[test]
fn a_file_that_shrinks_while_it_is_streamed_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = large(folder.path(), 1);
    let set = SafeTensors::open(&handle(), &path).unwrap();
    let mut stream = set.stream(0);
    assert!(stream.next().unwrap().unwrap().1.bytes() == pattern(1, LEN));
    File::options().write(true).open(&path).unwrap().set_len(2 * LEN as u64).unwrap();
    let (whole, failed): (Vec<_>, Vec<_>) = stream.partition(Result::is_ok);
    assert!(whole.is_empty(), "what was read after the cut is not to be given");
    let [Err(error)] = &failed[..] else { panic!("{} errors", failed.len()) };
    assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
    for error in [set.load().unwrap_err(), set.tensor("t5").unwrap_err(), set.verify().find_map(Result::err).unwrap()]
    {
        assert!(matches!(error, Error::Changed { .. } | Error::Io(aio::Error::UnexpectedEof { .. })), "{error}");
    }
    assert!(matches!(set.slice("t0", &[0..10]), Err(Error::Changed { .. })));
}

#[test]
fn a_file_that_is_renamed_over_or_removed_is_read_to_its_end_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = large(folder.path(), 1);
    let set = SafeTensors::open(&handle(), &path).unwrap().verified(true);
    let mut stream = set.stream(0);
    assert!(stream.next().unwrap().unwrap().1.bytes() == pattern(1, LEN));
    large(folder.path(), 100);
    for (at, read) in (1..).zip(stream) {
        assert!(read.unwrap().1.bytes() == pattern(1 + at, LEN));
    }
    assert!(SafeTensors::open(&handle(), &path).unwrap().tensor("t0").unwrap().bytes() == pattern(100, LEN));
    std::fs::remove_file(path).unwrap();
    assert!(set.tensor("t5").unwrap().bytes() == pattern(6, LEN));
}

#[test]
fn a_file_that_is_rewritten_in_place_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = large(folder.path(), 1);
    let set = SafeTensors::open(&handle(), &path).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let opened = file.metadata().unwrap().modified().unwrap();
    let mut stream = set.stream(0);
    stream.next().unwrap().unwrap();
    let at = set.info("t0").unwrap().range().start;
    // The clock of files has ticks.
    while file.metadata().unwrap().modified().unwrap() == opened {
        file.write_all_at(&[7; 100], at).unwrap();
    }
    assert!(matches!(stream.next().unwrap(), Err(Error::Changed { .. })));
    assert!(stream.next().is_none());
    let mut memory = vec![0u8; LEN];
    let failures = [
        set.load().map(drop),
        set.tensor("t1").map(drop),
        set.slice("t1", &[5..6]).map(drop),
        set.slice_into("t1", &[], &mut memory[..]),
        set.read_into([("t1", &mut memory)]),
        set.verify().find_map(Result::err).map_or(Ok(()), Err),
    ];
    for failure in failures {
        let error = failure.unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error}");
        assert!(error.to_string().contains("mixture of old and new"), "{error}");
    }
    // With the old time of modification it takes the checksum.
    file.set_modified(opened).unwrap();
    let error = set.verified(true).tensor("t0").unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    let damaged: Vec<_> = set
        .verify()
        .map(Result::unwrap)
        .filter(|tensor| tensor.is_damaged())
        .map(|tensor| tensor.info.name())
        .collect();
    assert_eq!(damaged, ["t0"]);
    set.verified(true).tensor("t1").unwrap();
}

#[test]
fn folders_without_a_set_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    refused(folder.path(), "there is no file NAME.safetensors in it");
    std::fs::write(file("other.bin"), "x").unwrap();
    write_tiny(&file(".m.safetensors.a1B2c3.tmp"), "a", 1);
    write_tiny(&file(".hidden.safetensors"), "a", 1);
    refused(folder.path(), "there is no file NAME.safetensors in it");
    write_tiny(&file("m-00001-of-00003.safetensors"), "a", 1);
    write_tiny(&file("m-00003-of-00003.safetensors"), "c", 1);
    refused(folder.path(), "of the 3 files of m, number 2 is missing");
    write_tiny(&file("m-00002-of-00003.safetensors"), "b\u{1b}[31m/../x", 2);
    let set = SafeTensors::open(&handle(), folder.path()).unwrap();
    assert_eq!(set.load().unwrap()["b\u{1b}[31m/../x"].bytes(), [2]);
    // A number that is so large that it is to be found without counting.
    write_tiny(&file("n-00001-of-4294967295.safetensors"), "n", 2);
    refused(folder.path(), "of the 4294967295 files of n, number 2 is missing");
    std::fs::remove_file(file("n-00001-of-4294967295.safetensors")).unwrap();
    write_tiny(&file("z.safetensors"), "b\u{1b}[31m/../x", 3);
    refused(folder.path(), "is in ");
    std::fs::remove_file(file("z.safetensors")).unwrap();
    std::fs::create_dir(file("z.safetensors")).unwrap();
    SafeTensors::open(&handle(), folder.path()).unwrap_err();
    std::fs::remove_dir(file("z.safetensors")).unwrap();
    std::os::unix::fs::symlink("nowhere", file("z.safetensors")).unwrap();
    SafeTensors::open(&handle(), folder.path()).unwrap_err();
}

#[test]
fn indices_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let index = |json: &str| {
        std::fs::write(file("m.safetensors.index.json"), json).unwrap();
        folder.path()
    };
    write_tiny(&file("a.safetensors"), "a", 1);
    write_tiny(&file("b.safetensors"), "b", 2);
    let good = r#"{"metadata": {}, "weight_map": {"a": "a.safetensors", "b": "./b.safetensors"}}"#;
    assert_eq!(SafeTensors::open(&handle(), index(good)).unwrap().load().unwrap().len(), 2);
    for (weight_map, why) in [
        (r#"{"a": "gone.safetensors"}"#, "No such file"),
        (r#"{"a": "../a.safetensors"}"#, "which is not below its folder"),
        (r#"{"a": "/etc/passwd"}"#, "which is not below its folder"),
        (r#"{"a": "x/../a.safetensors"}"#, "which is not below its folder"),
        (r#"{"a": ""}"#, "which is not below its folder"),
        (r#"{"a": "."}"#, "is no regular file"),
        (r#"{"a": "a.safetensors/"}"#, "Not a directory"),
        (r#"{"a": "a\u0000.safetensors"}"#, "it names"),
        (r#"{"a": "\u001b[2J"}"#, "it names"),
        (r#"{"a": "a.safetensors", "a": "b.safetensors"}"#, "is there twice"),
        (r#"{"b": "a.safetensors"}"#, "where it is not"),
        (r#"{"c\u001b": "a.safetensors"}"#, "where it is not"),
        (r#"{"a": 3}"#, "is no string"),
        (r#"[]"#, "it is no index"),
    ] {
        refused(index(&format!(r#"{{"weight_map": {weight_map}}}"#)), why);
    }
    for json in ["", "{}", "[", "null", "\u{1b}", &"[".repeat(100_000)] {
        refused(index(json), "it is no index");
    }
    index(good);
    // A file of the index's name: other programs would load the one or the other.
    File::create(file("m.safetensors")).unwrap();
    refused(folder.path(), "another file of the same name");
    std::fs::remove_file(file("m.safetensors")).unwrap();
    std::fs::write(file("n.safetensors.index.json"), good).unwrap();
    refused(folder.path(), "m.safetensors.index.json, n.safetensors.index.json");
    SafeTensors::open(&handle(), file("n.safetensors.index.json")).unwrap();
    // Longer than any is, and sparse.
    File::create(file("n.safetensors.index.json")).unwrap().set_len(1 << 40).unwrap();
    refused(&file("n.safetensors.index.json"), "longer than");
}

#[test]
fn what_would_wait_or_never_end_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("m.safetensors");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused(&fifo, "neither a regular file nor a folder");
    let open_files = SafeTensors::open_files(&handle(), [&fifo]).unwrap_err().to_string();
    assert!(open_files.contains("not a regular file"), "{open_files}");
    let error = SafeTensors::open(&handle(), folder.path()).unwrap_err().to_string();
    assert!(error.contains("FIFO"), "{error}");
    std::fs::write(folder.path().join("m.safetensors.index.json"), r#"{"weight_map": {"a": "m.safetensors"}}"#)
        .unwrap();
    refused(folder.path(), "is no regular file");
    refused(Path::new("/dev/zero"), "neither a regular file nor a folder");
    std::fs::remove_file(folder.path().join("m.safetensors.index.json")).unwrap();
    std::os::unix::fs::symlink(&fifo, folder.path().join("m.safetensors.index.json")).unwrap();
    let error = SafeTensors::open(&handle(), folder.path()).unwrap_err().to_string();
    assert!(error.contains("regular"), "{error}");
}

#[test]
fn headers_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let with =
        |header: &[u8], data: usize| [&(header.len() as u64).to_le_bytes()[..], header, &vec![0; data]].concat();
    let entry = |offsets: &str| format!(r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":{offsets}}}}}"#);
    let bad = [
        vec![],
        vec![0; 7],
        vec![0xff; 8],
        100_000_000u64.to_le_bytes().to_vec(),
        with(b"", 0),
        with(b"{", 0),
        with(b"\xff\xff", 0),
        with(&b"[".repeat(1 << 20), 0),
        with(entry("[0,4]").as_bytes(), 3),
        with(entry("[0,4]").as_bytes(), 5),
        with(entry("[1,5]").as_bytes(), 5),
        with(entry("[4,0]").as_bytes(), 4),
        with(entry("[0,5]").as_bytes(), 5),
        with(entry("[0,18446744073709551615]").as_bytes(), 4),
        with(entry("[18446744073709551612,18446744073709551616]").as_bytes(), 4),
        with(br#"{"a":{"dtype":"U9","shape":[4],"data_offsets":[0,4]}}"#, 4),
        with(br#"{"a":{"dtype":"U8","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}}"#, 4),
        with(br#"{"__metadata__":{"a":1}}"#, 0),
    ];
    for bytes in bad {
        std::fs::write(&path, &bytes).unwrap();
        let error = SafeTensors::open(&handle(), &path).unwrap_err();
        let sentence = error.to_string();
        assert!(matches!(error, Error::Malformed { .. }), "{sentence}");
        assert!(sentence.len() < 1000 && !sentence.contains(char::is_control), "{sentence:?}");
    }
}

/// The reader finds an index, and by the time it opens the files, a save may have removed them: it is the old set or
/// the new one, never an error, and never a mixture.
#[test]
fn a_set_can_be_opened_while_it_is_replaced_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(PATHS[0]);
    Generation(1).save(&handle(), &path).unwrap();
    let is_over = AtomicBool::new(false);
    let opened = std::thread::scope(|scope| {
        let saves = scope.spawn(|| {
            let mut number = 1;
            while !is_over.load(Ordering::Relaxed) {
                number += 1;
                let generation = Generation(number);
                let tensors = generation.tensors();
                let views =
                    tensors.iter().map(|(name, bytes)| (name, TensorView::of([bytes.len()], &bytes[..]).unwrap()));
                generation.options().durable(false).save(&handle(), &path, views).unwrap();
            }
            number
        });
        let mut found = Vec::new();
        while found.len() < 300 {
            let opened = [folder.path(), &path].map(|path| Generation::open(&handle(), path).map(|it| it.0));
            is_over.store(opened.iter().any(Result::is_err), Ordering::Relaxed);
            found.extend(opened.map(Result::unwrap));
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(saves.join().unwrap() > 2, "nothing was saved meanwhile");
        found
    });
    assert!(opened.windows(2).all(|pair| pair[0] <= pair[1]), "an older one came back");
    assert_eq!(names(folder.path()).len(), 4);
}

#[test]
fn names_may_be_anything() {
    let folder = tempfile::tempdir().unwrap();
    let strange =
        ["a/b", "/etc/passwd", "..", "", "\u{1b}[2J\n\0", "\u{202e}rtl", &"long".repeat(10_000), "__metadata", " "];
    for (name, shards) in [(PATHS[0], 5), (PATHS[1], 1)] {
        let path = folder.path().join(name);
        let bytes: Vec<_> = (0..strange.len() as u64).map(|at| pattern(at, 1000)).collect();
        let views =
            strange.iter().zip(&bytes).map(|(name, bytes)| (*name, TensorView::of([1000], &bytes[..]).unwrap()));
        SaveOptions::new().max_shard_size(2000).save(&handle(), &path, views).unwrap();
        let set = SafeTensors::open(&handle(), &path).unwrap().verified(true);
        assert_eq!(set.files().len(), shards);
        for (name, bytes) in strange.iter().zip(&bytes) {
            assert!(set.tensor(name).unwrap().bytes() == bytes);
            assert_eq!(set.slice(name, &[3..5]).unwrap().bytes(), &bytes[3..5]);
        }
        let error = set.tensor("\u{1b}[2J").unwrap_err().to_string();
        assert!(error.contains("there is no tensor") && !error.contains(char::is_control), "{error:?}");
        names(folder.path()).iter().for_each(|name| std::fs::remove_file(folder.path().join(name)).unwrap());
    }
    // Of the file, too, in whatever is said.
    let path = folder.path().join("\u{1b}[2J.safetensors");
    save(&handle(), &path, [("a", TensorView::of([1], &[1u8]).unwrap())]).unwrap();
    let index = folder.path().join("\u{1b}[2J.safetensors.index.json");
    let errors = [
        save(&handle(), &index, [("a", TensorView::of([1], &[1u8]).unwrap())]).unwrap_err(),
        SafeTensors::open(&handle(), &index).unwrap_err(),
        SafeTensors::open(&handle(), &path).unwrap().tensor("b").unwrap_err(),
    ];
    for error in errors {
        assert!(!error.to_string().contains(char::is_control), "{error:?}");
    }
}
