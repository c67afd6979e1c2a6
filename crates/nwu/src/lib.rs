//! TS 24.502 codecs: EAP-5G, private notifies, NAS envelopes, GRE with QFI.
