//! The control socket: a Unix stream, one JSON request per line, one JSON reply per line.
//!
//! A reply is `{"ok": VALUE}` or `{"error": "TEXT"}`. The socket file has mode 0600: who may
//! connect is who may control. A file left by a dead process is replaced, a living one is not.

use std::{
    fs::{self, Permissions},
    future::Future,
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

/// Longest request line, octets with the line end.
pub const MAX_REQUEST: usize = 64 * 1024;
/// Longest reply line, octets with the line end.
pub const MAX_REPLY: usize = 64 * 1024 * 1024;
/// Connections served at once; more wait in the socket's backlog.
const MAX_CONNECTIONS: usize = 32;
/// A client that sends nothing for this long is let go.
const IDLE: Duration = Duration::from_secs(30);
/// How long a client waits for its reply.
const REPLY_WAIT: Duration = Duration::from_secs(30);

/// The daemon's end.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    file: SocketFile,
}

impl Server {
    /// Binds `path`, making its directory when there is none.
    ///
    /// # Errors
    ///
    /// [`ControlError::InUse`] when a process answers there, [`ControlError::NotASocket`] when
    /// another kind of file is in the way, [`ControlError::Socket`] for the rest.
    pub async fn bind(path: impl AsRef<Path>) -> Result<Self, ControlError> {
        let path = path.as_ref();
        let failed = |source| ControlError::Socket {
            path: path.to_path_buf(),
            source,
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        clear_stale(path).await?;
        // Bound under another name until the mode is right: never reachable with a wider one.
        let mut staging = path.as_os_str().to_owned();
        staging.push(format!(".{}", std::process::id()));
        let staging = PathBuf::from(staging);
        drop(fs::remove_file(&staging));
        let listener = UnixListener::bind(&staging).map_err(failed)?;
        let placed = fs::set_permissions(&staging, Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&staging, path))
            .and_then(|()| fs::symlink_metadata(path));
        match placed {
            Ok(metadata) => Ok(Self {
                listener,
                file: SocketFile {
                    path: path.to_path_buf(),
                    inode: (metadata.dev(), metadata.ino()),
                },
            }),
            Err(error) => {
                drop(fs::remove_file(&staging));
                Err(failed(error))
            }
        }
    }

    /// Answers requests until dropped. A handler's `Err` becomes the reply's error text.
    pub async fn serve<Request, Handler, Answer, Content>(self, handler: Handler)
    where
        Request: DeserializeOwned + Send,
        Handler: Fn(Request) -> Answer + Send + Sync + 'static,
        Answer: Future<Output = Result<Content, String>> + Send,
        Content: Serialize + Send + Sync,
    {
        let handler = Arc::new(handler);
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut clients = tokio::task::JoinSet::new();
        loop {
            while clients.try_join_next().is_some() {}
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let handler = Arc::clone(&handler);
                    clients.spawn(async move {
                        if let Err(error) = converse(stream, &*handler).await {
                            tracing::debug!(%error, "control connection ended");
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    // Out of descriptors: others may free some.
                    tracing::warn!(%error, "control socket: accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

/// The tool's end.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the daemon at `path`.
    ///
    /// # Errors
    ///
    /// [`ControlError::Socket`]: no daemon there, or no right to talk to it.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ControlError> {
        let path = path.as_ref();
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| ControlError::Socket {
                path: path.to_path_buf(),
                source,
            })?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Sends one request and reads its reply.
    ///
    /// # Errors
    ///
    /// [`ControlError::Refused`] carries the daemon's own words; the others tell of a broken
    /// connection or a reply that is none.
    pub async fn call<T: DeserializeOwned>(
        &mut self,
        request: &impl Serialize,
    ) -> Result<T, ControlError> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        if line.len() > MAX_REQUEST {
            return Err(ControlError::TooLong);
        }
        let exchange = async {
            self.stream.get_mut().write_all(&line).await?;
            read_line(&mut self.stream, MAX_REPLY).await
        };
        let reply = timeout(REPLY_WAIT, exchange)
            .await
            .map_err(|_| ControlError::NoReply)??
            .ok_or(ControlError::NoReply)?;
        match serde_json::from_slice(&reply)? {
            Reply::<Value>::Ok(value) => Ok(serde_json::from_value(value)?),
            Reply::Error(text) => Err(ControlError::Refused(text)),
        }
    }
}

/// What goes wrong on a control socket.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// A living process has the socket.
    #[error("{}: another process answers here", .0.display())]
    InUse(PathBuf),
    /// Some other file has the name.
    #[error("{}: in the way, and not a socket", .0.display())]
    NotASocket(PathBuf),
    /// What the system said.
    #[error("{}: {source}", path.display())]
    Socket {
        /// Which socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("control connection: {0}")]
    Connection(#[from] io::Error),
    /// No JSON, or not the JSON expected.
    #[error("control message: {0}")]
    Message(#[from] serde_json::Error),
    /// A line longer than allowed.
    #[error("control message too long")]
    TooLong,
    /// The daemon went away, or took too long.
    #[error("no reply")]
    NoReply,
    /// The daemon understood and declined.
    #[error("{0}")]
    Refused(String),
}

/// The envelope of a reply.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply<Content> {
    Ok(Content),
    Error(String),
}

/// Removes the file on drop if it is still the one bound here.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode);
        if ours {
            drop(fs::remove_file(&self.path));
        }
    }
}

async fn clear_stale(path: &Path) -> Result<(), ControlError> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(ControlError::NotASocket(path.to_path_buf()));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(ControlError::Socket {
            path: path.to_path_buf(),
            source,
        }),
        Ok(_) => Err(ControlError::InUse(path.to_path_buf())),
    }
}

async fn converse<Request, Handler, Answer, Content>(
    stream: UnixStream,
    handler: &Handler,
) -> Result<(), ControlError>
where
    Request: DeserializeOwned,
    Handler: Fn(Request) -> Answer,
    Answer: Future<Output = Result<Content, String>>,
    Content: Serialize,
{
    let mut stream = BufReader::new(stream);
    loop {
        let line = match timeout(IDLE, read_line(&mut stream, MAX_REQUEST)).await {
            Ok(Ok(Some(line))) => line,
            Ok(Err(ControlError::TooLong)) => {
                // The rest of the line cannot be told from a request: answer and hang up.
                return answer(&mut stream, &Reply::<()>::Error("request too long".into())).await;
            }
            Ok(Ok(None)) | Err(_) => return Ok(()),
            Ok(Err(error)) => return Err(error),
        };
        let reply = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => match handler(request).await {
                Ok(value) => Reply::Ok(value),
                Err(text) => Reply::Error(text),
            },
            Err(error) => Reply::Error(format!("not a request: {error}")),
        };
        answer(&mut stream, &reply).await?;
    }
}

async fn answer<Content: Serialize>(
    stream: &mut BufReader<UnixStream>,
    reply: &Reply<Content>,
) -> Result<(), ControlError> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    stream.get_mut().write_all(&line).await?;
    Ok(())
}

/// One line without its end; `None` at the end of the stream.
async fn read_line(
    stream: &mut BufReader<UnixStream>,
    limit: usize,
) -> Result<Option<Vec<u8>>, ControlError> {
    let mut line = Vec::new();
    let read = stream
        .take(limit as u64)
        .read_until(b'\n', &mut line)
        .await?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if read >= limit => Err(ControlError::TooLong),
        // The peer hung up in the middle of a line.
        Some(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(tag = "command", rename_all = "lowercase")]
    enum Request {
        Echo { text: String },
        Fail,
    }

    async fn handle(request: Request) -> Result<Value, String> {
        match request {
            Request::Echo { text } => Ok(json!({ "text": text })),
            Request::Fail => Err("as asked".into()),
        }
    }

    async fn server(path: &Path) -> tokio::task::JoinHandle<()> {
        let server = Server::bind(path).await.unwrap();
        tokio::spawn(server.serve(handle))
    }

    #[tokio::test]
    async fn requests_and_replies_alternate() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/x.sock");
        let task = server(&path).await;
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let mut client = Client::connect(&path).await.unwrap();
        for text in ["one", "two"] {
            let text = text.to_owned();
            let reply: Value = client
                .call(&Request::Echo { text: text.clone() })
                .await
                .unwrap();
            assert_eq!(reply["text"], text);
        }
        let error = client.call::<Value>(&Request::Fail).await.unwrap_err();
        assert!(matches!(error, ControlError::Refused(text) if text == "as asked"));
        task.abort();
    }

    #[tokio::test]
    async fn what_is_no_request_is_told_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        let task = server(&path).await;
        let mut client = Client::connect(&path).await.unwrap();
        let error = client.call::<Value>(&json!([1])).await.unwrap_err();
        assert!(error.to_string().starts_with("not a request: "));
        // The connection is still good.
        let text = "x".to_owned();
        assert!(client.call::<Value>(&Request::Echo { text }).await.is_ok());
        task.abort();
    }

    #[tokio::test]
    async fn an_endless_line_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        let task = server(&path).await;
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let flood = vec![b'x'; MAX_REQUEST];
        stream.write_all(&flood).await.unwrap();
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).await.unwrap();
        assert_eq!(reply, "{\"error\":\"request too long\"}\n");
        task.abort();
    }

    #[tokio::test]
    async fn a_living_socket_is_kept_and_a_dead_one_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        let first = Server::bind(&path).await.unwrap();
        assert_eq!(first.path(), path);
        let error = Server::bind(&path).await.unwrap_err();
        assert!(matches!(error, ControlError::InUse(_)), "{error}");
        drop(first);
        assert!(!path.exists());

        // As a killed process leaves it: a file nobody listens on.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = Server::bind(&path).await.unwrap();
        drop(second);

        fs::write(&path, "notes").unwrap();
        let error = Server::bind(&path).await.unwrap_err();
        assert!(matches!(error, ControlError::NotASocket(_)), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"notes");
    }

    #[tokio::test]
    async fn no_daemon_is_an_error_with_the_path() {
        let error = Client::connect("/nonexistent/x.sock").await.unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/x.sock: "));
    }
}
