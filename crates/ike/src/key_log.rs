//! Keys for a dissector: a debugging aid that an operator has to ask for.

use std::fmt;

use crate::crypto::{IkeKeys, IkeSuite};

/// Is told the keys of every IKE SA ([`EndpointConfig::key_log`](crate::EndpointConfig::key_log)).
///
/// Whoever has these keys reads and forges the IKE SA's messages. Keys of Child SAs are in
/// [`ChildSa`](crate::ChildSa) already.
pub trait KeyLog: fmt::Debug + Send + Sync {
    /// The keys an IKE SA goes into use with. `spi_i` and `spi_r` as in the message header.
    fn ike_sa(&self, spi_i: u64, spi_r: u64, suite: &IkeSuite, keys: &IkeKeys);
}
