//! Which figures an axis names.

use plotters::coord::ranged1d::{BoldPoints, Ranged};
use plotters::coord::types::RangedCoordf64;

use super::style;

/// A figure on an axis, and how it is written there.
pub(crate) type Tick = (f64, String);

/// Round figures from 0 up to `largest`, at most `count` of them.
pub(crate) fn linear(largest: f64, count: usize) -> Vec<Tick> {
    if !(largest.is_finite() && largest > 0.0) {
        return vec![(0.0, "0".to_owned())];
    }
    let ticks = RangedCoordf64::from(0.0..largest).key_points(BoldPoints(count));
    let step = ticks.get(1).map_or(largest, |second| second - ticks[0]);
    let decimals = (-(step.log10() + 1e-9).floor()).max(0.0);
    // The step 2.5 has a digit more than its power of ten.
    let decimals = decimals + if (step * 10f64.powf(decimals)).fract().min(1.0) > 1e-6 { 1.0 } else { 0.0 };
    ticks.into_iter().map(|tick| (tick, format!("{tick:.*}", decimals as usize))).collect()
}

/// Powers of two from `first` to `last`, as many as have room in `room` pixels; sizes of memory if they are `bytes`.
pub(crate) fn log2(first: f64, last: f64, bytes: bool, room: i32) -> Vec<Tick> {
    if !(first > 0.0 && first <= last && last.is_finite()) {
        return Vec::new();
    }
    let label = |value: f64| if bytes { size(value) } else { value.to_string() };
    let powers = first.log2().ceil() as i32..=last.log2().floor() as i32;
    let mut ticks: Vec<Tick> = powers.map(f64::from).map(f64::exp2).map(|value| (value, label(value))).collect();
    if ticks.len() < 2 {
        ticks = vec![(first, label(first))];
        ticks.extend((last > first).then(|| (last, label(last))));
    }
    let widest = ticks.iter().map(|(_, label)| style::width(label, style::TICK)).max().unwrap_or(0) + 14;
    let fit = (room / widest).max(1) as usize;
    let every = ticks.len().div_ceil(fit).max(1);
    ticks.into_iter().step_by(every).collect()
}

/// Figures from `from` to `to` that are even on a logarithmic axis: 1, 2, 5, 10, 20, ... or fewer, or more.
pub(crate) fn log10(from: f64, to: f64) -> Vec<Tick> {
    const MOST: usize = 9;
    let decades = from.log10().floor() as i32..=to.log10().floor() as i32;
    let within = |digits: &[&str]| {
        // Read as it is written, there is no 0.30000000000000004.
        let figures =
            decades.clone().flat_map(|ten| digits.iter().map(move |digit| format!("{digit}e{ten}").parse()));
        let figures = figures.filter_map(Result::ok).filter(|figure: &f64| (from..=to).contains(figure));
        figures.map(|figure| (figure, figure.to_string())).collect::<Vec<Tick>>()
    };
    let candidates =
        [&["1"][..], &["1", "2", "5"], &["1", "1.5", "2", "3", "4", "5", "6", "7", "8", "9"]].map(within);
    let [decades, ..] = &candidates;
    let fits = candidates.iter().rev().find(|ticks| ticks.len() <= MOST);
    fits.unwrap_or(decades).clone()
}

/// A size as short as it can be said: `4 KiB`.
pub(crate) fn size(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..units.len()).rev().find(|unit| bytes >= 1024f64.powi(*unit as i32)).unwrap_or(0);
    format!("{} {}", (bytes / 1024f64.powi(unit as i32) * 100.0).round() / 100.0, units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(ticks: &[Tick]) -> Vec<&str> {
        ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn linear_ticks_are_round_and_within() {
        assert_eq!(labels(&linear(0.0, 5)), ["0"]);
        assert_eq!(labels(&linear(f64::NAN, 5)), ["0"]);
        for largest in [0.0123, 0.7, 1.0, 2.3, 9.99, 31.0, 260.0, 9000.0] {
            let ticks = linear(largest, 5);
            assert!((2..=5).contains(&ticks.len()), "{largest}: {ticks:?}");
            assert!(ticks.iter().all(|(tick, _)| (0.0..=largest).contains(tick)), "{largest}: {ticks:?}");
            for (tick, label) in &ticks {
                assert!((label.parse::<f64>().unwrap() - tick).abs() < largest * 1e-6, "{ticks:?}");
            }
        }
    }

    #[test]
    fn powers_of_two_are_thinned_to_their_room() {
        assert_eq!(labels(&log2(1.0, 64.0, false, 400)), ["1", "2", "4", "8", "16", "32", "64"]);
        assert_eq!(labels(&log2(3.0, 40.0, false, 400)), ["4", "8", "16", "32"]);
        assert_eq!(labels(&log2(10.0, 12.0, false, 400)), ["10", "12"]);
        assert_eq!(labels(&log2(10.0, 10.0, false, 400)), ["10"]);
        let sizes = log2(512.0, 64.0 * 1048576.0, true, 400);
        assert_eq!(labels(&sizes)[..2], ["512 B", "4 KiB"]);
        assert!(sizes.len() < 8, "{sizes:?}");
        assert!(log2(f64::INFINITY, 0.0, false, 400).is_empty());
    }

    #[test]
    fn logarithmic_ticks_are_few_and_never_none() {
        assert_eq!(labels(&log10(8.0, 1250.0)), ["10", "20", "50", "100", "200", "500", "1000"]);
        assert_eq!(labels(&log10(0.08, 0.31)), ["0.08", "0.09", "0.1", "0.15", "0.2", "0.3"]);
        assert_eq!(labels(&log10(0.5, 5e6)), ["1", "10", "100", "1000", "10000", "100000", "1000000"]);
        for from in [1.01, 2.1, 3.3, 7.7, 9.1] {
            let ticks = log10(from, from * 1.56);
            assert!(!ticks.is_empty() && ticks.len() <= 9, "{from}: {ticks:?}");
        }
    }

    #[test]
    fn sizes_are_said_shortly() {
        for (bytes, text) in
            [(512.0, "512 B"), (4096.0, "4 KiB"), (1536.0, "1.5 KiB"), (1048576.0, "1 MiB"), (3e9, "2.79 GiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
