//! The N3IWF control daemon.
