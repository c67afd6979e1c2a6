//! Suites, key schedules, message protection and authentication.
