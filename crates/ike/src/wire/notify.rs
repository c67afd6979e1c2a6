//! Notify payload and its types (RFC 7296, section 3.10; TS 24.502, clause 9.2.4).

use super::{
    error::{EncodeError, WireError},
    payload::Payload,
    reader::Reader,
    sa::Protocol,
};

codes! {
    /// Notify Message Type: below 16384 an error, else a status.
    NotifyType(u16) {
        UNSUPPORTED_CRITICAL_PAYLOAD = 1 "UNSUPPORTED_CRITICAL_PAYLOAD",
        INVALID_IKE_SPI = 4 "INVALID_IKE_SPI",
        INVALID_MAJOR_VERSION = 5 "INVALID_MAJOR_VERSION",
        INVALID_SYNTAX = 7 "INVALID_SYNTAX",
        INVALID_MESSAGE_ID = 9 "INVALID_MESSAGE_ID",
        INVALID_SPI = 11 "INVALID_SPI",
        NO_PROPOSAL_CHOSEN = 14 "NO_PROPOSAL_CHOSEN",
        INVALID_KE_PAYLOAD = 17 "INVALID_KE_PAYLOAD",
        AUTHENTICATION_FAILED = 24 "AUTHENTICATION_FAILED",
        SINGLE_PAIR_REQUIRED = 34 "SINGLE_PAIR_REQUIRED",
        NO_ADDITIONAL_SAS = 35 "NO_ADDITIONAL_SAS",
        INTERNAL_ADDRESS_FAILURE = 36 "INTERNAL_ADDRESS_FAILURE",
        FAILED_CP_REQUIRED = 37 "FAILED_CP_REQUIRED",
        TS_UNACCEPTABLE = 38 "TS_UNACCEPTABLE",
        INVALID_SELECTORS = 39 "INVALID_SELECTORS",
        UNACCEPTABLE_ADDRESSES = 40 "UNACCEPTABLE_ADDRESSES",
        UNEXPECTED_NAT_DETECTED = 41 "UNEXPECTED_NAT_DETECTED",
        TEMPORARY_FAILURE = 43 "TEMPORARY_FAILURE",
        CHILD_SA_NOT_FOUND = 44 "CHILD_SA_NOT_FOUND",
        STATE_NOT_FOUND = 47 "STATE_NOT_FOUND",
        TS_MAX_QUEUE = 48 "TS_MAX_QUEUE",
        QKD_UNAVAILABLE = 12288 "QKD_UNAVAILABLE",
        CONGESTION = 15500 "CONGESTION",
        NO_RESOURCES_OVER_N3GPP = 15501 "NO_RESOURCES_OVER_N3GPP",
        INITIAL_CONTACT = 16384 "INITIAL_CONTACT",
        SET_WINDOW_SIZE = 16385 "SET_WINDOW_SIZE",
        ADDITIONAL_TS_POSSIBLE = 16386 "ADDITIONAL_TS_POSSIBLE",
        IPCOMP_SUPPORTED = 16387 "IPCOMP_SUPPORTED",
        NAT_DETECTION_SOURCE_IP = 16388 "NAT_DETECTION_SOURCE_IP",
        NAT_DETECTION_DESTINATION_IP = 16389 "NAT_DETECTION_DESTINATION_IP",
        COOKIE = 16390 "COOKIE",
        USE_TRANSPORT_MODE = 16391 "USE_TRANSPORT_MODE",
        HTTP_CERT_LOOKUP_SUPPORTED = 16392 "HTTP_CERT_LOOKUP_SUPPORTED",
        REKEY_SA = 16393 "REKEY_SA",
        ESP_TFC_PADDING_NOT_SUPPORTED = 16394 "ESP_TFC_PADDING_NOT_SUPPORTED",
        NON_FIRST_FRAGMENTS_ALSO = 16395 "NON_FIRST_FRAGMENTS_ALSO",
        MOBIKE_SUPPORTED = 16396 "MOBIKE_SUPPORTED",
        ADDITIONAL_IP4_ADDRESS = 16397 "ADDITIONAL_IP4_ADDRESS",
        ADDITIONAL_IP6_ADDRESS = 16398 "ADDITIONAL_IP6_ADDRESS",
        NO_ADDITIONAL_ADDRESSES = 16399 "NO_ADDITIONAL_ADDRESSES",
        UPDATE_SA_ADDRESSES = 16400 "UPDATE_SA_ADDRESSES",
        COOKIE2 = 16401 "COOKIE2",
        NO_NATS_ALLOWED = 16402 "NO_NATS_ALLOWED",
        AUTH_LIFETIME = 16403 "AUTH_LIFETIME",
        TICKET_LT_OPAQUE = 16409 "TICKET_LT_OPAQUE",
        TICKET_REQUEST = 16410 "TICKET_REQUEST",
        TICKET_ACK = 16411 "TICKET_ACK",
        TICKET_NACK = 16412 "TICKET_NACK",
        TICKET_OPAQUE = 16413 "TICKET_OPAQUE",
        EAP_ONLY_AUTHENTICATION = 16417 "EAP_ONLY_AUTHENTICATION",
        CHILDLESS_IKEV2_SUPPORTED = 16418 "CHILDLESS_IKEV2_SUPPORTED",
        QUICK_CRASH_DETECTION = 16419 "QUICK_CRASH_DETECTION",
        IKEV2_FRAGMENTATION_SUPPORTED = 16430 "IKEV2_FRAGMENTATION_SUPPORTED",
        SIGNATURE_HASH_ALGORITHMS = 16431 "SIGNATURE_HASH_ALGORITHMS",
        PUZZLE = 16434 "PUZZLE",
        USE_PPK = 16435 "USE_PPK",
        PPK_IDENTITY = 16436 "PPK_IDENTITY",
        NO_PPK_AUTH = 16437 "NO_PPK_AUTH",
        INTERMEDIATE_EXCHANGE_SUPPORTED = 16438 "INTERMEDIATE_EXCHANGE_SUPPORTED",
        ADDITIONAL_KEY_EXCHANGE = 16441 "ADDITIONAL_KEY_EXCHANGE",
        SUPPORTED_AUTH_METHODS = 16443 "SUPPORTED_AUTH_METHODS",
        SA_RESOURCE_INFO = 16444 "SA_RESOURCE_INFO",
        USE_PPK_INT = 16445 "USE_PPK_INT",
        PPK_IDENTITY_KEY = 16446 "PPK_IDENTITY_KEY",
        FIVE_G_QOS_INFO = 55501 "5G_QOS_INFO",
        NAS_IP4_ADDRESS = 55502 "NAS_IP4_ADDRESS",
        NAS_IP6_ADDRESS = 55503 "NAS_IP6_ADDRESS",
        UP_IP4_ADDRESS = 55504 "UP_IP4_ADDRESS",
        UP_IP6_ADDRESS = 55505 "UP_IP6_ADDRESS",
        NAS_TCP_PORT = 55506 "NAS_TCP_PORT",
        N3GPP_BACKOFF_TIMER = 55507 "N3GPP_BACKOFF_TIMER",
        UP_SA_INFO = 55508 "UP_SA_INFO",
        QKD_SUPPORTED = 61440 "QKD_SUPPORTED",
        QKD_KEY_IDS = 61441 "QKD_KEY_IDS",
        QKD_ADMISSION = 61442 "QKD_ADMISSION",
        QKD_KEYS_MISSING = 61443 "QKD_KEYS_MISSING",
    }
}

impl NotifyType {
    /// Whether the type reports an error rather than a status (RFC 7296, section 3.10.1).
    pub const fn is_error(self) -> bool {
        self.0 < 16384
    }
}

/// A Notify payload.
///
/// ```text
/// 0 Protocol ID   1 SPI Size   2..4 Notify Message Type   SPI   Notification Data
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// Protocol of the SA in `spi`, [`Protocol::NONE`] without one.
    pub protocol: Protocol,
    /// SPI the notification is about, or empty.
    pub spi: Vec<u8>,
    /// Notify Message Type.
    pub kind: NotifyType,
    /// Notification data.
    pub data: Vec<u8>,
}

impl Notify {
    /// A notification about the IKE SA it is sent in: no protocol, no SPI.
    pub const fn status(kind: NotifyType, data: Vec<u8>) -> Self {
        Self {
            protocol: Protocol::NONE,
            spi: Vec::new(),
            kind,
            data,
        }
    }

    /// A notification about the ESP SA with this SPI, such as REKEY_SA.
    pub fn about_esp(kind: NotifyType, spi: u32, data: Vec<u8>) -> Self {
        Self {
            protocol: Protocol::ESP,
            spi: spi.to_be_bytes().to_vec(),
            kind,
            data,
        }
    }

    /// The SPI, when the notification is about an ESP SA.
    pub fn esp_spi(&self) -> Option<u32> {
        let spi = self.spi.as_slice().try_into().ok()?;
        (self.protocol == Protocol::ESP).then(|| u32::from_be_bytes(spi))
    }

    pub(crate) fn read(mut body: Reader<'_>) -> Result<Self, WireError> {
        let protocol = Protocol(body.u8()?);
        let spi_size = body.u8()?;
        let kind = NotifyType(body.u16()?);
        let spi = body.take(spi_size.into())?.to_vec();
        let data = body.rest().to_vec();
        Ok(Self {
            protocol,
            spi,
            kind,
            data,
        })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let spi_size =
            u8::try_from(self.spi.len()).map_err(|_| EncodeError::TooLong("SPI of a Notify"))?;
        out.push(self.protocol.0);
        out.push(spi_size);
        out.extend_from_slice(&self.kind.0.to_be_bytes());
        out.extend_from_slice(&self.spi);
        out.extend_from_slice(&self.data);
        Ok(())
    }
}

impl From<Notify> for Payload {
    fn from(notify: Notify) -> Self {
        Self::Notify(notify)
    }
}

/// The Notify payloads of a chain, in order.
pub fn notifies(payloads: &[Payload]) -> impl Iterator<Item = &Notify> {
    payloads.iter().filter_map(|payload| match payload {
        Payload::Notify(notify) => Some(notify),
        _ => None,
    })
}

/// The first Notify of this type in a chain.
pub fn find_notify(payloads: &[Payload], kind: NotifyType) -> Option<&Notify> {
    notifies(payloads).find(|notify| notify.kind == kind)
}
