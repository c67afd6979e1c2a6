//! GTP-U (TS 29.281) and the PDU Session Container (TS 38.415).
