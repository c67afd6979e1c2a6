//! A data plane without IPsec, for hosts whose kernel has no ESP.

use async_trait::async_trait;

use crate::{
    ChildSaSpec, ClassReading, Config, Dataplane, Error, SaReading, StartReport, StopReport,
};

/// Records every operation as a JSON line and routes inner addresses in clear.
pub struct Recording {
    _config: Config,
}

impl Recording {
    /// Nothing is touched before [`Dataplane::start`].
    pub fn new(config: Config) -> Result<Self, Error> {
        config.check()?;
        Ok(Self { _config: config })
    }
}

const SOON: Error = Error::Unsupported {
    what: "recording yet",
    hint: "it is being written",
};

#[async_trait]
impl Dataplane for Recording {
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
