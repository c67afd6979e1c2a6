//! Where things are, relative to the root of the workspace.

use std::path::{Path, PathBuf};

/// The root of the workspace: the directory above this package.
pub(crate) fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}

/// Cargo's target directory (`CARGO_TARGET_DIR` is respected).
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => {
            let dir = PathBuf::from(dir);
            if dir.is_absolute() {
                dir
            } else {
                root().join(dir)
            }
        }
        None => root().join("target"),
    }
}

/// The directory of everything the virtual machine needs: kernels, images, logs.
pub(crate) fn vm() -> PathBuf {
    target().join("vm")
}

/// The eBPF object as the daemons load it.
pub(crate) fn bpf_object() -> PathBuf {
    target().join("bpf").join("n3iwf.bpf.o")
}

/// Finds a program as a root shell would: `PATH`, then the system directories.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

/// Cargo's directory of installed programs.
pub(crate) fn cargo_bin() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    home.join("bin")
}
