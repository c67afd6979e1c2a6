//! The UE control daemon.
