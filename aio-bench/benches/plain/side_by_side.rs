//! Running two sides in turns, and the lines that come of it.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a side runs at least: shorter ones measure the clock and the first touch of everything.
const LEAST: Duration = Duration::from_millis(500);

/// Numbers of plain threads, as far as the machine has CPUs, and at least up to 8.
pub(crate) fn numbers_of_threads() -> impl Iterator<Item = usize> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    [1, 2, 4, 8, 16].into_iter().filter(move |&threads| threads <= cpus.max(8))
}

/// A way to do the work: each call does it once, and says how many bytes that was.
pub(crate) type Work<'a> = dyn FnMut() -> u64 + 'a;

/// Runs the engine and what is beside it, and prints a line for each pair.
pub(crate) struct SideBySide {
    folder: TempDir,
    pairs: usize,
    only: String,
    test: bool,
    prepare: Box<dyn Fn()>,
    took: Rc<Cell<Option<Duration>>>,
}

impl SideBySide {
    pub(crate) fn new(dir: &Path, pairs: usize, only: String, test: bool) -> Self {
        let folder = tempfile::tempdir_in(dir).expect("a folder for the files");
        println!("{:<52} {:>9} {:>9}  {:>5} (from  to)  wanted", "", "ours GB/s", "plain", "ratio");
        let pairs = if test { 1 } else { pairs.max(1) };
        Self { folder, pairs, only, test, prepare: Box::new(|| ()), took: Rc::default() }
    }

    /// From now on, this runs before each time that the work is done, and takes no time of it.
    pub(crate) fn prepare_by(&mut self, prepare: impl Fn() + 'static) {
        self.prepare = Box::new(prepare);
    }

    /// Where work that has a clock of its own, as another program has, leaves how long it took.
    pub(crate) fn own_clock(&self) -> Rc<Cell<Option<Duration>>> {
        self.took.clone()
    }

    /// This many bytes or files; few when only tested.
    pub(crate) fn scaled(&self, full: u64, test: u64) -> u64 {
        if self.test { test } else { full }
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file of this length that is on the disk and, in clean pages, in the page cache.
    pub(crate) fn file(&self, name: &str, len: u64) -> PathBuf {
        let path = self.path(name);
        let mut file = File::create(&path).expect("a file");
        let chunk: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for at in (0..len).step_by(chunk.len()) {
            file.write_all(&chunk[..chunk.len().min((len - at) as usize)]).expect("room for the file");
        }
        file.sync_all().expect("a disk that takes the file");
        path
    }

    /// Measures our way beside the best of the others; `wanted` is the least ratio that will do.
    pub(crate) fn line(&mut self, name: &str, wanted: f64, ours: &mut Work<'_>, others: &mut [Box<Work<'_>>]) {
        if !name.contains(&self.only) {
            return;
        }
        let (mut our_rates, mut their_rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        if !self.test {
            self.rate(ours);
        }
        // Which of the others is best is found out once.
        let best = match others.len() {
            1 => 0,
            _ => {
                let rates: Vec<f64> = others.iter_mut().map(|other| self.rate(other)).collect();
                (0..rates.len()).max_by(|a, b| rates[*a].total_cmp(&rates[*b])).unwrap_or(0)
            }
        };
        for _ in 0..self.pairs {
            let (theirs, mine) = (self.rate(&mut others[best]), self.rate(ours));
            our_rates.push(mine);
            their_rates.push(theirs);
            ratios.push(mine / theirs);
        }
        let [ours, theirs] = [&mut our_rates, &mut their_rates].map(|rates| format!("{:.2}", median(rates) / 1e9));
        let ratio = median(&mut ratios);
        let (from, to) = (ratios[0], ratios[ratios.len() - 1]);
        println!("{name:<52} {ours:>9} {theirs:>9}  {ratio:>5.2} ({from:.2} {to:.2})  {wanted}");
        let _ = io::stdout().flush();
    }

    fn rate(&self, work: &mut Work<'_>) -> f64 {
        let (mut done, mut took) = (0, Duration::ZERO);
        loop {
            (self.prepare)();
            let start = Instant::now();
            done += work();
            let elapsed = start.elapsed();
            took += self.took.take().unwrap_or(elapsed);
            if self.test || took >= LEAST {
                return done as f64 / took.as_secs_f64();
            }
        }
    }
}

/// Sorts, too.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
