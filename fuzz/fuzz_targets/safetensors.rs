#![no_main]

use aio_cli::fuzzing;

libfuzzer_sys::fuzz_target!(|input: &[u8]| aio_fuzz::bounded(fuzzing::safetensors, input));
