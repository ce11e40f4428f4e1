//! Between a JSON value and a configuration.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::text::shortened;
use super::{AioConfig, accepted, refused};
use crate::error::{Error, Result};

/// The keys of DeepSpeed's block.
const AIO: [&str; 7] = [
    "block_size",
    "queue_depth",
    "single_submit",
    "overlap_events",
    "intra_op_parallelism",
    "thread_count",
    "use_gds",
];
/// The keys of our block.
const TENSOR_AIO: [&str; 10] = [
    "copy_threads",
    "max_pending_ops",
    "arena_limit",
    "direct",
    "validate",
    "register_memory",
    "register_files",
    "preallocate",
    "spin_us",
    "backend",
];

/// A whole DeepSpeed configuration, or what its blocks contain.
pub(super) fn read(value: &Value) -> Result<AioConfig> {
    let mut config = AioConfig::default();
    let top = match value {
        Value::Null => return Ok(config),
        Value::Object(top) => top,
        other => return Err(Error::InvalidInput(format!("a configuration is a JSON object, not {}", shown(other)))),
    };
    let whole = ["aio", "tensor_aio"].into_iter().any(|name| top.contains_key(name));
    // A key that is only nearly one of ours tells a block with a typing error from a configuration without our blocks.
    if !whole && top.keys().any(|key| nearest(key, AIO.iter().chain(&TENSOR_AIO)).is_some()) {
        read_block(&mut config, "", top, &[AIO.as_slice(), &TENSOR_AIO].concat(), &[])?;
        return Ok(config);
    }
    for (name, known, elsewhere) in [("aio", AIO.as_slice(), &TENSOR_AIO[..]), ("tensor_aio", &TENSOR_AIO, &AIO)] {
        match top.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::Object(block)) => read_block(&mut config, name, block, known, elsewhere)?,
            Some(other) => {
                let accepted = "it must be an object, or null for defaults".into();
                return Err(Error::Config { key: name.into(), value: shown(other), accepted });
            }
        }
    }
    Ok(config)
}

/// Reads the keys of one object. `name` is empty if the object is not inside of another.
fn read_block(
    config: &mut AioConfig,
    name: &str,
    block: &Map<String, Value>,
    known: &[&str],
    elsewhere: &[&str],
) -> Result<()> {
    for (key, value) in block {
        if !known.contains(&key.as_str()) {
            return Err(unknown(name, key, value, known, elsewhere));
        }
        if !value.is_null() {
            set(config, key, value)?;
        }
    }
    let threads = |key| block.get(key).filter(|value| !value.is_null()).map(|value| integer(key, value)).transpose();
    if let (Some(new), Some(old)) = (threads("intra_op_parallelism")?, threads("thread_count")?)
        && new != old
    {
        let accepted = format!("it is the old name of intra_op_parallelism, which is {new}: leave one of them out");
        return Err(Error::Config { key: "thread_count".into(), value: old.to_string(), accepted });
    }
    Ok(())
}

fn set(config: &mut AioConfig, key: &str, value: &Value) -> Result<()> {
    match key {
        "block_size" => config.block_size = size(key, value)?,
        "queue_depth" => config.queue_depth = size(key, value)?,
        "single_submit" => config.single_submit = boolean(key, value)?,
        "overlap_events" => config.overlap_events = boolean(key, value)?,
        "intra_op_parallelism" | "thread_count" => config.intra_op_parallelism = size(key, value)?,
        "use_gds" if boolean(key, value)? => return Err(refused(key, true)),
        "use_gds" => {}
        "copy_threads" => config.copy_threads = size(key, value)?,
        "max_pending_ops" => config.max_pending_ops = size(key, value)?,
        "arena_limit" => config.arena_limit = Some(integer(key, value)?),
        "direct" => match value {
            Value::String(name) => config.direct = name.parse()?,
            other => return Err(refused(key, shown(other))),
        },
        "validate" => config.validate = boolean(key, value)?,
        "register_memory" => config.register_memory = boolean(key, value)?,
        "register_files" => config.register_files = boolean(key, value)?,
        "preallocate" => config.preallocate = boolean(key, value)?,
        "spin_us" => config.spin = microseconds(key, value)?,
        "backend" => match value {
            Value::String(name) => config.backend = Some(name.clone()),
            other => return Err(refused(key, shown(other))),
        },
        _ => return Err(refused(key, shown(value))),
    }
    Ok(())
}

fn boolean(key: &str, value: &Value) -> Result<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::Number(number) => match number.as_u64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        Value::String(text) if text.trim().eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.trim().eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
    .ok_or_else(|| Error::Config {
        key: key.into(),
        value: shown(value),
        // `use_gds: maybe` gets the same message as `use_gds: true`.
        accepted: accepted(key),
    })
}

fn size(key: &str, value: &Value) -> Result<usize> {
    usize::try_from(integer(key, value)?).map_err(|_| refused(key, shown(value)))
}

fn integer(key: &str, value: &Value) -> Result<u64> {
    // 2^64: the first float that is too large.
    const END: f64 = 18_446_744_073_709_551_616.0;
    let whole = |float: &f64| float.fract() == 0.0 && (0.0..END).contains(float);
    match value {
        Value::Number(number) => number.as_u64().or_else(|| number.as_f64().filter(whole).map(|float| float as u64)),
        Value::String(text) => {
            let text = text.trim();
            text.parse().ok().or_else(|| text.parse().ok().filter(whole).map(|float| float as u64))
        }
        _ => None,
    }
    .ok_or_else(|| refused(key, shown(value)))
}

fn microseconds(key: &str, value: &Value) -> Result<Duration> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    // Through nanoseconds, as 0.3 us is not exact and would end up as 299 ns. Bounded well above what is accepted.
    let nanoseconds = number.map(|us| (us * 1e3).round()).filter(|ns| (0.0..1e15).contains(ns));
    nanoseconds.map(|ns| Duration::from_nanos(ns as u64)).ok_or_else(|| refused(key, shown(value)))
}

fn unknown(name: &str, key: &str, value: &Value, known: &[&str], elsewhere: &[&str]) -> Error {
    let other = if name == "aio" { "tensor_aio" } else { "aio" };
    let hint = if elsewhere.contains(&key) {
        format!("; it belongs into the \"{other}\" block")
    } else if let Some(near) = nearest(key, known) {
        format!("; did you mean {near}?")
    } else {
        String::new()
    };
    // Quoted only if shortened or odd: usually it is a plain word.
    let plain = key.len() <= 40 && key.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c));
    let key = if plain { key.to_owned() } else { shortened(key) };
    let key = if name.is_empty() { key } else { format!("{name}.{key}") };
    let accepted = format!("there is no such key{hint} (known: {})", known.join(", "));
    Error::Config { key, value: shown(value), accepted }
}

/// The known key that differs least, if it is one or two slips away.
fn nearest<'a, 'k: 'a>(key: &str, known: impl IntoIterator<Item = &'a &'k str>) -> Option<&'k str> {
    let key: Vec<char> = key.chars().take(64).collect();
    let slips = known.into_iter().map(|known| (distance(&key, known), *known));
    slips.min().filter(|&(slips, _)| slips <= 2).map(|(_, known)| known)
}

/// Insertions, deletions and replacements that make one of the other (Levenshtein), case aside.
fn distance(a: &[char], b: &str) -> usize {
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (i, from) in b.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in a.iter().enumerate() {
            let replaced = diagonal + usize::from(!from.eq_ignore_ascii_case(to));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[a.len()]
}

/// A value as an error shows it.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
        Value::String(text) => shortened(text),
        scalar => scalar.to_string(),
    }
}

/// Whole ones without a fraction; others lose nothing that would be accepted.
pub(super) fn in_microseconds(spin: Duration) -> Value {
    match u64::try_from(spin.as_micros()) {
        Ok(whole) if spin.subsec_nanos().is_multiple_of(1000) => Value::from(whole),
        _ => Value::from(spin.as_nanos() as f64 / 1e3),
    }
}

pub(super) fn write(config: &AioConfig) -> Value {
    let AioConfig {
        block_size,
        queue_depth,
        single_submit,
        overlap_events,
        intra_op_parallelism,
        copy_threads,
        max_pending_ops,
        arena_limit,
        direct,
        validate,
        register_memory,
        register_files,
        preallocate,
        spin,
        backend,
    } = config;
    json!({
        "aio": {
            "block_size": block_size,
            "queue_depth": queue_depth,
            "single_submit": single_submit,
            "overlap_events": overlap_events,
            "intra_op_parallelism": intra_op_parallelism,
        },
        "tensor_aio": {
            "copy_threads": copy_threads,
            "max_pending_ops": max_pending_ops,
            "arena_limit": arena_limit,
            "direct": direct.to_string(),
            "validate": validate,
            "register_memory": register_memory,
            "register_files": register_files,
            "preallocate": preallocate,
            "spin_us": in_microseconds(*spin),
            "backend": backend,
        },
    })
}
