//! How fast a KME answers: one request after another.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bench::records::Keys;
use bench::stats::{Summary, real};
use keys::{KeyId, SaeId};
use qkd::{Kms, KmsConfig, codec};
use serde_json::Value;

use crate::bare::Bare;

/// Bits of a key.
const BITS: u32 = 256;

/// A request to a KME.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    /// `enc_keys`: new keys, shared with this SAE.
    Enc(&'a SaeId),
    /// `dec_keys`: keys that this SAE has fetched, so many at a time.
    Dec(&'a SaeId, &'a [KeyId]),
}

/// How a request gets to the KME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Over a connection of its own.
    Cold,
    /// Over one that is there.
    Warm,
    /// The same after a pause in which client and KME go to sleep, as between two attaches.
    Rested,
    /// The same, by a client that is a blocking socket and TLS alone: what no other client can fall below.
    Bare,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cold, Self::Warm, Self::Rested, Self::Bare];

    /// How long nobody does anything before a request.
    #[must_use]
    pub const fn pause(self) -> Duration {
        match self {
            Self::Cold | Self::Warm => Duration::ZERO,
            Self::Rested | Self::Bare => Duration::from_millis(20),
        }
    }

    /// Keys per request: as many as IKE_SA_INIT takes where a request stands for that of an attach.
    #[must_use]
    pub const fn numbers(self) -> &'static [usize] {
        match self {
            Self::Cold | Self::Warm => &[1, 13],
            Self::Rested | Self::Bare => &[7],
        }
    }
}

/// A client, and what it asks for.
enum Client {
    Ours(Kms),
    Bare(Box<Bare>),
}

impl Client {
    async fn ask(&mut self, call: Call<'_>, ids: &[KeyId], number: usize) -> Result<Vec<KeyId>> {
        match (self, call) {
            (Self::Ours(kms), Call::Enc(peer)) => {
                let keys = kms.enc_keys(peer, number, BITS).await?;
                Ok(keys.iter().map(|key| key.id).collect())
            }
            (Self::Ours(kms), Call::Dec(peer, _)) => {
                let keys = kms.dec_keys(peer, ids).await?;
                Ok(keys.iter().map(|key| key.id).collect())
            }
            (Self::Bare(bare), Call::Enc(peer)) => {
                let path = path(codec::Operation::EncKeys, peer)?;
                key_ids(&bare.post(&path, &codec::key_request(number, BITS))?)
            }
            (Self::Bare(bare), Call::Dec(peer, _)) => {
                let path = path(codec::Operation::DecKeys, peer)?;
                key_ids(&bare.post(&path, &codec::key_ids(ids))?)
            }
        }
    }
}

fn path(operation: codec::Operation, peer: &SaeId) -> Result<String> {
    codec::path(operation, peer).context("an SAE ID that no URL takes")
}

/// The IDs of a Key container.
fn key_ids(body: &[u8]) -> Result<Vec<KeyId>> {
    let body: Value = serde_json::from_slice(body)?;
    let keys = body.get("keys").and_then(Value::as_array);
    keys.context("no keys")?
        .iter()
        .map(|key| {
            let id = key.get("key_ID").and_then(Value::as_str);
            Ok(id.context("a key without ID")?.parse()?)
        })
        .collect()
}

/// Asks for `number` keys, `requests` times. The IDs of keys that came are returned.
///
/// # Errors
/// When no client can be made. A request that fails is counted.
pub async fn measure(
    config: &KmsConfig,
    call: Call<'_>,
    way: Way,
    number: usize,
    requests: usize,
) -> Result<(Keys, Vec<KeyId>)> {
    let mut client = match way {
        Way::Bare => Client::Bare(Box::new(Bare::connect(config)?)),
        _ => Client::Ours(Kms::new(config)?),
    };
    if let (Client::Ours(kms), Way::Warm | Way::Rested) = (&client, way) {
        let peer = match call {
            Call::Enc(peer) | Call::Dec(peer, _) => peer,
        };
        kms.status(peer).await.context("status of the KME")?;
    }
    let mut took: Vec<Duration> = Vec::new();
    let mut fetched = Vec::new();
    let mut failed = 0;
    for request in 0..requests {
        let ids = match call {
            Call::Enc(_) => &[],
            Call::Dec(_, ids) => {
                let from = request * number;
                ids.get(from..from + number).context("too few key IDs")?
            }
        };
        if !way.pause().is_zero() {
            // Whatever else this thread could do is not to be done now.
            std::thread::sleep(way.pause());
        }
        let begun = Instant::now();
        if way == Way::Cold {
            client = Client::Ours(Kms::new(config)?);
        }
        match client.ask(call, ids, number).await {
            Ok(keys) => {
                took.push(begun.elapsed());
                fetched.extend(keys);
            }
            Err(_) => failed += 1,
        }
    }
    let summary = Summary::of(took.iter().map(|time| time.as_secs_f64() * 1e6));
    let seconds: f64 = took.iter().map(Duration::as_secs_f64).sum();
    let keys = Keys {
        call: match call {
            Call::Enc(_) => "enc_keys",
            Call::Dec(..) => "dec_keys",
        }
        .to_owned(),
        warm: way != Way::Cold,
        pause_ms: u64::try_from(way.pause().as_millis())?,
        bare: way == Way::Bare,
        keys: number,
        requests: took.len(),
        failed,
        latency_us: [summary.median, summary.p95, summary.mean],
        per_second: real(fetched.len()) / seconds.max(1e-9),
    };
    Ok((keys, fetched))
}
