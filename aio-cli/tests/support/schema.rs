//! Checks results against the JSON Schemas in `docs/schema/`, one per command.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// Fails with everything in `result` that `docs/schema/<command>.json` does not allow.
pub(crate) fn assert_valid(command: &str, result: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/schema/{command}.json"));
    let schema: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let errors: Vec<_> =
        validator(&schema).iter_errors(result).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{}\n{result:#}", errors.join("\n"));
}

fn validator(schema: &Value) -> jsonschema::Validator {
    jsonschema::meta::validate(schema).expect("the schema is one itself");
    jsonschema::validator_for(schema).unwrap()
}
