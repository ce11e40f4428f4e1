//! Which results form a line, its name, and its points.

use std::collections::BTreeMap;
use std::iter;

use serde::Serialize;

use super::input::RunResult;
use crate::cli::Over;
use aio_cli::estimate::Estimate;
use aio_cli::failure::Failure;

/// The content of the picture.
#[derive(Debug)]
pub(crate) struct Plot {
    /// The horizontal axis; `None` if nothing varies.
    pub(crate) over: Option<Over>,
    /// What all results have in common, in words.
    pub(crate) common: Vec<String>,
    /// In the order of their first results.
    pub(crate) series: Vec<Series>,
}

/// One line.
#[derive(Debug, Serialize)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
}

/// All results of a series at one place.
#[derive(Debug, Serialize)]
pub(crate) struct Point {
    /// Queue depth in blocks, or block size in bytes; `None` if nothing varies.
    pub(crate) x: Option<u64>,
    pub(crate) runs: usize,
    pub(crate) gb_per_s: Estimate,
    pub(crate) latency_us: Latency,
}

#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: Estimate,
    pub(crate) p99: Estimate,
}

impl Plot {
    /// Sorts results, at least one, into series.
    pub(crate) fn new(results: &[RunResult], asked: Option<Over>) -> Result<Self, Failure> {
        let over = match asked {
            Some(over) => Some(over),
            None => what_varies(results)?,
        };
        let traits: Vec<Vec<String>> = results.iter().map(|result| traits(result, over)).collect();
        let differs = |which: &usize| traits.iter().any(|other| other[*which] != traits[0][*which]);
        let (differing, common): (Vec<usize>, Vec<usize>) = (0..TRAITS).partition(differs);
        let words = |of: &[String], which: &mut dyn Iterator<Item = usize>| -> Vec<String> {
            which.map(|which| of[which].clone()).filter(|words| !words.is_empty()).collect()
        };
        let name = |traits: &Vec<String>| {
            let named = differing.iter().copied().filter(|which| *which != BACKEND);
            words(traits, &mut iter::once(BACKEND).chain(named)).join(", ")
        };
        let names: Vec<String> = traits.iter().map(name).collect();
        let common = traits
            .first()
            .map_or_else(Vec::new, |first| words(first, &mut common.into_iter().filter(|which| *which != BACKEND)));
        Ok(Self { over, common, series: series(results, &names, over) })
    }

    /// What all results have in common, and the meaning of the whiskers.
    pub(crate) fn subtitle(&self) -> String {
        let runs = self.series.iter().flat_map(|series| &series.points).map(|point| point.runs).max();
        let whiskers = match runs {
            None | Some(0 | 1) => String::new(),
            Some(runs) => format!(". Medians of up to {runs} runs, whiskers from the lowest to the highest."),
        };
        self.common.join(", ") + &whiskers
    }
}

/// Results of the same name form a series.
fn series(results: &[RunResult], names: &[String], over: Option<Over>) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for name in names {
        if series.iter().any(|known| known.name == *name) {
            continue;
        }
        let mut places: BTreeMap<Option<u64>, Vec<&RunResult>> = BTreeMap::new();
        for (result, _) in results.iter().zip(names).filter(|(_, other)| *other == name) {
            places.entry(over.map(|over| over.of(result))).or_default().push(result);
        }
        let points = places.into_iter().filter_map(|(x, runs)| Point::new(x, &runs)).collect();
        series.push(Series { name: name.clone(), points });
    }
    series
}

impl Over {
    fn of(self, result: &RunResult) -> u64 {
        match self {
            Self::QueueDepth => result.queue_depth,
            Self::BlockSize => result.block_size,
        }
    }
}

fn what_varies(results: &[RunResult]) -> Result<Option<Over>, Failure> {
    let varies = |over: Over| results.iter().any(|result| over.of(result) != over.of(&results[0]));
    match (varies(Over::QueueDepth), varies(Over::BlockSize)) {
        (true, false) => Ok(Some(Over::QueueDepth)),
        (false, true) => Ok(Some(Over::BlockSize)),
        (false, false) => Ok(None),
        (true, true) => Err(Failure::Usage(
            "both the queue depth and the block size vary among these results: choose what to draw over with \
             --x queue-depth or --x block-size, and the other one becomes part of the names"
                .to_owned(),
        )),
    }
}

/// The number of [`traits`], and the one that every name has.
const TRAITS: usize = 8;
const BACKEND: usize = 0;

/// What tells a result from others, in words, except the axis. Usual values have no words.
fn traits(result: &RunResult, over: Option<Over>) -> Vec<String> {
    let mut words = vec![
        result.backend.clone(),
        ops(result),
        if result.direct { "direct" } else { "buffered" }.to_owned(),
        counted(result.threads, "thread"),
        result
            .extents
            .filter(|extents| *extents > 1)
            .map_or_else(String::new, |extents| format!("{extents} blocks per op")),
        match result.memory_offset {
            0 => String::new(),
            offset => format!("memory offset {offset}"),
        },
    ];
    let depth = format!("queue depth {}", result.queue_depth);
    let size = format!("blocks of {}", size(result.block_size));
    words.push(if over == Some(Over::QueueDepth) { String::new() } else { depth });
    words.push(if over == Some(Over::BlockSize) { String::new() } else { size });
    words
}

/// The op, or the mix: `read:70+write:30`.
fn ops(result: &RunResult) -> String {
    match result.ops.as_slice() {
        [] => result.op.clone().unwrap_or_default(),
        [one] => one.op.clone(),
        several => {
            let ops = several.iter().map(|share| match share.weight {
                Some(weight) => format!("{}:{weight}", share.op),
                None => share.op.clone(),
            });
            ops.collect::<Vec<_>>().join("+")
        }
    }
}

fn counted(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// A size in its shortest exact form: `4 KiB`, but `4100 B`.
pub(crate) fn size(bytes: u64) -> String {
    let unit = (bytes.trailing_zeros() / 10).min(4);
    format!("{} {}", bytes >> (10 * unit), ["B", "KiB", "MiB", "GiB", "TiB"][unit as usize])
}

impl Point {
    /// `None` without runs.
    fn new(x: Option<u64>, runs: &[&RunResult]) -> Option<Self> {
        let estimate = |figure: fn(&RunResult) -> f64| Estimate::of(runs.iter().map(|run| figure(run)));
        Some(Self {
            x,
            runs: runs.len(),
            gb_per_s: estimate(|run| run.gb_per_s)?,
            latency_us: Latency {
                p50: estimate(|run| run.latency_us.p50)?,
                p99: estimate(|run| run.latency_us.p99)?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::input::tests::result;
    use super::*;

    fn results(values: Vec<Value>) -> Vec<RunResult> {
        values.into_iter().map(|value| serde_json::from_value(value).unwrap()).collect()
    }

    fn with(backend: &str, queue_depth: u64, changes: Value) -> Value {
        let mut value = result(backend, queue_depth, 1.0);
        for (key, change) in changes.as_object().unwrap() {
            value[key] = change.clone();
        }
        value
    }

    fn names(plot: &Plot) -> Vec<&str> {
        plot.series.iter().map(|series| series.name.as_str()).collect()
    }

    #[test]
    fn repetitions_become_a_median_with_its_spread() {
        let runs = [3.0, 1.0, 2.0, 7.0].map(|rate| result("uring", 4, rate));
        let plot = Plot::new(&results([&runs[..], &[result("uring", 2, 9.0)]].concat()), None).unwrap();
        let [few, many] = plot.series[0].points.as_slice() else { panic!("{plot:?}") };
        assert_eq!((few.x, few.runs, many.x, many.runs), (Some(2), 1, Some(4), 4));
        assert_eq!(many.gb_per_s, Estimate { median: 2.5, low: 1.0, high: 7.0 });
        assert_eq!(few.gb_per_s, Estimate { median: 9.0, low: 9.0, high: 9.0 });
        assert_eq!((many.latency_us.p50.median, many.latency_us.p99.median), (400.0, 300.0));
        assert!(plot.subtitle().ends_with(". Medians of up to 4 runs, whiskers from the lowest to the highest."));
    }

    #[test]
    fn series_are_named_after_what_differs_and_the_rest_is_common() {
        let plot = Plot::new(&results(vec![result("uring", 1, 1.0), result("libaio", 2, 1.0)]), None).unwrap();
        assert_eq!((plot.over, names(&plot)), (Some(Over::QueueDepth), vec!["uring", "libaio"]));
        assert_eq!(plot.common, ["read", "direct", "1 thread", "blocks of 1 MiB"]);

        for (changes, name) in [
            (json!({"op": "randread"}), "uring, randread"),
            (json!({"direct": false}), "uring, buffered"),
            (json!({"threads": 4}), "uring, 4 threads"),
            (json!({"extents": 16}), "uring, 16 blocks per op"),
            (json!({"memory_offset": 8}), "uring, memory offset 8"),
            (json!({"threads": 2, "direct": false}), "uring, buffered, 2 threads"),
            (
                json!({"op": null, "ops": [{"op": "read", "weight": 70}, {"op": "write", "weight": 30}]}),
                "uring, read:70+write:30",
            ),
            (json!({"ops": [{"op": "read"}, {"op": "randwrite"}]}), "uring, read+randwrite"),
        ] {
            let plot = Plot::new(&results(vec![result("uring", 1, 1.0), with("uring", 2, changes)]), None).unwrap();
            assert_eq!((plot.series.len(), names(&plot)[1]), (2, name));
        }
        let plot =
            Plot::new(&results(vec![with("uring", 1, json!({"ops": [{"op": "read", "weight": 1}]}))]), None).unwrap();
        assert_eq!((names(&plot), plot.common[0].as_str()), (vec!["uring"], "read"));
    }

    #[test]
    fn what_varies_is_drawn_over() {
        let size = |depth, size: u64| with("uring", depth, json!({"block_size": size}));
        let plot = Plot::new(&results(vec![size(8, 4096), size(8, 1 << 20)]), None).unwrap();
        assert_eq!((plot.over, names(&plot)), (Some(Over::BlockSize), vec!["uring"]));
        assert_eq!(
            plot.series[0].points.iter().map(|point| point.x).collect::<Vec<_>>(),
            [Some(4096), Some(1 << 20)]
        );
        assert!(plot.common.contains(&"queue depth 8".to_owned()), "{:?}", plot.common);

        let both = results(vec![size(1, 4096), size(8, 1 << 20), size(8, 4096)]);
        let failure = Plot::new(&both, None).unwrap_err();
        assert!(matches!(&failure, Failure::Usage(sentence) if sentence.contains("--x queue-depth")), "{failure}");
        let plot = Plot::new(&both, Some(Over::QueueDepth)).unwrap();
        assert_eq!(names(&plot), ["uring, blocks of 4 KiB", "uring, blocks of 1 MiB"]);
        assert_eq!(plot.series[0].points.len(), 2);
        let plot = Plot::new(&both, Some(Over::BlockSize)).unwrap();
        assert_eq!(names(&plot), ["uring, queue depth 1", "uring, queue depth 8"]);
    }

    #[test]
    fn where_nothing_varies_there_is_a_point_without_a_place() {
        let same = results(vec![result("uring", 8, 1.0), result("uring", 8, 2.0), result("pthread", 8, 3.0)]);
        let plot = Plot::new(&same, None).unwrap();
        assert_eq!((plot.over, names(&plot)), (None, vec!["uring", "pthread"]));
        assert_eq!((plot.series[0].points.len(), plot.series[0].points[0].x), (1, None));
        assert!(
            plot.common.contains(&"queue depth 8".to_owned()) && plot.common.contains(&"blocks of 1 MiB".to_owned())
        );
        let plot = Plot::new(&same, Some(Over::QueueDepth)).unwrap();
        assert_eq!(plot.series[0].points[0].x, Some(8));
    }

    #[test]
    fn sizes_that_differ_are_told_apart() {
        for (bytes, text) in
            [(512, "512 B"), (4096, "4 KiB"), (4100, "4100 B"), (3 << 20, "3 MiB"), (1 << 50, "1024 TiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
