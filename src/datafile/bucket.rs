//! Bucketing: which of 10,000 equal parts a user falls into.

/// The parts a rule's traffic is cut into.
const PARTS: u64 = 10_000;

/// The bucket of a bucketing id under a parent (rule, group or holdout): murmur3 of both texts one after the other.
///
/// The SDKs compute `floor(hash / 2^32 * 10000)` in floating point; the integers here give the same for every hash.
pub(super) fn bucket(bucketing_id: &str, parent: &str) -> u32 {
    let mut key = Vec::with_capacity(bucketing_id.len() + parent.len());
    key.extend_from_slice(bucketing_id.as_bytes());
    key.extend_from_slice(parent.as_bytes());
    let part = (u64::from(murmur3(&key, 1)) * PARTS) >> 32;
    u32::try_from(part).unwrap_or(u32::MAX)
}

/// MurmurHash3, x86, 32 bits (Austin Appleby; public domain).
pub(super) fn murmur3(data: &[u8], seed: u32) -> u32 {
    let scramble = |word: u32| {
        word.wrapping_mul(0xcc9e_2d51)
            .rotate_left(15)
            .wrapping_mul(0x1b87_3593)
    };
    let (words, tail) = data.as_chunks::<4>();
    let mut hash = seed;
    for word in words {
        hash ^= scramble(u32::from_le_bytes(*word));
        hash = hash
            .rotate_left(13)
            .wrapping_mul(5)
            .wrapping_add(0xe654_6b64);
    }
    if !tail.is_empty() {
        let rest = tail
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u32::from(*byte));
        hash ^= scramble(rest);
    }
    // The reference takes the length as an int; only its low 32 bits count.
    hash ^= u32::try_from(data.len() & 0xffff_ffff).unwrap_or(u32::MAX);
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}
