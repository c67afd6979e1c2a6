//! NAS messages over TCP (TS 24.502, 9.4): `Length(2) | NAS message(Length)`.

use crate::reader::{DecodeError, EncodeError, len16};

/// One NAS message in its envelope, ready for a single write.
pub fn wrap(nas: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::with_capacity(nas.len().saturating_add(2));
    out.extend(len16(nas.len(), "NAS message")?.to_be_bytes());
    out.extend_from_slice(nas);
    Ok(out)
}

/// Finds NAS messages in a TCP stream: a segment may hold a part of one, or several.
///
/// Holds at most one message and what was pushed after it, so a sender that trickles octets
/// costs 64 KiB at most.
#[derive(Debug, Default)]
pub struct EnvelopeReader {
    buffer: Vec<u8>,
}

impl EnvelopeReader {
    /// An empty stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what a read returned.
    pub fn push(&mut self, octets: &[u8]) {
        self.buffer.extend_from_slice(octets);
    }

    /// The next whole message, if there is one.
    ///
    /// A length of zero is an error, after which the stream has no meaning and is to be closed.
    pub fn next_message(&mut self) -> Result<Option<Vec<u8>>, DecodeError> {
        let Some((length, rest)) = self.buffer.split_first_chunk::<2>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes(*length));
        if length == 0 {
            return Err(DecodeError::Length {
                field: "NAS message length",
                found: 0,
            });
        }
        let Some(message) = rest.get(..length).map(<[u8]>::to_vec) else {
            return Ok(None);
        };
        self.buffer.drain(..length.saturating_add(2));
        Ok(Some(message))
    }

    /// Whether a message has begun and not ended: at the end of the stream, a truncation.
    pub fn is_mid_message(&self) -> bool {
        !self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_any_segmentation() {
        let messages: Vec<Vec<u8>> = (1..40_u8).map(|n| vec![n; usize::from(n) * 7]).collect();
        let stream: Vec<u8> = messages.iter().flat_map(|m| wrap(m).unwrap()).collect();
        for segment in [1, 2, 3, 7, 100, stream.len()] {
            let mut reader = EnvelopeReader::new();
            let mut found = Vec::new();
            for octets in stream.chunks(segment) {
                reader.push(octets);
                while let Some(message) = reader.next_message().unwrap() {
                    found.push(message);
                }
            }
            assert_eq!(found, messages, "segments of {segment}");
            assert!(!reader.is_mid_message());
        }
    }

    #[test]
    fn a_zero_length_is_an_error() {
        let mut reader = EnvelopeReader::new();
        reader.push(&[0, 0, 1]);
        assert!(reader.next_message().is_err());
    }

    #[test]
    fn a_message_without_its_end_is_noticed() {
        let mut reader = EnvelopeReader::new();
        reader.push(&[0, 5, 1, 2]);
        assert_eq!(reader.next_message(), Ok(None));
        assert!(reader.is_mid_message());
    }

    #[test]
    fn the_largest_message_fits_and_no_larger() {
        assert_eq!(wrap(&vec![1; 65_535]).unwrap().len(), 65_537);
        assert_eq!(
            wrap(&vec![1; 65_536]),
            Err(EncodeError {
                field: "NAS message",
                size: 65_536
            })
        );
    }
}
