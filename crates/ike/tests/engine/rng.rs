//! The tests' randomness: ChaCha by seed.

pub(crate) type TestRng = rand_chacha::ChaCha8Rng;
