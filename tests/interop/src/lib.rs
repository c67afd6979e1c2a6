//! `ikepeer`, and with it the IKEv2 engine, against software of other makers: today strongSwan.
//!
//! One run makes its own namespaces, starts the other maker's daemon and one `ikepeer` per [`matrix::Row`], and walks
//! each through the columns: fresh, rekeyed from each side, and what belongs to few rows (a NAT, cookies, fragments).
//! A mark in the [`table`] stands for something that was seen on both sides; everything else says why it is not there.

pub mod lab;
pub mod matrix;
pub mod ours;
pub mod pki;
pub mod session;
pub mod strongswan;
pub mod table;
