//! Latency over time, as an HdrHistogram interval log (V2, as `HistogramLogProcessor` reads it).
//!
//! The measured loop counts into its own histograms and passes them on once a second; a thread writes them and returns
//! them empty, so the loop does not allocate.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use aio_core::shown;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError, Tag};

use super::drive;
use crate::cli::RunArgs;
use aio_cli::failure::Failure;
use aio_cli::interrupt::Made;

const INTERVAL: Duration = Duration::from_secs(1);

/// Readers take nanoseconds and show milliseconds.
const NANOS_PER_SHOWN: f64 = 1e6;

/// A log in the making.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    /// Removed again unless something was measured.
    made: Made,
    /// Returns whether anything was measured.
    writer: JoinHandle<io::Result<bool>>,
}

/// Histograms of one interval, one per kind of op.
struct Interval {
    /// Since the beginning of the log.
    start: Duration,
    length: Duration,
    kinds: Vec<Histogram<u64>>,
}

enum Message {
    Begin(SystemTime),
    Interval(Interval),
}

/// The measured loop's side of the log.
#[derive(Debug)]
pub(crate) struct Intervals {
    kinds: Vec<Histogram<u64>>,
    /// When the log and the current interval began.
    times: Option<Times>,
    full: Sender<Message>,
    empty: Receiver<Vec<Histogram<u64>>>,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    began: Instant,
    start: Instant,
    end: Instant,
}

impl Log {
    /// Makes the file, which must not exist.
    pub(crate) fn create(path: &Path, args: &RunArgs) -> Result<(Self, Intervals), Failure> {
        let name = shown(path);
        let (made, file) =
            Made::by(|| File::create_new(path).map(|file| (path.to_owned(), file))).map_err(|error| {
                let reason = match error.kind() {
                    io::ErrorKind::AlreadyExists => "it exists, and is not overwritten".to_owned(),
                    _ => error.to_string(),
                };
                Failure::Failed(format!("cannot write the log {name}: {reason}"))
            })?;
        let names: Vec<_> = args.ops.iter().map(|op| args.is_mixed().then(|| op.op.name())).collect();
        let kinds = || names.iter().map(|_| drive::histogram()).collect::<Vec<_>>();
        let (full, messages) = mpsc::channel();
        let (emptied, empty) = mpsc::channel();
        let kept = kinds();
        // A second set, for use while the thread writes the first.
        let _ = emptied.send(kinds());
        let writer = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write(file, &names, &messages, &emptied))
            .map_err(|error| Failure::Failed(format!("cannot start a thread for the log {name}: {error}")))?;
        let intervals = Intervals { kinds: kept, times: None, full, empty };
        Ok((Self { path: path.to_owned(), made, writer }, intervals))
    }

    /// Waits for the thread after the last interval; fails if it could not write.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let written = self.writer.join().unwrap_or_else(|_| Err(io::Error::other("its thread panicked")));
        let path = shown(&self.path);
        if written.map_err(|error| Failure::Failed(format!("cannot write the log {path}: {error}")))? {
            self.made.keep();
        }
        Ok(())
    }
}

impl Intervals {
    /// Starts the first interval.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.times = Some(Times { began: now, start: now, end: now + INTERVAL });
        // If the thread failed, `Log::finish` says why.
        let _ = self.full.send(Message::Begin(SystemTime::now()));
    }

    /// Records an op that ends now.
    #[inline]
    pub(crate) fn record(&mut self, kind: usize, took: Duration, now: Instant) {
        let Some(times) = self.times else { return };
        if now >= times.end {
            self.turn(times, now);
        }
        self.kinds[kind].saturating_record(took.as_nanos() as u64);
    }

    /// Ends the interval at the last whole second; after a long op it covers several.
    #[cold]
    fn turn(&mut self, times: Times, now: Instant) {
        let whole = (now - times.began).as_secs();
        let end = times.began + Duration::from_secs(whole);
        let next = self.empty.try_recv().unwrap_or_else(|_| self.kinds.iter().map(Histogram::new_from).collect());
        let kinds = mem::replace(&mut self.kinds, next);
        self.pass_on(times, end, kinds);
        self.times = Some(Times { start: end, end: end + INTERVAL, ..times });
    }

    fn pass_on(&self, times: Times, end: Instant, kinds: Vec<Histogram<u64>>) {
        let interval = Interval { start: times.start - times.began, length: end - times.start, kinds };
        let _ = self.full.send(Message::Interval(interval));
    }

    /// Passes on the last interval, which ends now.
    pub(crate) fn finish(mut self, now: Instant) {
        if let Some(times) = self.times {
            let kinds = mem::take(&mut self.kinds);
            if kinds.iter().any(|kind| !kind.is_empty()) {
                self.pass_on(times, now, kinds);
            }
        }
    }
}

/// Writes intervals until the sender is dropped.
fn write(
    file: File,
    names: &[Option<&str>],
    messages: &Receiver<Message>,
    emptied: &Sender<Vec<Histogram<u64>>>,
) -> io::Result<bool> {
    let Ok(Message::Begin(started)) = messages.recv() else { return Ok(false) };
    let mut file = BufWriter::new(file);
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment("Latencies of ops in nanoseconds, by aio-bench run.")
        .with_start_time(started)
        .with_base_time(started)
        .with_max_value_divisor(NANOS_PER_SHOWN)
        .begin_log_with(&mut file, &mut serializer)?;
    for message in messages {
        let Message::Interval(Interval { start, length, mut kinds }) = message else { continue };
        for (kind, name) in kinds.iter_mut().zip(names) {
            log.write_histogram(kind, start, length, name.and_then(Tag::new)).map_err(|error| match error {
                IntervalLogWriterError::IoError(error) => error,
                IntervalLogWriterError::SerializeError(error) => io::Error::other(error),
            })?;
            kind.reset();
        }
        let _ = emptied.send(kinds);
    }
    file.flush().map(|()| true)
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    #[test]
    fn intervals_end_with_whole_seconds() {
        let (full, messages) = mpsc::channel();
        let (_emptied, empty) = mpsc::channel();
        let mut intervals = Intervals { kinds: vec![drive::histogram()], times: None, full, empty };
        let now = Instant::now();
        let at = |millis| now + Duration::from_millis(millis);
        let took = Duration::from_micros(1);
        intervals.record(0, took, now);
        intervals.begin(now);
        // Nothing ends in the second and third second: one op is in flight until 3.7 s.
        for millis in [100, 999, 3700, 3800, 4000] {
            intervals.record(0, took, at(millis));
        }
        intervals.finish(at(4500));
        let seen: Vec<_> = messages
            .iter()
            .filter_map(|message| match message {
                Message::Interval(Interval { start, length, kinds }) => {
                    Some((start.as_millis(), length.as_millis(), kinds[0].len()))
                }
                Message::Begin(_) => None,
            })
            .collect();
        assert_eq!(seen, [(0, 3000, 2), (3000, 1000, 2), (4000, 500, 1)], "what came before the beginning is not in");
    }

    #[test]
    fn readers_of_such_logs_read_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (full, messages) = mpsc::channel();
        let (emptied, _empty) = mpsc::channel();
        full.send(Message::Begin(SystemTime::now())).unwrap();
        let kinds = [10, 20].map(|nanos| {
            let mut kind = drive::histogram();
            kind.record(nanos).unwrap();
            kind
        });
        let interval = Interval { start: Duration::ZERO, length: INTERVAL, kinds: kinds.into() };
        full.send(Message::Interval(interval)).unwrap();
        drop(full);
        write(file.reopen().unwrap(), &[Some("read"), Some("randwrite")], &messages, &emptied).unwrap();
        let text = std::fs::read(file.path()).unwrap();
        let tags: Vec<_> = IntervalLogIterator::new(&text)
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => Some(interval.tag().unwrap().as_str().to_owned()),
                _ => None,
            })
            .collect();
        assert_eq!(tags, ["read", "randwrite"]);
    }
}
