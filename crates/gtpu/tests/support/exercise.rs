//! What the fuzz target and the corpus replay do with a datagram on N3.

use gtpu::{ErrorIndication, Message, MessageType, encode_g_pdu};

/// Decodes it; what is a G-PDU with a container has to survive being encoded again.
pub fn message(input: &[u8]) {
    let Ok(message) = Message::decode(input) else {
        return;
    };
    if let (MessageType::GPdu, Some(container)) = (message.header.kind, message.header.container) {
        let teid = message.header.teid;
        if let Some(octets) = encode_g_pdu(teid, container, message.payload) {
            let again = Message::decode(&octets).expect("our own G-PDU decodes");
            assert_eq!(again.payload, message.payload);
            assert_eq!(again.header.container, Some(container));
        }
    }
    if let Ok(indication) = ErrorIndication::decode(message.payload) {
        let octets = indication.encode(1);
        let again = Message::decode(&octets).expect("our own Error Indication decodes");
        assert_eq!(ErrorIndication::decode(again.payload), Ok(indication));
    }
}
