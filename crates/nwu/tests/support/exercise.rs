//! What the fuzz targets and the corpus replay do with an input: decode it, and hold the decoder to
//! its promises. Panics when one is broken.

use nwu::{EnvelopeReader, GreHeader, QosInfo, eap5g::Packet, nas_envelope, notify};

/// An EAP packet of an IKE peer. What decodes has to encode, and to decode to the same again.
pub fn eap5g(input: &[u8]) {
    if let Ok(packet) = Packet::decode(input) {
        let octets = packet
            .encode()
            .expect("what was decoded fits its length fields");
        assert_eq!(Packet::decode(&octets).as_ref(), Ok(&packet));
    }
}

/// The data of each private notify.
pub fn notify(input: &[u8]) {
    if let Ok(info) = QosInfo::decode(input) {
        let octets = info
            .encode()
            .expect("what was decoded fits its length fields");
        assert_eq!(QosInfo::decode(&octets), Ok(info));
    }
    for kind in notify::QOS_INFO..=notify::NAS_TCP_PORT {
        if let Ok(address) = notify::decode_address(kind, input) {
            let again = [notify::nas_address(address), notify::up_address(address)];
            assert!(
                again
                    .iter()
                    .any(|(k, data)| (*k, &data[..]) == (kind, input))
            );
        }
    }
    if let Ok(port) = notify::decode_port(input) {
        assert_eq!(notify::encode_port(port), input);
    }
}

/// A TCP stream of NAS envelopes, once whole and once octet by octet: the same messages.
pub fn envelope(input: &[u8]) {
    let read = |chunk: usize| {
        let mut reader = EnvelopeReader::new();
        let mut messages = Vec::new();
        for octets in input.chunks(chunk) {
            reader.push(octets);
            loop {
                match reader.next_message() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(_) => return messages,
                }
            }
        }
        messages
    };
    let whole = read(input.len().max(1));
    assert_eq!(read(1), whole);
    let stream: Vec<u8> = whole
        .iter()
        .flat_map(|message| nas_envelope::wrap(message).expect("it came out of an envelope"))
        .collect();
    assert!(input.starts_with(&stream));
}

/// A GRE packet.
pub fn gre(input: &[u8]) {
    if let Ok((header, pdu)) = GreHeader::decode(input) {
        assert!(input.ends_with(pdu));
        let again = [&header.encode(0)[..], pdu].concat();
        let (found, payload) = GreHeader::decode(&again).expect("our own header decodes");
        assert_eq!(
            (found.qfi, found.rqi),
            (Some(header.qfi.unwrap_or(0)), header.rqi)
        );
        assert_eq!(payload, pdu);
    }
}
