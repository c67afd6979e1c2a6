//! 5G_QOS_INFO (TS 24.502, 9.3.1.1): which QoS flows of which PDU session a Child SA carries.
//!
//! ```text
//! Length(1, octets after it) | PDU session id(1) | n(1) | QFI x n | flags(1) | [DSCP(1)] | [additional]
//! flags: bit 0 DSCPI, bit 1 DCSI (default Child SA), bit 2 QoSI
//! ```

use crate::reader::{DecodeError, EncodeError, Reader, len8};

const FLAG_DSCP: u8 = 0x01;
const FLAG_DEFAULT: u8 = 0x02;

/// The data of a 5G_QOS_INFO notify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QosInfo {
    /// PDU session identity, 1 to 15.
    pub pdu_session: u8,
    /// QFIs carried, 6 bits each.
    pub qfis: Vec<u8>,
    /// Whether this is the default Child SA of the PDU session.
    pub default: bool,
    /// DSCP for the outer IP packets, 6 bits.
    pub dscp: Option<u8>,
}

impl QosInfo {
    /// Reads the notify data.
    ///
    /// The length octet counts what follows it; a peer that counts the octet itself, too, is
    /// understood. Additional QoS information is not interpreted.
    pub fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(data);
        let length = usize::from(reader.u8("5G_QOS_INFO length")?);
        let rest = reader.remaining();
        if length != rest && length != rest.saturating_add(1) {
            return Err(DecodeError::Length {
                field: "5G_QOS_INFO length",
                found: length,
            });
        }
        let pdu_session = reader.u8("5G_QOS_INFO PDU session identity")?;
        let count = usize::from(reader.u8("5G_QOS_INFO number of QFIs")?);
        let qfis = reader
            .take(count, "5G_QOS_INFO QFI")?
            .iter()
            .map(|qfi| qfi & 0x3f)
            .collect();
        let flags = reader.u8("5G_QOS_INFO flags")?;
        let dscp = match flags & FLAG_DSCP {
            0 => None,
            _ => Some(reader.u8("5G_QOS_INFO DSCP")? & 0x3f),
        };
        Ok(Self {
            pdu_session,
            qfis,
            default: flags & FLAG_DEFAULT != 0,
            dscp,
        })
    }

    /// Writes the notify data.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut out = vec![0, self.pdu_session, len8(self.qfis.len(), "QFI list")?];
        out.extend(self.qfis.iter().map(|qfi| qfi & 0x3f));
        let dscp_flag = if self.dscp.is_some() { FLAG_DSCP } else { 0 };
        let default_flag = if self.default { FLAG_DEFAULT } else { 0 };
        out.push(dscp_flag | default_flag);
        out.extend(self.dscp.map(|dscp| dscp & 0x3f));
        let length = len8(out.len().saturating_sub(1), "5G_QOS_INFO")?;
        if let Some(first) = out.first_mut() {
            *first = length;
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_those_of_the_standard() {
        let info = QosInfo {
            pdu_session: 5,
            qfis: vec![9],
            default: false,
            dscp: None,
        };
        assert_eq!(info.encode().unwrap(), [4, 5, 1, 9, 0]);
        assert_eq!(QosInfo::decode(&[4, 5, 1, 9, 0]), Ok(info));
        let full = QosInfo {
            pdu_session: 1,
            qfis: vec![1, 63],
            default: true,
            dscp: Some(46),
        };
        assert_eq!(full.encode().unwrap(), [6, 1, 2, 1, 63, 3, 46]);
        assert_eq!(QosInfo::decode(&[6, 1, 2, 1, 63, 3, 46]), Ok(full));
    }

    #[test]
    fn a_length_that_counts_itself_is_understood() {
        let info = QosInfo::decode(&[5, 1, 1, 1, 2]).unwrap();
        assert!(info.default);
        assert_eq!(info.qfis, [1]);
    }

    #[test]
    fn lengths_that_lie_are_errors() {
        let good = [6, 1, 2, 1, 63, 3, 46];
        for len in 0..good.len() {
            assert!(QosInfo::decode(&good[..len]).is_err(), "cut at {len}");
            let mut cut = good[..len].to_vec();
            if let Some(first) = cut.first_mut() {
                *first = u8::try_from(len - 1).unwrap();
                assert!(QosInfo::decode(&cut).is_err(), "honest cut at {len}");
            }
        }
        assert!(QosInfo::decode(&[4, 5, 255, 9, 0]).is_err());
        assert!(QosInfo::decode(&[255, 5, 1, 9, 0]).is_err());
    }

    #[test]
    fn too_many_flows_do_not_encode() {
        let info = QosInfo {
            pdu_session: 5,
            qfis: vec![1; 256],
            default: false,
            dscp: None,
        };
        assert!(info.encode().is_err());
    }
}
