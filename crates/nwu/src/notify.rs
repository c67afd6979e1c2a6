//! Data of the other private notifies (TS 24.502, 9.2.4 and 9.3.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::reader::{DecodeError, Reader};

/// CONGESTION, an error.
pub const CONGESTION: u16 = 15500;
/// 5G_QOS_INFO, see [`crate::QosInfo`].
pub const QOS_INFO: u16 = 55501;
/// NAS_IP4_ADDRESS.
pub const NAS_IP4_ADDRESS: u16 = 55502;
/// NAS_IP6_ADDRESS.
pub const NAS_IP6_ADDRESS: u16 = 55503;
/// UP_IP4_ADDRESS.
pub const UP_IP4_ADDRESS: u16 = 55504;
/// UP_IP6_ADDRESS.
pub const UP_IP6_ADDRESS: u16 = 55505;
/// NAS_TCP_PORT.
pub const NAS_TCP_PORT: u16 = 55506;

/// The notify type and data that tell where NAS is reached inside the signalling Child SA.
pub fn nas_address(address: IpAddr) -> (u16, Vec<u8>) {
    address_notify(address, NAS_IP4_ADDRESS, NAS_IP6_ADDRESS)
}

/// The notify type and data that tell where GRE ends inside a user-plane Child SA.
pub fn up_address(address: IpAddr) -> (u16, Vec<u8>) {
    address_notify(address, UP_IP4_ADDRESS, UP_IP6_ADDRESS)
}

fn address_notify(address: IpAddr, kind4: u16, kind6: u16) -> (u16, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (kind4, address.octets().to_vec()),
        IpAddr::V6(address) => (kind6, address.octets().to_vec()),
    }
}

/// Reads the data of one of the four address notifies; the type fixes the family.
pub fn decode_address(kind: u16, data: &[u8]) -> Result<IpAddr, DecodeError> {
    let mut reader = Reader::new(data);
    let address = match kind {
        NAS_IP4_ADDRESS | UP_IP4_ADDRESS => {
            Ipv4Addr::from(reader.array::<4>("IPv4 address")?).into()
        }
        NAS_IP6_ADDRESS | UP_IP6_ADDRESS => {
            Ipv6Addr::from(reader.array::<16>("IPv6 address")?).into()
        }
        other => {
            return Err(DecodeError::Value {
                field: "notify type",
                found: other.into(),
            });
        }
    };
    reader.finish("address notify")?;
    Ok(address)
}

/// The data of NAS_TCP_PORT.
pub fn encode_port(port: u16) -> Vec<u8> {
    port.to_be_bytes().to_vec()
}

/// Reads NAS_TCP_PORT; port 0 is an error.
pub fn decode_port(data: &[u8]) -> Result<u16, DecodeError> {
    let mut reader = Reader::new(data);
    let port = reader.u16("NAS_TCP_PORT")?;
    reader.finish("NAS_TCP_PORT")?;
    if port == 0 {
        return Err(DecodeError::Value {
            field: "NAS_TCP_PORT",
            found: 0,
        });
    }
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_both_ways() {
        let v4: IpAddr = "192.0.2.10".parse().unwrap();
        let v6: IpAddr = "2001:db8::10".parse().unwrap();
        assert_eq!(nas_address(v4), (NAS_IP4_ADDRESS, vec![192, 0, 2, 10]));
        for (kind, data) in [nas_address(v4), up_address(v4)] {
            assert_eq!(decode_address(kind, &data), Ok(v4));
        }
        for (kind, data) in [nas_address(v6), up_address(v6)] {
            assert_eq!(decode_address(kind, &data), Ok(v6));
        }
    }

    #[test]
    fn wrong_sizes_are_errors() {
        for len in [0, 3, 5, 16] {
            assert!(decode_address(UP_IP4_ADDRESS, &vec![1; len]).is_err());
        }
        for len in [0, 4, 15, 17] {
            assert!(decode_address(NAS_IP6_ADDRESS, &vec![1; len]).is_err());
        }
        assert!(decode_address(QOS_INFO, &[1; 4]).is_err());
        for data in [&[][..], &[0x4e], &[0x4e, 0x20, 0], &[0, 0]] {
            assert!(decode_port(data).is_err());
        }
        assert_eq!(decode_port(&encode_port(20000)), Ok(20000));
    }
}
