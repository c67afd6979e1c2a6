//! ETSI GS QKD 014 client and QKD key accounting.
