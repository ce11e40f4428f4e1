//! What the tests share.
#![allow(unreachable_pub, dead_code, reason = "each test file uses its part")]

use std::sync::OnceLock;

use aio::AioHandle;
use aio::tensor::Dtype;

/// One for all tests of a process, with small blocks, so that little data makes many of them.
pub fn handle() -> AioHandle {
    static HANDLE: OnceLock<AioHandle> = OnceLock::new();
    HANDLE.get_or_init(|| aio::builder().block_size(64 << 10).build().unwrap()).clone()
}

/// All that the format has.
pub fn dtypes() -> Vec<Dtype> {
    use Dtype::*;
    vec![
        BOOL,
        F4,
        F6_E2M3,
        F6_E3M2,
        U8,
        I8,
        F8_E5M2,
        F8_E4M3,
        F8_E8M0,
        F8_E4M3FNUZ,
        F8_E5M2FNUZ,
        I16,
        U16,
        F16,
        BF16,
        I32,
        U32,
        F32,
        C64,
        F64,
        I64,
        U64,
    ]
}

/// Mixes a number.
pub fn mix(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// `len` bytes that differ with the seed.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let words = (0..len.div_ceil(8) as u64).flat_map(|at| mix(mix(seed) ^ at).to_le_bytes());
    words.take(len).collect()
}
