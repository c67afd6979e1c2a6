//! XFRM, interfaces, eBPF loading and the user-plane relays.
