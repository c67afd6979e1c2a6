//! The data plane of the kernel: XFRM, interfaces, eBPF.

use async_trait::async_trait;

use crate::{
    ChildSaSpec, ClassReading, Config, Dataplane, Error, SaReading, StartReport, StopReport,
};

/// Kernel IPsec with eBPF accounting.
pub struct Xfrm {
    _config: Config,
}

impl Xfrm {
    /// Nothing is touched before [`Dataplane::start`].
    pub fn new(config: Config) -> Result<Self, Error> {
        config.check()?;
        Ok(Self { _config: config })
    }
}

const SOON: Error = Error::Unsupported {
    what: "XFRM yet",
    hint: "it is being written",
};

#[async_trait]
impl Dataplane for Xfrm {
    async fn start(&self) -> Result<StartReport, Error> {
        Err(SOON)
    }
    async fn install(&self, _sa: ChildSaSpec) -> Result<(), Error> {
        Err(SOON)
    }
    async fn remove(&self, _id: u64) -> Result<Option<SaReading>, Error> {
        Err(SOON)
    }
    async fn readings(&self) -> Result<Vec<SaReading>, Error> {
        Err(SOON)
    }
    async fn classes(&self) -> Result<Option<ClassReading>, Error> {
        Err(SOON)
    }
    async fn stop(&self) -> Result<StopReport, Error> {
        Err(SOON)
    }
}
