//! How fast a KME answers: one request after another.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bench::records::Keys;
use bench::stats::{Summary, real};
use keys::{KeyId, SaeId};
use qkd::{Kms, KmsConfig};

/// A request to a KME.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    /// `enc_keys`: new keys, shared with this SAE.
    Enc(&'a SaeId),
    /// `dec_keys`: keys that this SAE has fetched, so many at a time.
    Dec(&'a SaeId, &'a [KeyId]),
}

/// Asks for `number` keys, `requests` times, over one connection (`warm`) or over a new one each
/// time. The IDs of keys that came are returned.
///
/// # Errors
/// When no client can be made. A request that fails is counted.
pub async fn measure(
    config: &KmsConfig,
    call: Call<'_>,
    warm: bool,
    number: usize,
    requests: usize,
) -> Result<(Keys, Vec<KeyId>)> {
    let mut client = Kms::new(config)?;
    if warm {
        let peer = match call {
            Call::Enc(peer) | Call::Dec(peer, _) => peer,
        };
        client.status(peer).await.context("status of the KME")?;
    }
    let mut took: Vec<Duration> = Vec::new();
    let mut fetched = Vec::new();
    let mut failed = 0;
    for request in 0..requests {
        let begun = Instant::now();
        if !warm {
            client = Kms::new(config)?;
        }
        let answer = match call {
            Call::Enc(peer) => client.enc_keys(peer, number, 256).await,
            Call::Dec(peer, ids) => {
                let from = request * number;
                let ids = ids.get(from..from + number).context("too few key IDs")?;
                client.dec_keys(peer, ids).await
            }
        };
        match answer {
            Ok(keys) => {
                took.push(begun.elapsed());
                fetched.extend(keys.iter().map(|key| key.id));
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
        warm,
        keys: number,
        requests: took.len(),
        failed,
        latency_us: [summary.median, summary.p95, summary.mean],
        per_second: real(fetched.len()) / seconds.max(1e-9),
    };
    Ok((keys, fetched))
}
