//! AN-parameters (TS 24.502, 9.3.2.2.2): what the UE tells the N3IWF about itself in clear of NAS.
//!
//! ```text
//! type(1) length(1) value(length)   repeated; order free, unknown types skipped
//! ```

use std::fmt;

use crate::reader::{DecodeError, EncodeError, Reader, len8};

const TYPE_GUAMI: u8 = 1;
const TYPE_SELECTED_PLMN: u8 = 2;
const TYPE_REQUESTED_NSSAI: u8 = 3;
const TYPE_ESTABLISHMENT_CAUSE: u8 = 4;

/// A PLMN identity: three digits of MCC, two or three of MNC.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Plmn([u8; 3]);

impl Plmn {
    /// From the octets of TS 24.502, 9.2.3: `MCC2 MCC1 | MNC3 MCC3 | MNC2 MNC1` (nibbles).
    ///
    /// Every digit must be decimal; MNC3 is `F` for a two-digit MNC.
    pub fn from_octets(octets: [u8; 3]) -> Result<Self, DecodeError> {
        let [a, b, c] = octets;
        let digits = [a & 15, a >> 4, b & 15, c & 15, c >> 4];
        let mnc3 = b >> 4;
        if digits.iter().any(|&d| d > 9) || (mnc3 > 9 && mnc3 != 15) {
            return Err(DecodeError::Value {
                field: "PLMN",
                found: u32::from_be_bytes([0, a, b, c]),
            });
        }
        Ok(Self(octets))
    }

    /// From decimal digits; `None` unless `mcc` has three and `mnc` two or three of them.
    pub fn from_digits(mcc: &str, mnc: &str) -> Option<Self> {
        let digit = |text: &str, at: usize| {
            text.as_bytes()
                .get(at)
                .filter(|o| o.is_ascii_digit())
                .map(|o| o - b'0')
        };
        if mcc.len() != 3 || !matches!(mnc.len(), 2 | 3) {
            return None;
        }
        let mnc3 = if mnc.len() == 3 { digit(mnc, 2)? } else { 15 };
        Some(Self([
            digit(mcc, 1)? << 4 | digit(mcc, 0)?,
            mnc3 << 4 | digit(mcc, 2)?,
            digit(mnc, 1)? << 4 | digit(mnc, 0)?,
        ]))
    }

    /// The three octets as they travel.
    pub const fn octets(&self) -> [u8; 3] {
        self.0
    }

    /// MCC and MNC as decimal digits.
    pub fn digits(&self) -> (String, String) {
        let [a, b, c] = self.0;
        let mcc = format!("{}{}{}", a & 15, a >> 4, b & 15);
        let mut mnc = format!("{}{}", c & 15, c >> 4);
        if b >> 4 != 15 {
            mnc.push_str(&(b >> 4).to_string());
        }
        (mcc, mnc)
    }
}

impl fmt::Display for Plmn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mcc, mnc) = self.digits();
        write!(f, "{mcc}/{mnc}")
    }
}

impl fmt::Debug for Plmn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plmn({self})")
    }
}

/// GUAMI: PLMN(3), AMF Region ID(8 bit), AMF Set ID(10 bit), AMF Pointer(6 bit).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Guami {
    /// Home of the AMF.
    pub plmn: Plmn,
    /// AMF Region ID.
    pub region: u8,
    /// AMF Set ID, 10 bits.
    pub set: u16,
    /// AMF Pointer, 6 bits.
    pub pointer: u8,
}

impl Guami {
    fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(value);
        let plmn = Plmn::from_octets(reader.array("GUAMI")?)?;
        let region = reader.u8("GUAMI")?;
        let [high, low] = reader.array("GUAMI")?;
        reader.finish("GUAMI")?;
        let set = u16::from(high) << 2 | u16::from(low >> 6);
        Ok(Self {
            plmn,
            region,
            set,
            pointer: low & 0x3f,
        })
    }

    fn octets(&self) -> [u8; 6] {
        let [a, b, c] = self.plmn.octets();
        let [high, low] = (self.set << 6 | u16::from(self.pointer & 0x3f)).to_be_bytes();
        [a, b, c, self.region, high, low]
    }
}

/// An S-NSSAI of the requested NSSAI: SST, and SD where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SNssai {
    /// Slice/Service Type.
    pub sst: u8,
    /// Slice Differentiator.
    pub sd: Option<[u8; 3]>,
}

impl SNssai {
    /// One LV entry: length 1 (SST), 2 (+ mapped SST), 4 (SST, SD), 5 or 8 (+ mapped values).
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = usize::from(reader.u8("S-NSSAI")?);
        let mut value = Reader::new(reader.take(len, "S-NSSAI")?);
        let sst = value.u8("S-NSSAI")?;
        let sd = match len {
            1 | 2 => None,
            4 | 5 | 8 => Some(value.array("S-NSSAI")?),
            found => {
                return Err(DecodeError::Length {
                    field: "S-NSSAI",
                    found,
                });
            }
        };
        Ok(Self { sst, sd })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self.sd {
            None => out.extend([1, self.sst]),
            Some([a, b, c]) => out.extend([4, self.sst, a, b, c]),
        }
    }
}

/// Establishment cause for non-3GPP access (TS 24.502, 9.2.2): the low four bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EstablishmentCause {
    /// 0
    Emergency,
    /// 1
    HighPriorityAccess,
    /// 3
    MoSignalling,
    /// 4
    MoData,
    /// 8
    MpsPriorityAccess,
    /// 9
    McsPriorityAccess,
}

impl EstablishmentCause {
    /// From the octet; undefined codes are treated as MO data.
    pub const fn from_octet(octet: u8) -> Self {
        match octet & 0x0f {
            0 => Self::Emergency,
            1 => Self::HighPriorityAccess,
            3 => Self::MoSignalling,
            8 => Self::MpsPriorityAccess,
            9 => Self::McsPriorityAccess,
            _ => Self::MoData,
        }
    }

    /// The code.
    pub const fn octet(self) -> u8 {
        match self {
            Self::Emergency => 0,
            Self::HighPriorityAccess => 1,
            Self::MoSignalling => 3,
            Self::MoData => 4,
            Self::MpsPriorityAccess => 8,
            Self::McsPriorityAccess => 9,
        }
    }
}

/// The AN-parameters of one 5G-NAS response. All of them are optional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnParameters {
    /// The AMF that the UE was registered with.
    pub guami: Option<Guami>,
    /// The PLMN the UE selected.
    pub selected_plmn: Option<Plmn>,
    /// Requested NSSAI, in the UE's order.
    pub requested_nssai: Vec<SNssai>,
    /// Why the UE wants a connection.
    pub establishment_cause: Option<EstablishmentCause>,
}

impl AnParameters {
    /// Whether nothing would be sent.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Reads the TLVs. A parameter with a wrong length is an error; an unknown type is skipped.
    pub fn decode(octets: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(octets);
        let mut found = Self::default();
        while !reader.is_empty() {
            let kind = reader.u8("AN-parameter type")?;
            let len = usize::from(reader.u8("AN-parameter length")?);
            let value = reader.take(len, "AN-parameter value")?;
            match kind {
                TYPE_GUAMI => found.guami = Some(Guami::decode(value)?),
                TYPE_SELECTED_PLMN => {
                    let mut value = Reader::new(value);
                    found.selected_plmn = Some(Plmn::from_octets(value.array("selected PLMN")?)?);
                    value.finish("selected PLMN")?;
                }
                TYPE_REQUESTED_NSSAI => {
                    let mut value = Reader::new(value);
                    while !value.is_empty() {
                        found.requested_nssai.push(SNssai::decode(&mut value)?);
                    }
                }
                TYPE_ESTABLISHMENT_CAUSE => {
                    let mut value = Reader::new(value);
                    let octet = value.u8("establishment cause")?;
                    value.finish("establishment cause")?;
                    found.establishment_cause = Some(EstablishmentCause::from_octet(octet));
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Writes the TLVs, in the order GUAMI, establishment cause, PLMN, NSSAI.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::new();
        if let Some(guami) = &self.guami {
            out.extend([TYPE_GUAMI, 6]);
            out.extend(guami.octets());
        }
        if let Some(cause) = self.establishment_cause {
            out.extend([TYPE_ESTABLISHMENT_CAUSE, 1, cause.octet()]);
        }
        if let Some(plmn) = &self.selected_plmn {
            out.extend([TYPE_SELECTED_PLMN, 3]);
            out.extend(plmn.octets());
        }
        if !self.requested_nssai.is_empty() {
            let mut value = Vec::new();
            for nssai in &self.requested_nssai {
                nssai.encode(&mut value);
            }
            out.extend([TYPE_REQUESTED_NSSAI, len8(value.len(), "requested NSSAI")?]);
            out.extend(value);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> AnParameters {
        let plmn = Plmn::from_digits("208", "93").unwrap();
        AnParameters {
            guami: Some(Guami {
                plmn,
                region: 0xca,
                set: 0x3f8,
                pointer: 0,
            }),
            selected_plmn: Some(plmn),
            requested_nssai: vec![
                SNssai {
                    sst: 1,
                    sd: Some([1, 2, 3]),
                },
                SNssai { sst: 2, sd: None },
            ],
            establishment_cause: Some(EstablishmentCause::MoSignalling),
        }
    }

    #[test]
    fn octets_are_those_of_the_standard() {
        let expected = [
            1, 6, 0x02, 0xf8, 0x39, 0xca, 0xfe, 0x00, // GUAMI
            4, 1, 3, // establishment cause
            2, 3, 0x02, 0xf8, 0x39, // PLMN
            3, 7, 4, 1, 1, 2, 3, 1, 2, // NSSAI
        ];
        assert_eq!(full().encode().unwrap(), expected);
        assert_eq!(AnParameters::decode(&expected).unwrap(), full());
    }

    #[test]
    fn plmn_digits_both_ways() {
        for (mcc, mnc) in [("208", "93"), ("001", "001"), ("310", "410")] {
            let plmn = Plmn::from_digits(mcc, mnc).unwrap();
            assert_eq!(plmn.digits(), (mcc.to_owned(), mnc.to_owned()));
            assert_eq!(Plmn::from_octets(plmn.octets()), Ok(plmn));
        }
        for (mcc, mnc) in [("20", "93"), ("208", "9"), ("2x8", "93"), ("208", "9345")] {
            assert_eq!(Plmn::from_digits(mcc, mnc), None);
        }
        assert!(Plmn::from_octets([0xaa, 0xf8, 0x39]).is_err());
    }

    #[test]
    fn every_truncation_is_an_error_or_a_shorter_list() {
        let octets = full().encode().unwrap();
        for len in 0..octets.len() {
            // Only cuts between two parameters decode.
            let whole = [0, 8, 11, 16].contains(&len);
            assert_eq!(
                AnParameters::decode(&octets[..len]).is_ok(),
                whole,
                "cut at {len}"
            );
        }
    }

    #[test]
    fn lengths_that_lie_are_errors() {
        // The lengths that made another implementation read out of bounds: 254 and 255 octets.
        for len in [5, 7, 254, 255] {
            assert!(
                AnParameters::decode(&[TYPE_GUAMI, len, 0x02, 0xf8, 0x39, 0xca, 0xfe, 0]).is_err()
            );
        }
        assert!(AnParameters::decode(&[TYPE_SELECTED_PLMN, 2, 0x02, 0xf8]).is_err());
        assert!(AnParameters::decode(&[TYPE_ESTABLISHMENT_CAUSE, 0]).is_err());
        assert!(AnParameters::decode(&[TYPE_REQUESTED_NSSAI, 4, 3, 1, 2, 3]).is_err());
        assert!(AnParameters::decode(&[TYPE_REQUESTED_NSSAI, 1, 0]).is_err());
    }

    #[test]
    fn unknown_types_are_skipped() {
        let mut octets = vec![200, 2, 0xff, 0xff];
        octets.extend(full().encode().unwrap());
        assert_eq!(AnParameters::decode(&octets).unwrap(), full());
    }

    #[test]
    fn too_many_slices_do_not_encode() {
        let nssai = vec![
            SNssai {
                sst: 1,
                sd: Some([0; 3])
            };
            52
        ];
        let error = AnParameters {
            requested_nssai: nssai,
            ..AnParameters::default()
        }
        .encode();
        assert_eq!(
            error,
            Err(EncodeError {
                field: "requested NSSAI",
                size: 260
            })
        );
    }
}
