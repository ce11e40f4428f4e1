//! `tensor-aio swap`.

use std::collections::HashMap;
use std::process::Command;

use safetensors::tensor::{Dtype, TensorView};

use serde_json::Value;

use crate::model::{Model, whole};
use crate::support::bench::{Bench, backends};
use crate::support::schema;

/// Runs a swap that has to verify; checks its result against the schema and returns it.
fn swap(bench: &Bench, line: &str) -> Value {
    let text = bench.text(&format!("{line} --json"));
    assert!(text.starts_with("{\n  \"schema\": \"tensor-aio/swap/2\","), "{text}");
    let swapped = serde_json::from_str(&text).unwrap();
    schema::assert_valid("swap", &swapped);
    assert_eq!((&swapped["partial"], &swapped["verified"]), (&false.into(), &true.into()), "{swapped}");
    swapped
}

/// All passes of all backends.
fn passes(swapped: &Value) -> impl Iterator<Item = &Value> {
    swapped["backends"].as_array().unwrap().iter().flat_map(|row| row["passes"].as_array().unwrap())
}

#[test]
fn every_backend_verifies_every_tensor() {
    let bench = Bench::new();
    let swapped = swap(&bench, "swap --tensors 5 --tensor-size 300001");
    assert_eq!((&swapped["verified"], &swapped["bytes"]), (&true.into(), &1_500_005.into()));
    for backend in backends() {
        let rows = swapped["backends"].as_array().unwrap();
        let row = rows.iter().find(|row| row["backend"] == backend).unwrap();
        let passes = row["passes"].as_array().unwrap();
        assert_eq!((&row["available"], passes.len()), (&true.into(), 3), "{row}");
        for pass in passes {
            assert_eq!((&pass["verified"], &pass["memory"]["buffer_bytes"]), (&5.into(), &1_500_005.into()), "{row}");
        }
        for direction in ["swap_out", "swap_in"] {
            let [low, median, high] = ["low", "median", "high"].map(|key| row[direction]["gb_per_s"][key].as_f64());
            assert!(low > Some(0.0) && low <= median && median <= high, "{row}");
        }
    }
    assert!(bench.names().is_empty(), "{:?}", bench.names());
}

#[test]
fn one_file_of_extents_verifies_too() {
    let bench = Bench::new();
    for direct in ["auto", "off"] {
        let swapped =
            swap(&bench, &format!("swap --layout extents --tensors 5 --tensor-size 300001 --direct {direct}"));
        assert_eq!((&swapped["verified"], &swapped["layout"]), (&true.into(), &"extents".into()), "{swapped}");
        for pass in passes(&swapped) {
            let paths = ["bytes_direct", "bytes_buffered"].map(|key| pass["paths"][key].as_u64().unwrap());
            assert_eq!(paths[0] + paths[1], 2 * 5 * 300_001, "{pass}");
            assert!(direct != "off" || paths[0] == 0, "{pass}");
        }
    }
    assert!(bench.names().is_empty(), "{:?}", bench.names());
    let text = bench.text("swap --layout extents --tensors 2 --tensor-size 64K --backend pthread");
    assert!(text.contains("extents of one file") && text.contains("3 of 3"), "{text}");
}

#[test]
fn the_memory_of_one_pass_is_not_counted_for_the_next() {
    const SIZE: i64 = 64 << 20;
    let swapped = swap(&Bench::new(), "swap --tensors 4 --tensor-size 16M");
    for pass in passes(&swapped) {
        let memory =
            ["buffer_bytes", "peak_rss_bytes", "beyond_bytes"].map(|key| pass["memory"][key].as_i64().unwrap());
        // If the tensors counted as memory from before, or twice, this would be off by their size.
        assert!(memory[0] == SIZE && memory[1] > SIZE && memory[2].abs() < SIZE / 2, "{pass}");
    }
}

#[test]
fn without_a_command_it_swaps_and_prints_a_table() {
    let bench = Bench::new();
    let output = bench.command("--tensors 2 --tensor-size 64K").assert().success().get_output().clone();
    let text = String::from_utf8(output.stdout).unwrap();
    for words in ["backend", "swap-out GB/s", "swap-in GB/s", "CPU s/GB", "verified", "3 of 3", "pthread"] {
        assert!(text.contains(words), "{words}\n{text}");
    }
}

#[test]
fn one_pass_of_one_tensor_has_no_median() {
    let text = Bench::new().text("--tensors 1 --tensor-size 64K --passes 1 --backend pthread");
    assert!(text.contains(": 1 tensor, ") && text.contains("1 of 1") && !text.contains("median"), "{text}");
}

#[test]
fn the_tensors_of_a_file_are_swapped() {
    let bench = Bench::new();
    let data: Vec<u8> = (0..=255).collect();
    let view = |dtype, shape: &[usize], bytes: usize| TensorView::new(dtype, shape.to_vec(), &data[..bytes]).unwrap();
    let tensors = HashMap::from([
        ("../../escape".to_owned(), view(Dtype::F32, &[8, 8], 256)),
        ("scalar".to_owned(), view(Dtype::F64, &[], 8)),
        ("empty".to_owned(), view(Dtype::BF16, &[0, 7], 0)),
    ]);
    bench.file("model.safetensors", &safetensors::serialize(tensors, None).unwrap());
    for layout in ["files", "extents"] {
        let line = format!("swap --from model.safetensors model.safetensors --layout {layout}");
        let swapped = swap(&bench, &line);
        assert_eq!((&swapped["verified"], &swapped["tensors"]), (&true.into(), &6.into()));
    }
    assert_eq!(bench.names(), ["model.safetensors"]);
}

#[test]
fn the_tensors_of_a_folder_or_an_index_are_swapped() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path().join("d")).unwrap();
    Model { shard_size: 4000, ..whole(&["a", "b", "c"]) }.save(&bench, "d/m.safetensors.index.json");
    for path in ["d", "d/m.safetensors.index.json"] {
        let swapped = swap(&bench, &format!("swap --from {path} --passes 1"));
        assert_eq!((&swapped["tensors"], &swapped["bytes"]), (&3.into(), &12_000.into()), "{swapped}");
    }
}

#[test]
fn options_reach_the_engine() {
    let line =
        "swap --tensors 3 --tensor-size 1M --backend pthread --queue-depth 5 --block-size 64K --threads 2 --passes 4";
    let swapped = swap(&Bench::new(), line);
    let settings = ["queue_depth", "block_size", "threads", "passes"].map(|key| swapped[key].as_u64().unwrap());
    assert_eq!(settings, [5, 65536, 2, 4]);
    let rows = swapped["backends"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["backend"]), (1, &"pthread".into()));
}

#[test]
fn auto_is_one_backend_by_its_name() {
    let swapped = swap(&Bench::new(), "swap --tensors 1 --tensor-size 4K --backend auto");
    assert_eq!(swapped["backends"][0]["backend"], backends()[0]);
}

#[test]
fn what_is_the_users_stays() {
    let bench = Bench::new();
    bench.file("000000.tensor", b"precious");
    bench.file("tensor-aio-old", b"precious too");
    bench.text("swap --tensors 1 --tensor-size 64K --backend pthread");
    assert_eq!(bench.names(), ["000000.tensor", "tensor-aio-old"]);
    assert_eq!((bench.contents("000000.tensor"), bench.contents("tensor-aio-old").len()), (b"precious".to_vec(), 12));
}

#[test]
fn what_failed_is_described_too() {
    let bench = Bench::new();
    let program = crate::PROGRAM;
    let script = "ulimit -f 100 && exec \"$0\" swap --tensors 2 --tensor-size 5M --backend pthread --json";
    let output = Command::new("sh").args(["-c", script]).arg(program).current_dir(bench.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let failed: Value = serde_json::from_slice(&output.stdout).unwrap();
    schema::assert_valid("swap", &failed);
    assert_eq!((&failed["verified"], &failed["partial"]), (&false.into(), &false.into()));
    let backend = &failed["backends"][0];
    assert!(backend["reason"].as_str().unwrap().contains("File too large"), "{failed}");
    // A backend that failed runs no more passes.
    assert_eq!((&failed["passes"], backend["passes"].as_array().unwrap().len()), (&1.into(), 1), "{failed}");
}
