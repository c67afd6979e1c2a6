//! Namespaces, virtual machine and scenarios for the end-to-end tests and the demo.
