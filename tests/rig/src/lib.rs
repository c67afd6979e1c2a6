//! Namespaces, processes and scenarios for the end-to-end tests and the demonstration.
//!
//! This runs *inside* the place, as root: on a host whose kernel has what it takes, or in the
//! virtual machine of `cargo xtask vm`. It builds the [`topology`], starts the ordinary programs
//! from ordinary configuration files, and looks at them from outside: control tools, kernel,
//! captures.

pub mod account;
pub mod bench;
pub mod bulk;
pub mod capture;
pub mod checks;
pub mod control;
pub mod echoes;
pub mod exec;
pub mod files;
pub mod flood;
pub mod inside;
pub mod kernel;
pub mod leaks;
pub mod netns;
pub mod paper;
pub mod pki;
pub mod process;
pub mod report;
pub mod scenarios;
pub mod scrape;
pub mod steps;
pub mod topology;
pub mod world;
