//! Writer for the "newc" cpio archives the kernel unpacks as initramfs
//! (Documentation/driver-api/early-userspace/buffer-format.rst): a header of
//! `070701` and thirteen 8-digit hexadecimal fields, the name with its NUL,
//! the data; name and data padded to 4 octets.
//!
//! Archives may follow one another in one image, and later entries replace
//! earlier ones, so that a job is a small archive behind a cached base.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// One archive being written.
pub(crate) struct Archive<W> {
    out: W,
    written: u64,
    inode: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            written: 0,
            inode: 0,
            directories: BTreeSet::new(),
        }
    }

    /// A directory and those above it; each is written once.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || !self.directories.insert(path.to_owned()) {
            return Ok(());
        }
        self.parents(path)?;
        self.header(path, DIRECTORY | mode, 0, (0, 0))
    }

    /// A regular file with the given content.
    pub(crate) fn bytes(&mut self, path: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        let path = path.trim_matches('/');
        self.parents(path)?;
        let length = u32::try_from(data.len()).map_err(io::Error::other)?;
        self.header(path, REGULAR | mode, length, (0, 0))?;
        self.put(data)?;
        self.pad()
    }

    /// A copy of a file of the host, with its permission bits.
    pub(crate) fn file(&mut self, path: &str, source: &Path) -> io::Result<()> {
        let mut file = fs::File::open(source)?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        let mut data = Vec::new();
        file.read_to_end(&mut data)?;
        self.bytes(path, mode, &data)
    }

    /// A symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        self.parents(path)?;
        let length = u32::try_from(target.len()).map_err(io::Error::other)?;
        self.header(path, SYMLINK | 0o777, length, (0, 0))?;
        self.put(target.as_bytes())?;
        self.pad()
    }

    /// A character device.
    pub(crate) fn device(&mut self, path: &str, mode: u32, number: (u32, u32)) -> io::Result<()> {
        let path = path.trim_matches('/');
        self.parents(path)?;
        self.header(path, CHARACTER | mode, 0, number)
    }

    /// The trailer, without which the kernel calls the archive broken.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.header("TRAILER!!!", 0, 0, (0, 0))?;
        // A following archive starts at a multiple of 4; 512 is customary.
        while !self.written.is_multiple_of(512) {
            self.put(&[0])?;
        }
        self.out.flush()?;
        Ok(self.out)
    }

    fn parents(&mut self, path: &str) -> io::Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent, 0o755),
            None => Ok(()),
        }
    }

    fn header(&mut self, name: &str, mode: u32, size: u32, device: (u32, u32)) -> io::Result<()> {
        self.inode += 1;
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        self.put(b"070701")?;
        for field in fields {
            self.put(format!("{field:08x}").as_bytes())?;
        }
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad()
    }

    fn put(&mut self, data: &[u8]) -> io::Result<()> {
        self.out.write_all(data)?;
        self.written += data.len() as u64;
        Ok(())
    }

    fn pad(&mut self) -> io::Result<()> {
        while !self.written.is_multiple_of(4) {
            self.put(&[0])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn an_independent_reader_unpacks_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = Archive::new(Vec::new());
        archive.bytes("/etc/deep/hello", 0o640, b"hello\n").unwrap();
        archive.symlink("/etc/link", "deep/hello").unwrap();
        archive.directory("/tmp", 0o1777).unwrap();
        archive.bytes("empty", 0o755, b"").unwrap();
        let image = archive.finish().unwrap();
        assert_eq!(image.len() % 512, 0);
        let mut child = Command::new("busybox")
            .args(["cpio", "-i", "-d"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&image).unwrap();
        assert!(child.wait().unwrap().success());
        let at = |name: &str| dir.path().join(name);
        assert_eq!(fs::read(at("etc/deep/hello")).unwrap(), b"hello\n");
        assert_eq!(
            fs::metadata(at("etc/deep/hello"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o640
        );
        assert_eq!(
            fs::read_link(at("etc/link")).unwrap(),
            Path::new("deep/hello")
        );
        assert_eq!(
            fs::metadata(at("tmp")).unwrap().permissions().mode() & 0o7777,
            0o1777
        );
        assert_eq!(fs::metadata(at("empty")).unwrap().len(), 0);
    }
}
