//! NGAP transport: kernel SCTP or a Unix SOCK_SEQPACKET socket.
