//! Properties that hold for every job file, valid or not; `aio_cli::fuzzing` says how they are used.

mod job_file;
#[cfg(test)]
#[path = "../../aio-cli/src/fuzzing/seeds.rs"]
mod seeds;

#[cfg(test)]
use aio_cli::fuzzing::most_memory;
pub use job_file::job_file;

#[cfg(test)]
mod tests {
    #[test]
    fn job_files() {
        super::seeds::check_seeds("job_file", super::job_file);
    }
}
