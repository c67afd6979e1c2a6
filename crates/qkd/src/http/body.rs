//! Bodies, read into memory that is wiped.

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes};
use reqwest::StatusCode;
use zeroize::{Zeroize, Zeroizing};

use super::{Failure, limit_of};
use crate::Malformed;

/// Reads a body, of at most as many octets as go with `status`, into memory that is wiped; `broken` types its errors.
///
/// The read buffers inside the HTTP and TLS libraries are theirs; a chunk is wiped where we are
/// its only owner.
pub(super) async fn read<B>(
    mut source: B,
    status: StatusCode,
    broken: impl Fn(B::Error) -> Failure,
) -> Result<Zeroizing<Vec<u8>>, Failure>
where
    B: Body<Data = Bytes> + Unpin,
{
    let limit = limit_of(status);
    let too_long = || Failure {
        error: Malformed::TooLong { limit }.into(),
        uncertain: true,
    };
    let announced = source
        .size_hint()
        .exact()
        .map_or(Ok(0), usize::try_from)
        .ok()
        .filter(|length| *length <= limit)
        .ok_or_else(too_long)?;
    let mut body = Zeroizing::new(Vec::with_capacity(announced.max(4096)));
    while let Some(frame) = source.frame().await {
        let frame = frame.map_err(|error| Failure {
            uncertain: true,
            ..broken(error)
        })?;
        let Ok(chunk) = frame.into_data() else {
            continue;
        };
        let needed = body.len() + chunk.len();
        if needed > limit {
            return Err(too_long());
        }
        if needed > body.capacity() {
            // Growing in place would free the old buffer without wiping it.
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.saturating_mul(2)));
            larger.extend_from_slice(&body);
            body = larger;
        }
        body.extend_from_slice(&chunk);
        if let Ok(mut chunk) = chunk.try_into_mut() {
            chunk.as_mut().zeroize();
        }
    }
    Ok(body)
}
