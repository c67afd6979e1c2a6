//! Logging to standard error, as text for people or JSON for collectors.

use std::io::{self, IsTerminal};

use thiserror::Error;
use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging for the whole process.
///
/// `level` is a `tracing` filter (`info`, `warn,ike=debug`); the environment variable `RUST_LOG`
/// wins over it when set, so that one run can be louder than the configuration.
///
/// # Errors
///
/// When the filter cannot be read, or logging was started before.
pub fn init(level: &str, json: bool) -> Result<(), LogError> {
    let filter = filter(std::env::var("RUST_LOG").ok().as_deref(), level)?;
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let started = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.try_init()
    };
    started.map_err(|_| LogError::Started)
}

/// Why logging did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// The filter is not one.
    #[error("log filter `{filter}`: {reason}")]
    Filter {
        /// As given.
        filter: String,
        /// Why not.
        reason: String,
    },
    /// Something else logs already.
    #[error("logging was started before")]
    Started,
}

fn filter(environment: Option<&str>, level: &str) -> Result<EnvFilter, LogError> {
    let text = environment
        .filter(|text| !text.trim().is_empty())
        .unwrap_or(level);
    EnvFilter::try_new(text).map_err(|error| LogError::Filter {
        filter: text.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_wins_unless_empty() {
        assert_eq!(filter(Some("debug"), "info").unwrap().to_string(), "debug");
        assert_eq!(filter(Some(" "), "info").unwrap().to_string(), "info");
        assert_eq!(filter(None, "warn").unwrap().to_string(), "warn");
    }

    #[test]
    fn a_broken_filter_is_told() {
        let error = filter(None, "ike=loud").unwrap_err();
        assert!(error.to_string().starts_with("log filter `ike=loud`: "));
    }
}
