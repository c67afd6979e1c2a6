//! A flood of IKE_SA_INIT requests from addresses that are nobody's, out of the UE's namespace.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant as Clock};

use anyhow::{Context, Result, anyhow};
use ike::wire::{CfgAttribute, CfgAttributeType, Identification, TrafficSelector};
use ike::{Endpoint, EndpointConfig, InitiatorConfig, Instant, Path, PeerCertificate, Profile};
use rand_core::{Rng, SeedableRng, UnwrapErr};
use socket2::{Domain, Protocol, Socket, Type};

use crate::files::SAE_UE;
use crate::netns::Netns;
use crate::topology;

/// Addresses that the flood comes from (RFC 6598): 22 bits of them are drawn for each datagram.
pub const SOURCES: &str = "100.64.0.0/10";
const FIRST_SOURCE: u32 = 0x6440_0000;
const SOURCE_BITS: u32 = 22;
const IKE_PORT: u16 = 500;
/// IPv4 and UDP headers, octets.
const HEADERS: usize = 28;
/// `IPPROTO_RAW`: the header is ours.
const RAW: i32 = 255;
/// How often the pace is kept.
const BEAT: Duration = Duration::from_millis(2);

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Datagrams that left.
    pub datagrams: u64,
    /// Datagrams that the kernel did not take.
    pub refused: u64,
}

/// Sends `rate` requests a second from `netns` to the N3IWF until told to stop: each from an
/// address and with an initiator SPI drawn for it, all of them good requests otherwise.
///
/// # Errors
/// When there is no raw socket.
pub fn run(netns: &Netns, rate: u32, stop: &AtomicBool) -> Result<Sent> {
    let request = request()?;
    netns.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))?;
        socket.set_header_included_v4(true)?;
        let to = SocketAddrV4::new(topology::N3IWF_NWU.parse()?, 0).into();
        let mut random = rand_chacha::ChaCha20Rng::seed_from_u64(u64::from(std::process::id()));
        let (begun, mut sent) = (Clock::now(), Sent::default());
        while !stop.load(Ordering::Relaxed) {
            let due = begun.elapsed().as_secs_f64() * f64::from(rate);
            while ((sent.datagrams + sent.refused) as f64) < due && !stop.load(Ordering::Relaxed) {
                let packet = packet(&request, random.next_u32(), random.next_u64())?;
                match socket.send_to(&packet, &to) {
                    Ok(_) => sent.datagrams += 1,
                    Err(_) => sent.refused += 1,
                }
            }
            std::thread::sleep(BEAT);
        }
        Ok(sent)
    })
}

/// The first message of a UE that there is.
fn request() -> Result<Vec<u8>> {
    let path = Path {
        local: SocketAddrV4::new(topology::UE_NWU.parse()?, IKE_PORT).into(),
        remote: SocketAddrV4::new(topology::N3IWF_NWU.parse()?, IKE_PORT).into(),
    };
    let random = Box::new(UnwrapErr(getrandom::SysRng));
    let mut endpoint = Endpoint::new(EndpointConfig::default(), random);
    let config = InitiatorConfig {
        profile: Profile::Native,
        sae_id: SAE_UE.parse().map_err(|_| anyhow!("no SAE ID"))?,
        master_sae_id: None,
        identity: Identification::key_id(vec![1, 2, 3, 4]),
        peer_identity: None,
        peer_certificate: PeerCertificate::Ignore,
        ike_suites: vec!["AES_GCM_16-256/PRF_HMAC_SHA2_256".parse()?],
        esp_suites: vec!["AES_GCM_16-256".parse()?],
        ts_local: vec![TrafficSelector::any_v4()],
        ts_remote: vec![TrafficSelector::any_v4()],
        configuration: vec![CfgAttribute::request(
            CfgAttributeType::INTERNAL_IP4_ADDRESS,
        )],
    };
    endpoint.initiate(Instant::ZERO, path, config);
    let first = endpoint.poll_transmit().context("no IKE_SA_INIT")?;
    Ok(first.data)
}

/// IPv4 (RFC 791) with a UDP datagram without checksum (RFC 768). The kernel fills in the header
/// checksum and the identification.
fn packet(request: &[u8], source: u32, spi: u64) -> Result<Vec<u8>> {
    let total = u16::try_from(HEADERS + request.len())?;
    let source = Ipv4Addr::from_bits(FIRST_SOURCE | (source >> (32 - SOURCE_BITS)));
    let target: Ipv4Addr = topology::N3IWF_NWU.parse()?;
    let mut packet = Vec::with_capacity(usize::from(total));
    packet.extend([0x45, 0]);
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(source.octets());
    packet.extend(target.octets());
    packet.extend(IKE_PORT.to_be_bytes());
    packet.extend(IKE_PORT.to_be_bytes());
    packet.extend((total - 20).to_be_bytes());
    packet.extend([0, 0]);
    // An SPI of zero is no request.
    packet.extend((spi | 1).to_be_bytes());
    packet.extend(request.get(8..).context("no IKE header")?);
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_a_whole_request_from_somewhere_else() {
        let request = request().unwrap();
        let one = packet(&request, 0, 0).unwrap();
        let other = packet(&request, u32::MAX, u64::MAX).unwrap();
        assert_eq!(one.len(), HEADERS + request.len());
        assert_eq!(one[2..4], u16::try_from(one.len()).unwrap().to_be_bytes());
        assert_eq!(one[12..16], [100, 64, 0, 0]);
        assert_eq!(other[12..16], [100, 127, 255, 255]);
        assert_eq!(one[16..20], [192, 0, 2, 1]);
        let udp = u16::try_from(request.len() + 8).unwrap();
        assert_eq!(one[24..26], udp.to_be_bytes());
        // All but the SPI is the request; it is read as one.
        assert_eq!(one[36..], request[8..]);
        for packet in [&one, &other] {
            assert!(ike::wire::parse(&packet[HEADERS..]).is_ok());
        }
        assert_ne!(one[28..36], other[28..36]);
    }
}
