//! A pair of QKD key management entities (ETSI GS QKD 014) over a simulated QKD link.
