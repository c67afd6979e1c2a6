//! The whole UE against the real engine as responder and a scripted core, in virtual time.

mod attach;
mod faults;
mod rekey;
mod world;
