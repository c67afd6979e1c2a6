//! The engine as its daemons see it: pairs of endpoints in virtual time.

mod attach;
mod kme;
mod rng;
mod setup;
mod sizes;
mod storm;
mod world;
