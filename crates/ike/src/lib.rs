//! IKEv2 without input or output: wire format, suites, key schedules and state machines.

pub mod crypto;
pub mod wire;

mod config;
mod endpoint;
mod event;
mod sa;
mod time;

pub use config::{
    CookiePolicy, EndpointConfig, InitiatorConfig, Mode, PaperResponder, PeerCertificate, Profile,
    ResponderConfig, Timing,
};
pub use endpoint::Endpoint;
pub use event::{
    ChildAnswer, ChildFailure, ChildId, ChildSa, ChildStatus, CloseReason, CommandError,
    EapSuccess, Event, Fate, KeyPurpose, KeyRequestId, KeysWanted, NewChild, Path, QkdFailure,
    SaId, SaState, SaStatus, Transmit,
};
pub use time::Instant;
