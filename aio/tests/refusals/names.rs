//! An error and a log line are one line each, whatever a file is called.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use aio::{AioConfig, Error};
use tracing::field::Field;

use crate::support::child::alone;
use crate::support::each;
use crate::support::log::log_to;

/// A name that clears a terminal, and looks like two lines.
const ODD_NAME: &str = "a\u{1b}[2J\nb";

fn assert_one_line(text: &str) {
    assert!(!text.contains(char::is_control) && text.contains("a\\u{1b}[2J\\nb"), "{text:?}");
}

#[test]
fn errors_are_one_line_whatever_a_file_is_called() {
    each(|_, aio, folder| {
        let (path, missing) = (folder.file(ODD_NAME, &[1; 5000]), folder.path(&format!("missing {ODD_NAME}")));
        let file = aio.open(&path).unwrap();
        let new = aio.create_atomic(&path).unwrap();
        new.write(vec![0; 1], i64::MAX as u64 - 8192).wait().unwrap_err();
        let config = folder.file(&format!("{ODD_NAME}.json"), b"{\"aio\": {\"queue_depth\": 0}}");
        let errors: [Error; 9] = [
            aio.open(&missing).unwrap_err(),
            aio.create_atomic(missing.join("t")).unwrap_err(),
            aio.read_path(&missing, vec![0; 10]).wait().unwrap_err().into(),
            file.read(vec![0; 5000], 1).wait().unwrap_err().into(),
            file.read_at(&mut [0; 5000], 1).unwrap_err(),
            file.set_len(u64::MAX).wait().unwrap_err().into(),
            new.commit().wait().unwrap_err().into(),
            AioConfig::from_json_file(&missing).unwrap_err(),
            AioConfig::from_json_file(&config).unwrap_err(),
        ];
        for error in errors {
            assert_one_line(&error.to_string());
            assert_one_line(&format!("{error:?}"));
        }
        let _what_was_dropped = aio.wait();
    });
}

#[test]
fn log_lines_are_one_line_whatever_a_file_is_called() {
    alone("names::log_lines_are_one_line_whatever_a_file_is_called", || {
        let log = Arc::<Mutex<Vec<String>>>::default();
        let lines = log.clone();
        log_to(move |event| {
            let mut line = String::new();
            event.record(&mut |field: &Field, value: &dyn Debug| line.push_str(&format!("{field}={value:?} ")));
            lines.lock().unwrap().push(line);
        });
        each(|_, aio, folder| {
            let file = aio.open(folder.file(ODD_NAME, &[1; 5000])).unwrap();
            log.lock().unwrap().clear();
            // Continued through the page cache at the end of the file; and only the log reports its failure.
            file.read(vec![0; 8192], 0).wait().unwrap_err();
            drop(file.read(vec![0; 8192], 0));
            aio.wait().unwrap_err();
            let mut lines = log.lock().unwrap();
            lines.retain(|line| line.contains("[2J"));
            assert!(!lines.is_empty());
            lines.iter().for_each(|line| assert_one_line(line));
        });
    });
}
