//! The package `safetensors` of PyPI reads what is saved here, bit for bit, and the other way round.

mod support;

use std::path::Path;
use std::process::Command;

use aio::tensor::{Dtype, SafeTensors, SaveOptions, TensorView};
use support::pattern;

/// What numpy has, and what the package calls it there.
const DTYPES: [(Dtype, &str); 12] = [
    (Dtype::BOOL, "bool"),
    (Dtype::U8, "uint8"),
    (Dtype::I8, "int8"),
    (Dtype::U16, "uint16"),
    (Dtype::I16, "int16"),
    (Dtype::F16, "float16"),
    (Dtype::U32, "uint32"),
    (Dtype::I32, "int32"),
    (Dtype::F32, "float32"),
    (Dtype::U64, "uint64"),
    (Dtype::I64, "int64"),
    (Dtype::F64, "float64"),
];
/// Of each dtype one: a matrix, a scalar, one without elements, one of many pages.
const SHAPES: [&[usize]; 4] = [&[3, 5], &[], &[4, 0, 2], &[70_001]];

/// Loads each file and writes, for each tensor, its bytes to a file, and a line with the file, dtype and shape; then saves all
/// of them with the package's own call.
const SCRIPT: &str = "
import sys
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
folder, out, *files = sys.argv[1:]
tensors = {}
for file in files:
    tensors.update(load_file(file))
    with safe_open(file, 'np') as opened:
        print('metadata', opened.metadata())
        for name in opened.keys():
            assert (opened.get_tensor(name) == load_file(file)[name]).all() or 'float' in name, name
for number, (name, tensor) in enumerate(sorted(tensors.items())):
    with open(f'{folder}/{number}.bytes', 'wb') as bytes:
        bytes.write(tensor.tobytes())
    print(number, name, tensor.dtype, *tensor.shape)
save_file(tensors, out, {'from': 'python'})
";

/// Tensors by name, each with its dtype, shape and bytes.
fn tensors() -> Vec<(String, Dtype, Vec<usize>, Vec<u8>)> {
    let mut tensors = Vec::new();
    for (at, (dtype, name)) in DTYPES.into_iter().enumerate() {
        for (number, shape) in SHAPES.into_iter().enumerate() {
            let len = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            let mut bytes = pattern((at * 10 + number) as u64, len);
            if dtype == Dtype::BOOL {
                bytes.iter_mut().for_each(|byte| *byte &= 1);
            }
            tensors.push((format!("{name}.{number}"), dtype, shape.to_vec(), bytes));
        }
    }
    tensors.sort_by(|(one, ..), (other, ..)| one.cmp(other));
    tensors
}

fn python(folder: &Path, out: &Path, files: &[&Path]) -> String {
    let python = std::env::var_os("AIO_PYTHON").expect("AIO_PYTHON is a Python that has safetensors and numpy");
    let ran = Command::new(python).args(["-c", SCRIPT]).arg(folder).arg(out).args(files).output().expect("it starts");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).expect("the script prints ASCII")
}

#[test]
#[ignore = "needs Python packages: .ci/safetensors"]
fn python_and_this_library_read_each_others_files() {
    let (aio, folder) = (support::handle(), tempfile::tempdir().unwrap());
    let tensors = tensors();
    for sharded in [false, true] {
        let here = folder.path().join(format!("{sharded}"));
        std::fs::create_dir(&here).unwrap();
        let path = here.join(if sharded { "m.safetensors.index.json" } else { "m.safetensors" });
        let saved = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        SaveOptions::new().metadata("format", "np").max_shard_size(300_000).save(&aio, &path, saved).unwrap();
        let model = SafeTensors::open(&aio, &path).unwrap();
        let files: Vec<_> = model.files().collect();
        assert_eq!(files.len() > 1, sharded);
        let theirs = here.join("theirs");
        let printed = python(&here, &theirs, &files);
        assert!(printed.contains("'format': 'np'"), "{printed}");
        for (number, (name, dtype, shape, bytes)) in tensors.iter().enumerate() {
            let numpy = DTYPES.iter().find(|(known, _)| known == dtype).unwrap().1;
            let shape: String = shape.iter().map(|length| format!(" {length}")).collect();
            assert!(printed.lines().any(|line| line == format!("{number} {name} {numpy}{shape}")), "{printed}");
            assert!(std::fs::read(here.join(format!("{number}.bytes"))).unwrap() == *bytes, "{name}");
        }
        let theirs = SafeTensors::open(&aio, &theirs).unwrap();
        assert_eq!(theirs.metadata()["from"], "python");
        let loaded = theirs.load().unwrap();
        assert_eq!(loaded.len(), tensors.len());
        for (name, dtype, shape, bytes) in &tensors {
            assert_eq!((loaded[name].dtype(), loaded[name].shape()), (*dtype, &shape[..]));
            assert!(loaded[name].bytes() == bytes, "{name}");
        }
    }
}
