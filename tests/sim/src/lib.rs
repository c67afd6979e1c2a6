//! The whole control plane in one process: UEs, an N3IWF, an AMF and two KMSs, in virtual time.
//!
//! The parts are the ones the daemons run: [`ue_user::core::ue::Ue`],
//! [`n3iwf_user::gateway::Gateway`] and [`core5g::amf::Amf`], each made from its configuration
//! file. Around them stand a network that loses, repeats, delays and cuts, a QKD link, NAS over TCP
//! inside the signalling SA, and data planes that only remember. One [`plan::Plan`], drawn from a
//! seed, says what goes wrong and when; after the last fault everything has to come to rest, attached,
//! and after a deregistration nothing may be left. The same seed gives the same run, event by event.

mod account;
mod check;
mod core_host;
mod faults;
mod files;
mod kms;
mod n3iwf_host;
mod nas_tcp;
mod network;
pub mod plan;
mod plane;
mod ue_host;
mod world;

pub use world::{Summary, Violation, World};

/// Runs one scenario to its end.
///
/// # Errors
/// The first [`Violation`] of what must hold.
pub fn run(plan: &plan::Plan) -> Result<Summary, Violation> {
    World::new(plan.clone())?.run()
}
