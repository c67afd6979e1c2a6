//! GTP-U (TS 29.281) and the PDU Session Container (TS 38.415), as used on N3.
//!
//! ```text
//! flags(1) type(1) length(2, after the first 8 octets) TEID(4) [seq(2) N-PDU(1) next-ext(1)]
//! flags: version 1 (0x20), PT 0x10, E 0x04, S 0x02, PN 0x01; the optional word is there if any of the three is set
//! extension header: length(1, in units of 4 octets) content next-ext(1)
//! ```

mod container;
mod message;

pub use container::{Direction, PduSessionContainer};
pub use message::{
    DecodeError, ErrorIndication, Header, Message, MessageType, PORT, RequiredExtension,
    echo_request, echo_response, encode_end_marker, encode_g_pdu, g_pdu_header,
    supported_extension_headers,
};
