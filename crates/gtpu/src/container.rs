//! PDU Session Container, extension header type 0x85 (TS 38.415, 5.5.2).
//!
//! ```text
//! DL (PDU type 0): type<<4 | QMP 0x08 | SNP 0x04 | MSNP 0x02;  PPP 0x80 | RQI 0x40 | QFI
//! UL (PDU type 1): type<<4 | QMP 0x08 | DL delay 0x04 | UL delay 0x02 | SNP 0x01;  N3/N9 delay 0x80 | new IE 0x40 | QFI
//! ```
//! Optional fields follow and are not interpreted.

use crate::DecodeError;

/// Which way the PDU goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the UPF: PDU type 0.
    Downlink,
    /// To the UPF: PDU type 1.
    Uplink,
}

/// The fields an access network needs of a PDU Session Container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PduSessionContainer {
    /// PDU type.
    pub direction: Direction,
    /// QoS Flow Identifier, 6 bits.
    pub qfi: u8,
    /// Reflective QoS Indicator; downlink only.
    pub rqi: bool,
}

impl PduSessionContainer {
    /// Reads the content of the extension header.
    pub(crate) fn decode(content: &[u8]) -> Result<Self, DecodeError> {
        let [kind, flow, ..] = content else {
            return Err(DecodeError::Truncated("PDU Session Container"));
        };
        let direction = match kind >> 4 {
            0 => Direction::Downlink,
            1 => Direction::Uplink,
            _ => return Err(DecodeError::Container(kind >> 4)),
        };
        let rqi = direction == Direction::Downlink && flow & 0x40 != 0;
        Ok(Self {
            direction,
            qfi: flow & 0x3f,
            rqi,
        })
    }

    /// The two octets of content.
    pub(crate) const fn octets(self) -> [u8; 2] {
        let flow = self.qfi & 0x3f;
        match self.direction {
            Direction::Downlink if self.rqi => [0x00, flow | 0x40],
            Direction::Downlink => [0x00, flow],
            Direction::Uplink => [0x10, flow],
        }
    }
}
