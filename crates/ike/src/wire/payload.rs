//! The payloads as a type, and the registries of their small fields.

use super::{
    cp::Configuration, delete::Delete, id::Identification, notify::Notify, sa::SaPayload,
    ts::TrafficSelector,
};

codes! {
    /// Next Payload octet (RFC 7296, section 3.2).
    PayloadType(u8) {
        NONE = 0 "NONE",
        SA = 33 "SA",
        KE = 34 "KE",
        ID_I = 35 "IDi",
        ID_R = 36 "IDr",
        CERT = 37 "CERT",
        CERTREQ = 38 "CERTREQ",
        AUTH = 39 "AUTH",
        NONCE = 40 "Nonce",
        NOTIFY = 41 "N",
        DELETE = 42 "D",
        VENDOR_ID = 43 "V",
        TS_I = 44 "TSi",
        TS_R = 45 "TSr",
        SK = 46 "SK",
        CP = 47 "CP",
        EAP = 48 "EAP",
        SKF = 53 "SKF",
    }
}

codes! {
    /// Auth Method octet of the AUTH payload (RFC 7296, section 3.8; RFC 7427).
    AuthMethod(u8) {
        RSA = 1 "RSA Digital Signature",
        SHARED_KEY = 2 "Shared Key Message Integrity Code",
        DSS = 3 "DSS Digital Signature",
        ECDSA_256 = 9 "ECDSA with SHA-256 on P-256",
        ECDSA_384 = 10 "ECDSA with SHA-384 on P-384",
        ECDSA_521 = 11 "ECDSA with SHA-512 on P-521",
        NULL = 13 "NULL Authentication",
        DIGITAL_SIGNATURE = 14 "Digital Signature",
    }
}

codes! {
    /// Cert Encoding octet of CERT and CERTREQ (RFC 7296, section 3.6).
    CertEncoding(u8) {
        PKCS7 = 1 "PKCS #7 wrapped X.509 certificate",
        X509_SIGNATURE = 4 "X.509 Certificate - Signature",
        CRL = 7 "Certificate Revocation List",
        X509_HASH_URL = 12 "Hash and URL of X.509 certificate",
    }
}

/// One payload without its generic header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Security Association: the proposals.
    Sa(SaPayload),
    /// Key Exchange: method (2), reserved (2), data.
    Ke {
        /// Key exchange method (transform type 4).
        method: u16,
        /// Public value.
        data: Vec<u8>,
    },
    /// Identification of the initiator.
    IdI(Identification),
    /// Identification of the responder.
    IdR(Identification),
    /// Certificate: encoding (1), data.
    Cert {
        /// How `data` is to be read.
        encoding: CertEncoding,
        /// The certificate; DER for [`CertEncoding::X509_SIGNATURE`].
        data: Vec<u8>,
    },
    /// Certificate Request: encoding (1), authorities.
    CertReq {
        /// Wanted encoding.
        encoding: CertEncoding,
        /// For X.509: n times 20 octets, SHA-1 of the CA's SubjectPublicKeyInfo.
        authorities: Vec<u8>,
    },
    /// Authentication: method (1), reserved (3), data.
    Auth {
        /// How `data` was made.
        method: AuthMethod,
        /// Signature or message integrity code.
        data: Vec<u8>,
    },
    /// Nonce of 16 to 256 octets.
    Nonce(Vec<u8>),
    /// Notify.
    Notify(Notify),
    /// Delete.
    Delete(Delete),
    /// Vendor ID.
    VendorId(Vec<u8>),
    /// Traffic Selectors of the exchange initiator.
    TsI(Vec<TrafficSelector>),
    /// Traffic Selectors of the exchange responder.
    TsR(Vec<TrafficSelector>),
    /// Configuration.
    Cp(Configuration),
    /// An EAP packet, code octet first.
    Eap(Vec<u8>),
    /// A payload of unknown type without the critical bit: to be skipped.
    Unknown {
        /// Its type number.
        payload_type: u8,
        /// Its body.
        data: Vec<u8>,
    },
}

impl Payload {
    /// The number that announces this payload in the header before it.
    pub const fn payload_type(&self) -> PayloadType {
        match self {
            Self::Sa(_) => PayloadType::SA,
            Self::Ke { .. } => PayloadType::KE,
            Self::IdI(_) => PayloadType::ID_I,
            Self::IdR(_) => PayloadType::ID_R,
            Self::Cert { .. } => PayloadType::CERT,
            Self::CertReq { .. } => PayloadType::CERTREQ,
            Self::Auth { .. } => PayloadType::AUTH,
            Self::Nonce(_) => PayloadType::NONCE,
            Self::Notify(_) => PayloadType::NOTIFY,
            Self::Delete(_) => PayloadType::DELETE,
            Self::VendorId(_) => PayloadType::VENDOR_ID,
            Self::TsI(_) => PayloadType::TS_I,
            Self::TsR(_) => PayloadType::TS_R,
            Self::Cp(_) => PayloadType::CP,
            Self::Eap(_) => PayloadType::EAP,
            Self::Unknown { payload_type, .. } => PayloadType(*payload_type),
        }
    }
}
