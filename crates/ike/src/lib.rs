//! IKEv2 without input or output: wire format, suites, key schedules and state machines.

pub mod crypto;
pub mod wire;

mod config;
mod endpoint;
mod event;
mod key_log;
mod sa;
mod status;
mod time;

pub use config::{
    CookiePolicy, EndpointConfig, InitiatorConfig, Mode, PaperResponder, PeerCertificate, Profile,
    ResponderConfig, Timing,
};
pub use endpoint::Endpoint;
pub use event::{
    ChildAnswer, ChildFailure, ChildId, ChildSa, CloseReason, CommandError,
    EapSuccess, Event, Fate, KeyPurpose, KeyRequestId, KeysWanted, NewChild, Path, QkdFailure,
    SaId, Transmit,
};
pub use key_log::KeyLog;
pub use status::{ChildStatus, SaState, SaStatus};
pub use time::Instant;
