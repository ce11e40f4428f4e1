//! Finds the fastest configuration within a time limit.

mod candidate;
mod folder;
mod progress;
mod report;
mod sample;
mod save;
mod search;
mod space;
mod together;
mod verdict;
mod workload;

use std::iter;
use std::thread;
use std::time::{Duration, Instant};

use aio::Backend;
use aio_core::shown;

use crate::cli::TuneArgs;
use crate::failure::Failure;
use crate::host::disk;
use crate::output;
use candidate::Candidate;
use folder::{DataFile, Place};
use progress::Progress;
use report::{FolderReport, Report, TogetherReport, Unavailable};
use save::Destination;
use search::{Bench, Effort, Outcome, Plan, search};
use space::Space;
use together::{Member, together};
use workload::Shape;

/// The most candidates; beyond that, time is better spent on the good ones.
const CANDIDATES: usize = 96;
/// The share of a folder's time that writing its data file may take.
const FILLING: f64 = 1.0 / 7.0;
/// The share of all time in which several folders are measured together.
const TOGETHER: f64 = 0.12;

/// Tunes, prints the result, and saves it. When a signal ends it early, it prints what it has.
pub(crate) fn tune(args: &TuneArgs) -> Result<(), Failure> {
    let clock = Instant::now();
    let destination = destination(args)?;
    let places = places(args)?;
    let shape = Shape::of(args.size, places.len());
    let (backends, unavailable) = backends()?;
    let report = Report::new(args.runtime.as_secs_f64(), args.seed, shape, unavailable);
    let mut tuning = Tuning { args, clock, shape, backends, progress: Progress::new(clock, args.runtime), report };
    let ended = tuning.all(&places);
    let mut report = tuning.finish();
    match ended {
        Ok(()) => {}
        Err(interrupted @ Failure::Interrupted(_)) => {
            report.partial = true;
            output::result(&report, args.json)?;
            return Err(interrupted);
        }
        Err(failure) => return Err(failure),
    }
    // The result is on the screen even if saving fails.
    let saved = match (&destination, report.folders.first().and_then(|folder| folder.recommendation.as_ref())) {
        (Some(destination), Some(recommended)) => destination.write(&recommended.config.config()),
        _ => Ok(()),
    };
    report.written = args.write.as_ref().filter(|_| saved.is_ok()).map(|path| shown(path).to_string());
    output::result(&report, args.json)?;
    saved
}

fn destination(args: &TuneArgs) -> Result<Option<Destination>, Failure> {
    if args.write.is_some() && args.dirs.len() > 1 {
        let why = "--write saves one configuration, and each folder may get another: name one DIR";
        return Err(Failure::Usage(why.to_owned()));
    }
    args.write.as_ref().map(|path| Destination::look(path, args.overwrite)).transpose()
}

fn places(args: &TuneArgs) -> Result<Vec<Place>, Failure> {
    let places: Vec<Place> = args.dirs.iter().map(|dir| Place::look(dir)).collect::<Result<_, _>>()?;
    for (index, place) in places.iter().enumerate() {
        if places[..index].iter().any(|earlier| earlier.dir == place.dir) {
            return Err(Failure::Usage(format!("{} is named twice", shown(&place.dir))));
        }
        // At the end, the files of all folders exist at once.
        let sharing = places.iter().filter(|other| other.device == place.device).count();
        disk::require_room(&place.dir, iter::repeat_n(args.size, sharing))?;
    }
    Ok(places)
}

/// The backends that work here, the default one first, and why others do not.
fn backends() -> Result<(Vec<&'static str>, Vec<Unavailable>), Failure> {
    let handle = aio::builder().config(Candidate::defaults().config()).build()?;
    let usual = handle.backend_name();
    handle.close()?;
    let (mut usable, mut unavailable) = (vec![usual], Vec::new());
    for backend in Backend::COMPILED.iter().filter(|backend| backend.name() != usual) {
        match backend.probe() {
            Ok(_) => usable.push(backend.name()),
            Err(why) => unavailable.push(Unavailable { backend: backend.name(), reason: why.to_string() }),
        }
    }
    Ok((usable, unavailable))
}

/// The work between examining the folders and printing.
struct Tuning<'a> {
    args: &'a TuneArgs,
    clock: Instant,
    shape: Shape,
    backends: Vec<&'static str>,
    progress: Progress,
    report: Report,
}

impl Tuning<'_> {
    fn all(&mut self, places: &[Place]) -> Result<(), Failure> {
        self.note_shared_devices(places);
        let budget = self.args.runtime;
        let alone = if places.len() > 1 { budget.mul_f64(1.0 - TOGETHER) } else { budget };
        let mut files = Vec::with_capacity(places.len());
        for (index, place) in places.iter().enumerate() {
            let began = self.clock.elapsed();
            let share = alone.saturating_sub(began) / (places.len() - index) as u32;
            files.push(self.folder(place, began + share, share)?);
        }
        if places.len() > 1 {
            self.together(&files)?;
        }
        Ok(())
    }

    /// Tunes one folder alone, until `end` on the clock.
    fn folder(&mut self, place: &Place, end: Duration, share: Duration) -> Result<DataFile, Failure> {
        self.progress.place(&shown(&place.dir).to_string());
        self.progress.stage("writing the data file");
        let (seed, size) = (self.args.seed, self.args.size);
        let data = DataFile::make(place, size, self.shape, workload::pattern(seed), share.mul_f64(FILLING))?;
        if data.bytes < size / self.shape.op_bytes as u64 * self.shape.op_bytes as u64 {
            let words = "the data file is smaller than --size: writing all of that would take too much of --runtime";
            self.report.notes.push(format!("{}: {words}", shown(&place.dir)));
        }
        if let Some(fs) = place.file_system.as_deref().filter(|fs| disk::lies_in_memory(fs)) {
            let words = "its files lie in memory, so this says nothing of any device";
            self.report.notes.push(format!("{} is on {fs}: {words}", shown(&place.dir)));
        }
        let space = Space {
            backends: self.backends.clone(),
            direct: data.direct,
            cpus: thread::available_parallelism().map_or(1, usize::from),
            op_bytes: self.shape.op_bytes,
            in_flight: self.shape.buffer_bytes(),
        };
        let plan = Plan { end, least: data.bytes.min(self.shape.buffer_bytes() as u64), most: data.bytes, seed };
        let mut live = Live { data: &data, clock: self.clock, progress: &self.progress };
        let found = search(&mut live, &plan, space.candidates(CANDIDATES, seed));
        if let Some(reason) = found.entries.first().and_then(|defaults| defaults.refused.as_deref()) {
            return Err(Failure::Failed(format!("the defaults do not work in {}: {reason}", shown(&place.dir))));
        }
        self.report.folders.push(FolderReport::new(place, &data, &found));
        found.stopped.map_or(Ok(data), Err)
    }

    /// Measures all folders at once, each with its recommendation. If that fails, the earlier results still count.
    fn together(&mut self, files: &[DataFile]) -> Result<(), Failure> {
        self.progress.place("all folders");
        self.progress.stage("at the same time");
        let recommended: Vec<_> = self.report.folders.iter().filter_map(FolderReport::recommended).collect();
        let alone: Vec<_> = recommended
            .iter()
            .map(|folder| (folder.read.gb_per_s.spread.median, folder.write.gb_per_s.spread.median))
            .collect();
        let member = |(data, (contender, (alone_read, alone_write)))| {
            let contender: &report::Contender = contender;
            Member { data, candidate: &contender.config, alone_read, alone_write }
        };
        let members: Vec<_> =
            files.iter().zip(recommended.iter().copied().zip(alone.iter().copied())).map(member).collect();
        match together(&members, self.clock + self.args.runtime) {
            Ok(found) => self.report.together = Some(TogetherReport::new(found, &alone)),
            Err(Failure::Failed(reason)) => {
                self.report.notes.push(format!("the folders could not be measured at the same time: {reason}"));
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    fn note_shared_devices(&mut self, places: &[Place]) {
        for (index, place) in places.iter().enumerate() {
            if let Some(earlier) = places[..index].iter().find(|earlier| earlier.device == place.device) {
                self.report.notes.push(format!(
                    "{} and {} are on the same device: together they share it",
                    shown(&earlier.dir),
                    shown(&place.dir)
                ));
            }
        }
    }

    /// Erases the bar.
    fn finish(self) -> Report {
        let mut report = self.report;
        report.elapsed_seconds = self.clock.elapsed().as_secs_f64();
        report
    }
}

/// Measures candidates on a real file.
struct Live<'a> {
    data: &'a DataFile,
    clock: Instant,
    progress: &'a Progress,
}

impl Bench<Candidate> for Live<'_> {
    type Stop = Failure;

    fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    fn measure(&mut self, candidate: &Candidate, effort: Effort) -> Result<Outcome, Failure> {
        let outcome = self.data.look(candidate, effort)?;
        match &outcome {
            Outcome::Measured(pair) => tracing::debug!(%candidate, bytes = effort.bytes, ?pair, "measured"),
            Outcome::Refused(reason) => tracing::debug!(%candidate, reason, "refused"),
        }
        Ok(outcome)
    }

    fn stage(&mut self, stage: &str, best: Option<(&Candidate, f64)>) {
        match best {
            Some((candidate, ratio)) => {
                self.progress.stage(&format!("{stage}; best so far {candidate} at {ratio:.2} times the defaults"));
            }
            None => self.progress.stage(stage),
        }
    }
}
