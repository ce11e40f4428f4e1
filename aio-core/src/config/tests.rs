use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn read(value: Value) -> AioConfig {
    AioConfig::from_json_value(&value).unwrap_or_else(|error| panic!("{value}: {error}"))
}

/// The sentence with which a text is refused.
fn refusal(text: &str) -> String {
    match AioConfig::from_json(text) {
        Ok(config) => panic!("{text} was read as {config:?}"),
        Err(error) => error.to_string(),
    }
}

fn assert_refused(text: &str, parts: &[&str]) {
    let sentence = refusal(text);
    assert!(sentence.len() < 500 && !sentence.contains('\n'), "{sentence}");
    for part in parts {
        assert!(sentence.contains(part), "{text}: {sentence}: no {part}");
    }
}

#[test]
fn defaults_are_in_range_and_what_missing_blocks_mean() {
    let default = AioConfig::default();
    default.validate_ranges().unwrap();
    for text in ["null", "{}", r#"{"aio": null}"#, r#"{"aio": {}, "tensor_aio": null}"#, r#"{"train_batch_size": 8}"#]
    {
        assert_eq!(AioConfig::from_json(text).unwrap(), default, "{text}");
    }
    let nulls = r#"{"block_size": null, "direct": null, "backend": null, "use_gds": null, "thread_count": null}"#;
    assert_eq!(AioConfig::from_json(nulls).unwrap(), default);
}

#[test]
fn a_deepspeed_configuration_is_read_and_what_is_not_ours_is_ignored() {
    let config = read(json!({
        "train_batch_size": "auto",
        "zero_optimization": { "stage": 3, "offload_param": { "device": "nvme", "buffer_size": 1e9 } },
        "block_size": "not ours, as there is an aio block",
        "aio": {
            "block_size": 262144, "queue_depth": 16, "thread_count": 2, "single_submit": true,
            "overlap_events": false, "use_gds": false
        },
        "tensor_aio": {
            "copy_threads": 3, "max_pending_ops": 9, "arena_limit": 1 << 30, "direct": "off", "validate": true, "register_memory": false,
            "register_files": false, "preallocate": false, "spin_us": 0, "backend": "libaio"
        }
    }));
    let expected = AioConfig {
        block_size: 262_144,
        queue_depth: 16,
        single_submit: true,
        overlap_events: false,
        intra_op_parallelism: 2,
        copy_threads: 3,
        max_pending_ops: 9,
        arena_limit: Some(1 << 30),
        direct: DirectMode::Off,
        validate: true,
        register_memory: false,
        register_files: false,
        preallocate: false,
        spin: Duration::ZERO,
        backend: Some("libaio".into()),
    };
    assert_eq!(config, expected);
}

#[test]
fn the_contents_of_blocks_are_read_without_the_blocks() {
    let config = read(json!({ "queue_depth": 7, "backend": "pthread" }));
    assert_eq!((config.queue_depth, config.backend.as_deref()), (7, Some("pthread")));
    // One slip does not turn a block into a configuration without blocks.
    assert_refused(r#"{"queue_dept": 7}"#, &["queue_dept = 7", "did you mean queue_depth?"]);
    assert_refused(r#"{"queue_depth": 7, "train_batch_size": 8}"#, &["train_batch_size = 8", "known: block_size, "]);
}

#[test]
fn numbers_and_booleans_are_read_as_people_write_them() {
    for depth in [json!(64), json!(64.0), json!(6.4e1), json!("64"), json!(" 64 "), json!("64.0"), json!("6.4e1")] {
        assert_eq!(read(json!({ "queue_depth": depth })).queue_depth, 64);
    }
    for (yes, no) in [
        (json!(true), json!(false)),
        (json!("true"), json!("false")),
        (json!("True"), json!(" False")),
        (json!("TRUE"), json!("FALSE")),
        (json!(1), json!(0)),
    ] {
        assert!(read(json!({ "single_submit": yes })).single_submit);
        let config = read(json!({ "overlap_events": no, "use_gds": no }));
        assert!(!config.overlap_events);
    }
    for (mode, expected) in [("auto", DirectMode::Auto), ("On", DirectMode::On), (" OFF ", DirectMode::Off)] {
        assert_eq!(read(json!({ "direct": mode })).direct, expected);
    }
    for (spin, nanoseconds) in [(json!(5), 5000), (json!("7.5"), 7500), (json!(0.3), 300), (json!(1e4), 10_000_000)] {
        assert_eq!(read(json!({ "spin_us": spin })).spin, Duration::from_nanos(nanoseconds));
    }
    let most = read(json!({ "arena_limit": u64::MAX }));
    assert_eq!(most.arena_limit, Some(u64::MAX));
}

#[test]
fn the_old_name_of_the_thread_count() {
    let both = |new: Value, old: Value| json!({ "aio": { "intra_op_parallelism": new, "thread_count": old } });
    assert_eq!(read(both(json!(3), json!("3"))).intra_op_parallelism, 3);
    assert_eq!(read(both(json!(null), json!(4))).intra_op_parallelism, 4);
    assert_eq!(read(both(json!(5), json!(null))).intra_op_parallelism, 5);
    assert_refused(&both(json!(3), json!(2)).to_string(), &["thread_count = 2", "intra_op_parallelism, which is 3"]);
}

#[test]
fn a_value_that_is_not_accepted_is_named_with_what_would_be() {
    let numbers =
        ["0", "-1", "1.5", "1e30", "-0.5", "18446744073709551616", "9223372036854775808", "[]", "{}", "true"];
    let strings = [r#""many""#, r#""""#, r#""NaN""#, r#""inf""#, r#""-1""#, r#""0x10""#];
    for key in ["block_size", "queue_depth", "intra_op_parallelism", "thread_count", "max_pending_ops"] {
        for bad in numbers.iter().chain(&strings) {
            let shown_key = if key == "thread_count" && !strings.contains(bad) { "" } else { key };
            assert_refused(
                &format!("{{\"{key}\": {bad}}}"),
                &[shown_key, " is not valid: it must be a whole number from"],
            );
        }
    }
    for bad in ["0", "4095", "-1", "18446744073709551616", "\"8GB\"", "1.5"] {
        assert_refused(
            &format!("{{\"arena_limit\": {bad}}}"),
            &["arena_limit = ", &format!("at least {}", page_size())],
        );
    }
    for bad in ["-1", "10000.001", "10001", "1e300", "\"NaN\"", "\"inf\"", "true"] {
        assert_refused(&format!("{{\"spin_us\": {bad}}}"), &["spin_us = ", "from 0 to 10000"]);
    }
    // What is shown is what was refused, and not rounded into the range.
    assert_refused(r#"{"spin_us": 10000.001}"#, &["spin_us = 10000.001 "]);
    for key in ["single_submit", "overlap_events", "validate", "register_memory", "register_files", "preallocate"] {
        for bad in ["2", "-1", "1.0", "\"yes\"", "\"\"", "[true]"] {
            assert_refused(&format!("{{\"{key}\": {bad}}}"), &[key, "it must be true or false"]);
        }
    }
    for bad in ["true", "\"always\"", "1"] {
        assert_refused(&format!("{{\"direct\": {bad}}}"), &["direct = ", "\"auto\", \"on\" or \"off\""]);
    }
    assert_refused(r#"{"backend": 1}"#, &["backend = 1", "name of a backend"]);
    for bad in ["true", "\"True\"", "1", "\"maybe\""] {
        assert_refused(&format!("{{\"use_gds\": {bad}}}"), &["use_gds", "GPUDirect Storage is not supported"]);
    }
    assert_refused(r#"{"block_size": 5000}"#, &["block_size = 5000", "a multiple of the page size"]);
}

#[test]
fn the_ends_of_the_ranges_are_accepted() {
    type Change = fn(&mut AioConfig);
    let set = |change: Change| {
        let mut config = AioConfig::default();
        change(&mut config);
        config.validate_ranges()
    };
    let inside: [Change; 12] = [
        |c| c.block_size = page_size(),
        |c| c.block_size = 1 << 30,
        |c| c.queue_depth = 1,
        |c| c.queue_depth = 4096,
        |c| c.intra_op_parallelism = 256,
        |c| c.copy_threads = 0,
        |c| c.copy_threads = 256,
        |c| c.max_pending_ops = 1,
        |c| c.max_pending_ops = 1 << 20,
        |c| c.arena_limit = Some(page_size() as u64),
        |c| c.spin = Duration::ZERO,
        |c| c.spin = Duration::from_millis(10),
    ];
    for (index, change) in inside.into_iter().enumerate() {
        set(change).unwrap_or_else(|error| panic!("{index}: {error}"));
    }
    let outside: [(&str, Change); 10] = [
        ("block_size", |c| c.block_size = 0),
        ("block_size", |c| c.block_size = (1 << 30) + page_size()),
        ("block_size", |c| c.block_size = page_size() + 1),
        ("queue_depth", |c| c.queue_depth = 4097),
        ("intra_op_parallelism", |c| c.intra_op_parallelism = 257),
        ("copy_threads", |c| c.copy_threads = 257),
        ("max_pending_ops", |c| c.max_pending_ops = (1 << 20) + 1),
        ("arena_limit", |c| c.arena_limit = Some(1)),
        ("spin_us", |c| c.spin = Duration::from_nanos(10_000_001)),
        ("spin_us", |c| c.spin = Duration::MAX),
    ];
    for (expected, change) in outside {
        match set(change) {
            Err(Error::Config { key, .. }) => assert_eq!(key, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn keys_that_are_not_known_are_named_with_the_likely_one() {
    let aio = r#"{"aio": {"blocksize": 4096}}"#;
    assert_refused(aio, &["aio.blocksize = 4096", "did you mean block_size?", "queue_depth, single_submit"]);
    assert_refused(r#"{"tensor_aio": {"Validate": true}}"#, &["tensor_aio.Validate", "did you mean validate?"]);
    assert_refused(r#"{"aio": {"direct": "on"}}"#, &["aio.direct", "belongs into the \"tensor_aio\" block"]);
    assert_refused(r#"{"tensor_aio": {"queue_depth": 1}}"#, &["tensor_aio.queue_depth", "into the \"aio\" block"]);
    assert!(!refusal(r#"{"aio": {"something": 1}}"#).contains("did you mean"));
    let long = format!(r#"{{"aio": {{"{}": "{}"}}}}"#, "k".repeat(100_000), "\\n".repeat(100_000));
    assert_refused(&long, &["there is no such key"]);
    assert_refused(r#"{"aio": {"": 1}}"#, &["there is no such key"]);
    for block in ["[]", "1", "true", "\"on\""] {
        assert_refused(&format!("{{\"aio\": {block}}}"), &["aio = ", "must be an object, or null"]);
    }
    for top in ["[]", "1", "\"aio\"", "false"] {
        assert_refused(top, &["a configuration is a JSON object, not "]);
    }
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let text = "{\"aio\": {\"queue_depth\": 7}}";
    assert_eq!(AioConfig::from_json(&format!("\u{feff}{text}")).unwrap().queue_depth, 7);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, format!("\u{feff}{text}").as_bytes()).unwrap();
    assert_eq!(AioConfig::from_json_file(file.path()).unwrap().queue_depth, 7);
    assert_refused("\u{feff}\u{feff}{}", &["the configuration is not valid JSON"]);
}

#[test]
fn text_that_is_not_json_is_refused_with_the_place() {
    for (text, parts) in [
        ("", ["EOF", "line 1 column 0"]),
        ("{\n  \"aio\": {\n    \"queue_depth\": 8,\n  }\n}", ["trailing comma", "line 4 column 3"]),
        ("{\"aio\": {\"queue_depth\": NaN}}", ["expected value", "line 1 column"]),
        ("{\"aio\": {\"queue_depth\": 1e999}}", ["number out of range", "line 1 column"]),
        ("{\"aio\": {}} x", ["trailing characters", "line 1 column 13"]),
        (
            "{\n\"aio\": {\"queue_depth\": 8, \"queue_depth\": 9}}",
            ["\"queue_depth\" is there twice", "line 2 column"],
        ),
        ("{\"aio\": {},\n \"aio\": {}}", ["\"aio\" is there twice", "line 2 column"]),
        ("{\"zero\": {\"stage\": 1, \"stage\": 2}}", ["\"stage\" is there twice", "line 1 column"]),
    ] {
        assert_refused(text, &[&["the configuration is not valid JSON"], parts.as_slice()].concat());
    }
    for deep in ["[".repeat(1 << 20), "{\"aio\":".repeat(1 << 18), format!("{{\"aio\": {}", "[".repeat(200))] {
        assert_refused(&deep, &["recursion limit exceeded", "line 1 column"]);
    }
}

#[test]
fn files_are_named_in_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ds_config.json");
    let name = path.display().to_string();
    let refusal = || AioConfig::from_json_file(&path).unwrap_err().to_string();

    let missing = refusal();
    assert!(missing.starts_with(&format!("cannot open {name}")) && missing.contains("No such file"), "{missing}");
    for (contents, part) in [
        (&b"{"[..], "line 1 column 1"),
        (b"{\"aio\": {\"queue_depth\": 0}}", "queue_depth = 0"),
        (b"{\"aio\": \xff}", "not UTF-8 text, at byte 8"),
        (&vec![b' '; (16 << 20) + 1], "larger than any configuration"),
    ] {
        std::fs::write(&path, contents).unwrap();
        let sentence = refusal();
        assert!(sentence.contains(&name) && sentence.contains(part), "{sentence}");
    }
    let directory = AioConfig::from_json_file(folder.path()).unwrap_err().to_string();
    assert!(directory.contains(&folder.path().display().to_string()), "{directory}");

    std::fs::write(&path, AioConfig::default().to_json()).unwrap();
    assert_eq!(AioConfig::from_json_file(&path).unwrap(), AioConfig::default());
}

#[test]
fn what_is_written_for_deepspeed_has_only_its_keys() {
    let written = AioConfig::default().to_json_value();
    let expected = json!({
        "block_size": 1_048_576, "queue_depth": 32, "single_submit": false, "overlap_events": true,
        "intra_op_parallelism": 1
    });
    assert_eq!(written["aio"], expected);
    assert_eq!(written.as_object().map(|top| top.len()), Some(2));
}

fn configs() -> impl Strategy<Value = AioConfig> {
    let sizes = (1..=1_usize << 18, 1..=4096_usize, 1..=256_usize, 0..=256_usize, 1..=1_usize << 20);
    let rest = (
        prop::option::of(page_size() as u64..),
        prop::sample::select(vec![DirectMode::Auto, DirectMode::On, DirectMode::Off]),
        prop_oneof![0..=10_000_000_u64, (0..=10_000_u64).prop_map(|us| us * 1000)],
        prop::option::of(any::<String>()),
        any::<[bool; 6]>(),
    );
    (sizes, rest).prop_map(|((blocks, depth, threads, copiers, pending), (limit, direct, spin, backend, flags))| {
        AioConfig {
            block_size: (blocks * 4096).next_multiple_of(page_size()),
            queue_depth: depth,
            single_submit: flags[0],
            overlap_events: flags[1],
            intra_op_parallelism: threads,
            copy_threads: copiers,
            max_pending_ops: pending,
            arena_limit: limit,
            direct,
            validate: flags[2],
            register_memory: flags[3],
            register_files: flags[4],
            preallocate: flags[5],
            spin: Duration::from_nanos(spin),
            backend,
        }
    })
}

/// Any JSON, with our keys in it often enough to reach what is behind them.
fn values() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "-?[0-9]{1,25}(\\.[0-9]{1,3})?(e[0-9]{1,3})?".prop_map(Value::from),
    ];
    let names = ["aio", "tensor_aio", "block_size", "queue_depth", "thread_count", "intra_op_parallelism", "spin_us"];
    let more = ["arena_limit", "direct", "use_gds", "validate", "backend"];
    let names: Vec<String> = names.into_iter().chain(more).map(String::from).collect();
    let key = prop_oneof![5 => prop::sample::select(names), 1 => any::<String>()];
    scalar.prop_recursive(3, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back_as_the_same(config in configs()) {
        config.validate_ranges().unwrap();
        prop_assert_eq!(&AioConfig::from_json(&config.to_json()).unwrap(), &config);
        prop_assert_eq!(&AioConfig::from_json_value(&config.to_json_value()).unwrap(), &config);
        let mut bare = config.to_json_value()["aio"].clone();
        let ours = config.to_json_value()["tensor_aio"].clone();
        bare.as_object_mut().unwrap().extend(ours.as_object().unwrap().clone());
        prop_assert_eq!(&AioConfig::from_json_value(&bare).unwrap(), &config);
    }

    #[test]
    fn no_json_panics_and_what_is_accepted_is_in_range(value in values()) {
        let text = AioConfig::from_json(&value.to_string());
        match AioConfig::from_json_value(&value) {
            Ok(config) => {
                config.validate_ranges().unwrap();
                // Not compared: a float may be read back one unit in the last place off.
                prop_assert!(text.is_ok());
            }
            Err(error) => prop_assert!(error.to_string().len() < 1000),
        }
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = AioConfig::from_json(&text);
    }
}
