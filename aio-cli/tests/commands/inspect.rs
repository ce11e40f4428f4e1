//! `tensor-aio inspect`.

use serde_json::{Value, json};

use crate::model::{Model, whole};
use crate::support::bench::Bench;
use crate::support::schema::assert_valid;

fn inspect(bench: &Bench, line: &str) -> Value {
    let found = bench.json(&format!("inspect {line} --json"));
    assert_valid("inspect", &found);
    found
}

#[test]
fn a_file_a_folder_and_an_index_are_listed() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path().join("d")).unwrap();
    whole(&["a", "b"]).save(&bench, "m.safetensors");
    let sharded = Model { shard_size: 4000, ..whole(&["a", "b", "c"]) };
    sharded.save(&bench, "d/m.safetensors.index.json");
    Model { checksums: false, ..whole(&["a"]) }.save(&bench, "plain.safetensors");
    let found = inspect(&bench, "m.safetensors d d/m.safetensors.index.json plain.safetensors");
    let of = |key: &str| found["paths"].as_array().unwrap().iter().map(|path| path[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("bytes"), [8000, 12000, 12000, 4000]);
    assert_eq!(of("checksums"), [2, 3, 3, 0]);
    assert_eq!(of("error"), vec![Value::Null; 4]);
    assert_eq!(of("metadata"), vec![json!({"format": "pt\u{7}"}); 4]);
    assert_eq!(of("files").iter().map(|files| files.as_array().unwrap().len()).collect::<Vec<_>>(), [1, 3, 3, 1]);
    let tensor = &found["paths"][1]["tensors"][2];
    assert_eq!(
        (&tensor["name"], &tensor["dtype"], &tensor["shape"], &tensor["bytes"], &tensor["file"]),
        (&json!("c"), &json!("F32"), &json!([10, 100]), &json!(4000), &json!(2))
    );
    assert!(tensor["checksum"].is_string() && found["paths"][3]["tensors"][0]["checksum"].is_null(), "{found:#}");

    let text = bench.text("inspect m.safetensors d plain.safetensors");
    for words in [
        "m.safetensors: 2 tensors, 7.8 KiB in 1 file, all with checksums",
        "d: 3 tensors, 11.7 KiB in 3 files, all with checksums",
        "plain.safetensors: 1 tensor, 3.9 KiB in 1 file, no checksums",
        "┆ m-00003-of-00003.safetensors │",
        "[10, 100]",
        "F32",
        "metadata: format = pt\\u{7}",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
}

#[test]
fn names_are_escaped_for_people_and_whole_for_programs() {
    let bench = Bench::new();
    let odd = "a\u{1b}[31m\n\r\u{9b}é";
    whole(&[odd, ""]).save(&bench, "m.safetensors");
    let text = bench.text("inspect m.safetensors");
    assert!(text.contains("a\\u{1b}[31m\\n\\r\\u{9b}é") && text.contains("\"\""), "{text}");
    assert!(!text.contains(|letter: char| letter.is_control() && letter != '\n'), "{text:?}");
    assert_eq!(inspect(&bench, "m.safetensors")["paths"][0]["tensors"][0]["name"], odd);
}

#[test]
fn a_path_that_cannot_be_read_keeps_no_other_from_being_shown() {
    let bench = Bench::new();
    whole(&["a"]).save(&bench, "m.safetensors");
    bench.file("bad.safetensors", b"12345678{}");
    let line = "inspect bad.safetensors m.safetensors missing";
    let output = bench.command(line).assert().code(1).get_output().clone();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(stdout.starts_with("m.safetensors: 1 tensor") && !stdout.contains("bad"), "{stdout}");
    assert!(stderr.starts_with("error: bad.safetensors is not a usable safetensors file: "), "{stderr}");
    assert!(stderr.contains("\ncannot open missing: No such file"), "{stderr}");
    let output = bench.command(&format!("{line} --json")).assert().code(1).get_output().clone();
    let found = serde_json::from_slice(&output.stdout).unwrap();
    assert_valid("inspect", &found);
    assert!(found["paths"][0]["error"].is_string() && found["paths"][1]["error"].is_null(), "{found:#}");
    bench.refused("inspect bad.safetensors", 1);
    bench.refused("inspect .", 1);
    bench.refused("inspect", 2);
}

#[test]
fn a_file_without_tensors_is_one() {
    let bench = Bench::new();
    bench.file("m.safetensors", b"\x02\0\0\0\0\0\0\0{}");
    assert_eq!(bench.text("inspect m.safetensors"), "m.safetensors: no tensors in 1 file\n");
    assert_eq!(inspect(&bench, "m.safetensors")["paths"][0]["tensors"], json!([]));
}
