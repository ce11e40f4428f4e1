//! Which files a path stands for: one, those of a folder, those of an index.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::entries::Entries;
use crate::error::{Error, Quoted, Result};

/// How the name of an index ends.
pub(crate) const INDEX: &str = ".safetensors.index.json";
/// The longest index that is read, in bytes; as long as a header may be.
const LARGEST_INDEX: u64 = 100_000_000;

/// The files of a set of tensors.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) files: Vec<PathBuf>,
    /// The index, and which file each tensor is in.
    pub(crate) index: Option<(PathBuf, BTreeMap<String, PathBuf>)>,
}

/// What `path` stands for.
pub(crate) fn find(path: &Path) -> Result<Sources> {
    let metadata = fs::metadata(path).map_err(Error::system("open", path))?;
    if metadata.is_dir() {
        return in_folder(path);
    }
    if !metadata.is_file() {
        // Opening a FIFO would wait for a writer.
        return Err(Error::incomplete(path, "it is neither a regular file nor a folder"));
    }
    if is_index(path) {
        return of_index(path);
    }
    Ok(Sources { files: vec![path.to_owned()], index: None })
}

pub(crate) fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(INDEX))
}

fn in_folder(folder: &Path) -> Result<Sources> {
    let entries = fs::read_dir(folder).map_err(Error::system("list", folder))?;
    let mut files = Vec::new();
    let mut indices = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::system("list", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Hidden ones are what a save that did not end has left.
        if name.starts_with('.') {
            continue;
        }
        if name.ends_with(INDEX) {
            indices.push(path);
        } else if name.ends_with(".safetensors") {
            files.push(path);
        }
    }
    match indices.as_slice() {
        [] if files.is_empty() => Err(Error::incomplete(folder, "there is no file NAME.safetensors in it")),
        [] => {
            files.sort();
            require_whole_series(folder, &files)?;
            Ok(Sources { files, index: None })
        }
        [index] => {
            let sources = of_index(index)?;
            let path = index.to_string_lossy();
            let single = path.strip_suffix(INDEX).map(|path| PathBuf::from(format!("{path}.safetensors")));
            if single.is_some_and(|single| files.contains(&single) && !sources.files.contains(&single)) {
                let name = index.file_name().unwrap_or_default().to_string_lossy();
                let why = format_args!("it has {name}, and another file of the same name: name one of them");
                return Err(Error::incomplete(folder, why));
            }
            Ok(sources)
        }
        several => {
            let mut names: Vec<_> =
                several.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy()).collect();
            names.sort();
            Err(Error::incomplete(folder, format_args!("it has several indices ({}): name one", names.join(", "))))
        }
    }
}

/// Files that say by their names which of how many they are, `NAME-00002-of-00005.safetensors`, have to be all there.
fn require_whole_series(folder: &Path, files: &[PathBuf]) -> Result<()> {
    let mut series = BTreeMap::<_, BTreeSet<u32>>::new();
    for file in files {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let numbered = stem.rsplit_once("-of-").and_then(|(before, count)| {
            let (name, number) = before.rsplit_once('-')?;
            Some(((name.to_owned(), count.parse::<u32>().ok()?), number.parse().ok()?))
        });
        if let Some((of, number)) = numbered {
            series.entry(of).or_default().insert(number);
        }
    }
    for ((name, count), numbers) in series {
        if let Some(missing) = (1..=count).find(|number| !numbers.contains(number)) {
            let why = format_args!("of the {count} files of {name}, number {missing} is missing");
            return Err(Error::incomplete(folder, why));
        }
    }
    Ok(())
}

/// The files that an index names, each once, in the order of their names.
fn of_index(path: &Path) -> Result<Sources> {
    let map = read_index(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut weight_map = BTreeMap::new();
    for (tensor, name) in map {
        let file = Path::new(&name);
        let is_inside = file.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !is_inside || file.as_os_str().is_empty() {
            let (tensor, file) = (Quoted(&tensor), Quoted(&name));
            let why = format_args!("its index has tensor {tensor} in {file}, which is not below its folder");
            return Err(Error::incomplete(path, why));
        }
        weight_map.insert(tensor, folder.join(file));
    }
    let files: BTreeSet<_> = weight_map.values().cloned().collect();
    for file in &files {
        // Also what cannot be opened as a file: a FIFO would wait.
        match fs::metadata(file) {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Err(Error::incomplete(path, format_args!("{} is no regular file", file.display()))),
            Err(error) => {
                return Err(Error::incomplete(path, format_args!("it names {}: {error}", file.display())));
            }
        }
    }
    Ok(Sources { files: files.into_iter().collect(), index: Some((path.to_owned(), weight_map)) })
}

/// Tensors and their files, as the index has them.
pub(crate) fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    let found = fs::metadata(path).map_err(Error::system("open", path))?;
    if !found.is_file() {
        // Opening a FIFO would wait for a writer.
        return Err(Error::incomplete(path, "it is no regular file"));
    }
    let file = fs::File::open(path).map_err(Error::system("open", path))?;
    let mut json = Vec::new();
    file.take(LARGEST_INDEX + 1).read_to_end(&mut json).map_err(Error::system("read", path))?;
    if json.len() as u64 > LARGEST_INDEX {
        return Err(Error::incomplete(path, format_args!("the index is longer than {LARGEST_INDEX} bytes")));
    }
    let no_index = |why: String| Error::incomplete(path, format_args!("it is no index: {why:.300}"));
    let Index { weight_map } = serde_json::from_slice(&json).map_err(|error| no_index(error.to_string()))?;
    let mut map = BTreeMap::new();
    for (name, file) in weight_map.0 {
        let Value::String(file) = file else {
            return Err(no_index(format!("the file of tensor {} is no string", Quoted(&name))));
        };
        if map.contains_key(&name) {
            return Err(no_index(format!("tensor {} is there twice", Quoted(&name))));
        }
        map.insert(name, file);
    }
    Ok(map)
}

/// The JSON of an index.
pub(crate) fn index_json(total_size: u64, weight_map: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let index = serde_json::json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    let mut json = serde_json::to_vec_pretty(&index).map_err(|error| Error::InvalidInput(error.to_string()))?;
    json.push(b'\n');
    Ok(json)
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: Entries<Value>,
}
