//! Asking the programs over their control sockets: one JSON request line, one JSON reply line.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::exec;
use crate::world::{Role, World};

/// Longest wait for a reply.
const LIMIT: Duration = Duration::from_secs(30);

/// Asks a program and returns its answer.
///
/// # Errors
/// When it does not answer, or with its own words when it declines.
pub fn ask(world: &World, role: Role, request: &Value) -> Result<Value> {
    ask_at(&world.socket(role), role.name(), request)
}

/// Asks whoever listens at `socket`; `name` is for messages.
///
/// # Errors
/// As [`ask`].
pub fn ask_at(socket: &Path, name: &str, request: &Value) -> Result<Value> {
    Asked::begin(socket, name, request)?.answer()
}

/// A request whose answer nobody has read yet.
#[derive(Debug)]
pub struct Asked {
    stream: UnixStream,
    name: String,
}

impl Asked {
    /// Asks whoever listens at `socket`, and does not wait for the answer.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn begin(socket: &Path, name: &str, request: &Value) -> Result<Self> {
        let mut stream =
            UnixStream::connect(socket).with_context(|| format!("{name} does not listen"))?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        Ok(Self {
            stream,
            name: name.to_owned(),
        })
    }

    /// The answer.
    ///
    /// # Errors
    /// As [`ask`].
    pub fn answer(self) -> Result<Value> {
        let Self { stream, name } = self;
        let mut reply = String::new();
        BufReader::new(stream)
            .read_line(&mut reply)
            .with_context(|| format!("{name}: no reply"))?;
        let mut reply: Value =
            serde_json::from_str(&reply).with_context(|| format!("{name}: not JSON: {reply}"))?;
        if let Some(error) = reply.get("error").and_then(Value::as_str) {
            bail!("{name}: {error}");
        }
        reply
            .get_mut("ok")
            .map(Value::take)
            .ok_or_else(|| anyhow!("{name}: neither ok nor error"))
    }
}

/// The N3IWF's answer to one of its simple requests.
///
/// # Errors
/// As [`ask`].
pub fn n3iwf(world: &World, command: &str) -> Result<Value> {
    ask(world, Role::N3iwf, &json!({ "command": command }))
}

/// The UE's answer to one of its simple requests.
///
/// # Errors
/// As [`ask`].
pub fn ue(world: &World, request: &str) -> Result<Value> {
    ask(world, Role::Ue, &json!({ "request": request }))
}

/// The core's answer to one of its simple requests.
///
/// # Errors
/// As [`ask`].
pub fn core(world: &World, command: &str) -> Result<Value> {
    ask(world, Role::Core, &json!({ "command": command }))
}

/// A number of an answer, by JSON pointer.
///
/// # Errors
/// When it is not there or no number.
pub fn number(value: &Value, pointer: &str) -> Result<u64> {
    value
        .pointer(pointer)
        .and_then(Value::as_u64)
        .with_context(|| format!("no number {pointer} in {value}"))
}

/// A text of an answer, by JSON pointer; empty when it is not there.
#[must_use]
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Puts a fault in force at a KME, by its command-line tool.
///
/// # Errors
/// With what the tool said.
pub fn kme_fault(world: &World, role: Role, arguments: &[&str]) -> Result<()> {
    let socket = world.socket(role).display().to_string();
    let mut words = vec!["fault", "--control", &socket];
    words.extend(arguments);
    world.tool(role, "kme", &words).map(drop)
}

/// Waits until the link between the KMEs is up at both ends.
///
/// # Errors
/// When it does not come up.
pub fn wait_kme_link(world: &World) -> Result<()> {
    for role in [Role::KmeA, Role::KmeB] {
        exec::wait_for(
            &format!("QKD link of {}", role.name()),
            Duration::from_secs(20),
            || {
                let status = ask(world, role, &json!({ "command": "status" }))?;
                let up = status
                    .pointer("/0/link_up")
                    .or_else(|| status.pointer("/0/linkUp"));
                Ok(up.and_then(Value::as_bool).unwrap_or(false).then_some(()))
            },
        )?;
    }
    Ok(())
}
