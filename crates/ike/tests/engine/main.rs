//! The engine as its daemons see it: pairs of endpoints in virtual time.

mod admission;
mod attach;
mod authentication;
mod children;
mod daemon;
mod exchange;
mod kme;
mod nat;
mod record;
mod rng;
mod setup;
mod sizes;
mod storm;
mod world;
