//! Configurations: DeepSpeed's JSON, with its block and ours.

use aio::AioConfig;
use serde_json::{Map, Value};

use super::assert_readable;

/// Checks that an accepted configuration is in the documented ranges, has the values of the text, and reads back as the
/// same, also through a parsed value; and that a refused one gets one line that says why.
pub fn config(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let parsed = serde_json::from_str::<Value>(text.strip_prefix('\u{feff}').unwrap_or(text)).ok();
    match AioConfig::from_json(text) {
        Ok(config) => {
            let parsed = parsed.expect("what is not JSON is no configuration");
            assert_in_range(&config);
            assert_eq!(AioConfig::from_json_value(&parsed).as_ref().ok(), Some(&config));
            assert_eq!(AioConfig::from_json(&config.to_json()).as_ref().ok(), Some(&config));
            assert_as_given(&parsed, &config.to_json_value());
        }
        Err(error) => {
            let error = error.to_string();
            assert_readable(&error);
            assert!(!error.contains('\n') && error.len() < 1000, "not one line: {error:?}");
            // A parsed value has lost which key was there twice.
            if let Some(Ok(config)) = parsed.map(|value| AioConfig::from_json_value(&value)) {
                assert!(error.contains("is there twice"), "{error}, but its value gives {config:?}");
            }
        }
    }
}

/// The ranges that the documentation of the fields states.
fn assert_in_range(config: &AioConfig) {
    assert!((4096..=1 << 30).contains(&config.block_size) && config.block_size.is_multiple_of(4096), "{config:?}");
    assert!((1..=4096).contains(&config.queue_depth), "{config:?}");
    assert!((1..=256).contains(&config.intra_op_parallelism), "{config:?}");
    assert!(config.copy_threads <= 256, "{config:?}");
    assert!((1..=1 << 20).contains(&config.max_pending_ops), "{config:?}");
    assert!(config.arena_limit.is_none_or(|limit| limit >= 4096), "{config:?}");
    assert!(config.spin.as_nanos() <= 10_000_000, "{config:?}");
}

/// Checks that every whole number, boolean and backend name of the text is in the configuration.
fn assert_as_given(given: &Value, written: &Value) {
    let Some(top) = given.as_object() else { return };
    let is_whole = top.contains_key("aio") || top.contains_key("tensor_aio");
    for name in ["aio", "tensor_aio"] {
        let block = if is_whole { top.get(name).and_then(Value::as_object) } else { Some(top) };
        let written = written[name].as_object().expect("a block is an object");
        for (key, value) in block.into_iter().flat_map(written_as_given) {
            // Outside of blocks, a key may belong to the other block, or to none.
            let Some(written) = written.get(key) else { continue };
            if written.is_u64() == value.is_u64() && written.is_boolean() == value.is_boolean() {
                assert_eq!(written, value, "{key}");
            }
        }
    }
}

fn written_as_given(block: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    block.iter().filter(|(key, value)| value.is_u64() || value.is_boolean() || *key == "backend" && value.is_string())
}
