//! From a file or a text to a JSON value, with errors that say where.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_core::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::{Error, IoError, OpKind, Result};
use crate::printable::shown;

/// The most that is read of a file, in bytes: far more than any configuration has, and less than would hurt.
const MOST: u64 = 16 << 20;

/// The text of a configuration file.
pub(super) fn read(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes));
    if let Err(source) = read {
        return Err(IoError::new(OpKind::Open, path, source).into());
    }
    if bytes.len() as u64 > MOST {
        return Err(Error::InvalidInput(format!("{}: larger than any configuration, 16 MiB", shown(path))));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::InvalidInput(format!("{}: not UTF-8 text, at byte {at}", shown(path)))
    })
}

/// Says in an error which file it is about.
pub(super) fn in_file(path: &Path, error: Error) -> Error {
    let path = shown(path);
    match error {
        Error::Config { key, value, accepted } => {
            Error::Config { key, value, accepted: format!("{accepted} (in {path})") }
        }
        Error::InvalidInput(what) => Error::InvalidInput(format!("{path}: {what}")),
        other => other,
    }
}

/// The value of a text in which no object has a key twice.
pub(super) fn parse(text: &str) -> Result<Value> {
    // Some editors begin files with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match serde_json::from_str(text) {
        Ok(Unambiguous(value)) => Ok(value),
        Err(error) => Err(Error::InvalidInput(format!("the configuration is not valid JSON: {error}"))),
    }
}

/// At most so much of a text that an error stays readable.
pub(super) fn shortened(text: &str) -> String {
    const CHARS: usize = 60;
    match text.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A value like [`Value`], which would silently keep the last of two values of one key. DeepSpeed refuses that too.
struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Values).map(Self)
    }
}

struct Values;

impl<'de> Visitor<'de> for Values {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Unambiguous(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(de::Error::custom(format_args!("the key {} is there twice", shortened(&key))));
            }
            let Unambiguous(value) = entries.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}
