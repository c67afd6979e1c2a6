//! What both daemons share: configuration files, logging, control socket, preflight.
