//! User-plane relays: GRE towards the IPsec tunnel on one side, GTP-U or a TUN device on the other.
