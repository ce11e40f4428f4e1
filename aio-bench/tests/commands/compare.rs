//! `aio-bench compare`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::bench::{Bench, backends};
use crate::support::schema::assert_valid;

/// Small and short enough to finish at once.
const SMALL: &str =
    "compare --runtime 0.001 --size 2M --tensors 4 --tensor-size 8K --random-reads 16 --threads 2 --queue-depth 4";

const WORKLOADS: [&str; 13] = [
    "read",
    "overwrite",
    "save",
    "save-durable",
    "cached-read",
    "tensors-in",
    "tensors-out",
    "extents-in",
    "extents-out",
    "random-read",
    "load-cold",
    "load-warm",
    "save-model",
];

/// Those on models.
const MODELS: [&str; 3] = ["load-cold", "load-warm", "save-model"];

fn results(report: &Value) -> impl Iterator<Item = &Value> {
    report["workloads"].as_array().unwrap().iter().flat_map(|workload| workload["results"].as_array().unwrap())
}

fn result<'a>(report: &'a Value, contender: &str) -> &'a Value {
    results(report).find(|result| result["contender"] == contender).unwrap()
}

#[test]
fn everybody_does_every_workload() {
    let bench = Bench::new();
    let report = bench.json(&format!("{SMALL} --rounds 2 --json"));
    assert_valid("compare", &report);
    let names: Vec<_> = report["workloads"].as_array().unwrap().iter().map(|workload| &workload["name"]).collect();
    assert_eq!(names, WORKLOADS);
    assert_eq!((&report["partial"], &report["rounds"]), (&false.into(), &2.into()));
    let contenders = report["contenders"].as_array().unwrap();
    for contender in contenders {
        let (name, available) = (contender["name"].as_str().unwrap(), contender["available"] == true);
        let takes_part = |result: &&Value| {
            result["contender"] == name && !(available && result["error"].as_str().is_some_and(does_not_take_part))
        };
        for result in results(&report).filter(takes_part) {
            let figures = result["gb_per_s"]["median"].as_f64().is_some_and(|rate| rate > 0.0);
            assert_eq!(
                (figures, result["rounds"] == 2, result["error"].is_null()),
                (available, available, available),
                "{result}"
            );
        }
        assert_eq!(contender["reason"].is_string(), !available, "{contender}");
    }
    let ours = backends().into_iter().map(|backend| format!("tensor-aio {backend}"));
    for name in ours.chain(["std::fs", "std::fs, 2 threads", "mmap + copy", "safetensors"].map(str::to_owned)) {
        let contender = contenders.iter().find(|contender| contender["name"] == *name).unwrap();
        assert_eq!(contender["available"], true, "{contender}");
    }
    for workload in report["workloads"].as_array().unwrap() {
        let is_of_model = workload["block_size"].is_null();
        assert_eq!(is_of_model, MODELS.contains(&name_of(workload)), "{workload}");
        let absent = workload["results"].as_array().unwrap().iter().filter(|result| {
            let of_name = |name: &str| contenders.iter().any(|it| it["name"] == name && it["available"] == true);
            of_name(result["contender"].as_str().unwrap()) && result["error"].as_str().is_some_and(does_not_take_part)
        });
        let absent: Vec<_> = absent.map(|result| result["contender"].as_str().unwrap()).collect();
        let expected = if is_of_model { "mmap + copy" } else { "safetensors" };
        assert!(absent.contains(&expected) && !absent.contains(&"std::fs"), "{absent:?}: {workload}");
        assert!(is_of_model || absent.len() == 1, "{absent:?}: {workload}");
    }
    assert_eq!(bench.names(), Vec::<String>::new(), "all files are gone");
}

fn does_not_take_part(error: &str) -> bool {
    error.starts_with("does not take part: ")
}

fn name_of(workload: &Value) -> &str {
    workload["name"].as_str().unwrap()
}

#[test]
fn models_are_loaded_and_saved() {
    let bench = Bench::new();
    let text = bench.text(&format!("{SMALL} --rounds 1 --only load-cold,load-warm,save-model --out report"));
    for part in [
        "load-cold: a model is loaded into fresh memory, cold; 2.0 MiB in 4 files\n",
        "load-warm: a model that lies in the page cache",
        "save-model: a new model is saved, and synced; 2.0 MiB in 4 files\n",
        "safetensors: maps the files of models",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let report: Value = serde_json::from_slice(&bench.contents("report/report.json")).unwrap();
    assert_valid("compare", &report);
    let page = String::from_utf8(bench.contents("report/report.md")).unwrap();
    assert!(page.contains("## save-model\n\nA new model is saved, and synced; 2.0 MiB in 4 files.\n"), "{page}");
}

#[test]
fn a_model_that_does_not_fit_into_memory_is_an_error_that_names_what_takes_less() {
    let bench = Bench::new();
    let line = "compare --only load-cold --size 512M --rounds 1 --threads 1 --runtime 0.001 --json";
    let script = format!("ulimit -v 250000 && exec \"$0\" {line}");
    let mut command = std::process::Command::new("sh");
    let output = command.args(["-c", &script, crate::PROGRAM]).current_dir(bench.path()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("a smaller --size may"), "{stderr}");
}

#[test]
fn a_report_is_written_and_shown() {
    let bench = Bench::new();
    let text = bench.text(&format!("{SMALL} --rounds 1 --only read,save --out a/report"));
    for part in [
        "one round",
        "read: a large file",
        "save: a new large file",
        "mmap + copy",
        "of the best fio",
        "CPU s per GB",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains("overwrite") && !text.ends_with("\n\n"), "{text}");
    let mut names: Vec<_> =
        fs::read_dir(bench.path().join("a/report")).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["report.json", "report.md", "report.svg"]);
    let report: Value = serde_json::from_slice(&bench.contents("a/report/report.json")).unwrap();
    assert_valid("compare", &report);
    let page = String::from_utf8(bench.contents("a/report/report.md")).unwrap();
    for part in ["## read\n\nA large file is read, cold; 2.0 MiB, blocks of", "| mmap + copy |", "report.svg"] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    let picture = String::from_utf8(bench.contents("a/report/report.svg")).unwrap();
    assert!(picture.contains("<svg") && picture.contains("mmap + copy"), "{picture}");
}

#[test]
fn who_fails_is_shown_with_the_reason() {
    let bench = Bench::new();
    fs::create_dir(bench.path().join("bin")).unwrap();
    let fio = |script: &str| {
        let path = bench.path().join("bin/fio");
        fs::write(&path, format!("#!/bin/sh\n[ \"$1\" = --version ] && exit\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let run = || {
        let mut command = bench.command(&format!("{SMALL} --rounds 1 --only read --json"));
        let output = command.env("PATH", bench.path().join("bin")).assert().success().get_output().clone();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_valid("compare", &report);
        assert!(report["workloads"][0]["best_fio_gb_per_s"].is_null(), "{report}");
        assert!(result(&report, "std::fs")["gb_per_s"].is_object(), "the others go on: {report}");
        result(&report, "fio io_uring")["error"].as_str().unwrap().to_owned()
    };
    assert!(run().contains("no fio on PATH"));
    fio("echo broken >&2; exit 3");
    let error = run();
    assert!(error.contains("exit status: 3") && error.contains("broken"), "{error}");
    fio(
        r#"echo '{"jobs":[{"error":0,"usr_cpu":1,"sys_cpu":1,"read":{"io_bytes":4096,"bw_bytes":1e9},"write":{"io_bytes":0,"bw_bytes":0}}]}'"#,
    );
    let error = run();
    assert!(error.contains("moved 4096 of 2097152 bytes"), "{error}");
    fio("echo what");
    assert!(run().contains("fio's output"));
}

#[test]
fn the_work_is_repeated_until_the_time_says_something() {
    let bench = Bench::new();
    let report = bench.json("compare --size 1M --only read,save --rounds 1 --threads 1 --runtime 0.05 --json");
    assert_eq!(report["runtime_seconds"], 0.05);
    for (workload, result) in report["workloads"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|workload| workload["results"].as_array().unwrap().iter().map(move |result| (workload, result)))
    {
        let Some(rate) = result["gb_per_s"]["median"].as_f64() else { continue };
        let bytes = (workload["bytes"].as_u64().unwrap() * result["passes"].as_u64().unwrap()) as f64;
        assert!(bytes / 1e9 / rate >= 0.0499, "{result}");
    }
}

/// It takes a millisecond for each pass, and its clock shows no less.
#[test]
fn fio_makes_many_passes_in_one_run() {
    let bench = Bench::new();
    fs::create_dir(bench.path().join("bin")).unwrap();
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && exit\nfor word; do case $word in --loops=*) n=${word#*=};; esac; \
                  done\necho \"$n\" >>\"${0%/*}/../passes\"\necho '{\"jobs\":[{\"error\":0,\"usr_cpu\":40,\"sys_cpu\":60,\
                  \"read\":{\"io_bytes\":'$((n * 2097152))',\"bw_bytes\":2097152000},\"write\":{\"io_bytes\":0,\"bw_bytes\":0}}]}'\n";
    fs::write(bench.path().join("bin/fio"), script).unwrap();
    fs::set_permissions(bench.path().join("bin/fio"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = bench
        .command(&format!("{SMALL} --runtime 0.1 --rounds 1 --only read --json").replace("--runtime 0.001 ", ""));
    let output = command.env("PATH", bench.path().join("bin")).assert().success().get_output().clone();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let fio = result(&report, "fio io_uring");
    assert_eq!((&fio["rounds"], &fio["passes"]), (&1.into(), &105.into()), "{fio}");
    let [rate, cpu] =
        [&fio["gb_per_s"]["median"], &fio["cpu_seconds_per_gb"]["median"]].map(|it| it.as_f64().unwrap());
    assert!((rate - 2.097152).abs() < 1e-6 && (cpu - 1.0 / 2.097152).abs() < 1e-6, "{fio}");
    // Of both fio lines: the round that does not count, and the other one.
    assert_eq!(String::from_utf8(bench.contents("passes")).unwrap(), "1\n1\n1\n104\n1\n104\n");
}

#[test]
fn std_fs_runs_on_more_and_more_threads() {
    let report =
        Bench::new().json(&format!("{} --rounds 1 --only read --json", SMALL.replace("--threads 2", "--threads 3")));
    let names = report["contenders"].as_array().unwrap().iter().filter_map(|it| it["name"].as_str());
    let threads: Vec<_> = names.filter(|name| name.starts_with("std::fs")).collect();
    assert_eq!(threads, ["std::fs", "std::fs, 2 threads", "std::fs, 3 threads"]);
}

#[test]
fn too_much_memory_is_an_error_that_names_what_takes_less() {
    let bench = Bench::new();
    let line =
        "compare --only extents-in --tensors 256 --tensor-size 1M --rounds 1 --threads 1 --runtime 0.001 --json";
    let script = format!("ulimit -v 250000 && exec \"$0\" {line}");
    let mut command = std::process::Command::new("sh");
    let output = command.args(["-c", &script, crate::PROGRAM]).current_dir(bench.path()).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let error = result(&report, "tensor-aio pthread")["error"].as_str().unwrap();
    for words in ["256 buffers of 1.0 MiB do not fit into memory", "a smaller --tensors or --tensor-size"] {
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let bench = Bench::new();
    for (line, code, part) in [
        ("compare --only read,write", 2, "there is no workload \"write\"; there are read, overwrite"),
        ("compare --tensor-size 8", 2, "at least 16 bytes"),
        ("compare --size 10", 2, "at least 1 MiB"),
        ("compare --runtime 0", 2, "is not a time above 0"),
        ("compare --rounds 0", 2, "0 is not in"),
        ("compare --dir nowhere", 1, "cannot use the folder nowhere"),
        ("compare --size 1000P", 1, "are needed"),
    ] {
        let stderr = bench.refused(line, code);
        assert!(stderr.contains(part), "{line}: {stderr}");
    }
    assert_eq!(bench.names(), Vec::<String>::new());
}
