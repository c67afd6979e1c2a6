//! Short-lived helper programs, each under a time limit, and waiting for things to become true.

use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// iproute2 by its full path: in the virtual machine busybox has an `ip` too.
pub const IP: &str = "/usr/sbin/ip";

/// No helper takes longer, even under emulation.
const LIMIT: Duration = Duration::from_secs(60);

static STOP: AtomicBool = AtomicBool::new(false);

/// From now on every wait ends with an error: called when a signal asks the rig to end.
pub fn interrupt() {
    STOP.store(true, Ordering::SeqCst);
}

/// An error once [`interrupt`] was called.
///
/// # Errors
/// "interrupted".
pub fn check_interrupt() -> Result<()> {
    if STOP.load(Ordering::SeqCst) {
        bail!("interrupted");
    }
    Ok(())
}

/// Runs to the end and returns standard output; standard error is part of the error.
///
/// # Errors
/// When the program cannot be started, fails, or does not end within a minute.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = raw_output(command)?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{shown}: {} ({})", error.trim(), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs to the end, whatever the exit code.
///
/// # Errors
/// When the program cannot be started or does not end within a minute.
pub fn raw_output(command: &mut Command) -> Result<Output> {
    let shown = show(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {shown}"))?;
    let stdout = child.stdout.take().map(drain);
    let stderr = child.stderr.take().map(drain);
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline || check_interrupt().is_err() {
            child.kill()?;
            child.wait()?;
            check_interrupt()?;
            bail!("{shown}: not finished after {} s", LIMIT.as_secs());
        }
        thread::sleep(Duration::from_millis(2));
    };
    let collect = |reader: Option<thread::JoinHandle<Vec<u8>>>| {
        reader
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default()
    };
    Ok(Output {
        status,
        stdout: collect(stdout),
        stderr: collect(stderr),
    })
}

fn drain(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

fn show(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Asks again and again until there is an answer.
///
/// # Errors
/// When `limit` passes first: the error says what was waited for. An error of `probe` ends the
/// wait at once.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        check_interrupt()?;
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if begun.elapsed() > limit {
            bail!("{what}: not within {:.0} s", limit.as_secs_f32());
        }
        thread::sleep(Duration::from_millis(25));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_carry_what_the_program_said() {
        let error = output(Command::new("sh").args(["-c", "echo why >&2; exit 4"])).unwrap_err();
        assert!(
            format!("{error:#}").contains("why (exit status: 4)"),
            "{error:#}"
        );
        assert_eq!(
            output(Command::new("echo").arg("hello")).unwrap(),
            "hello\n"
        );
    }

    #[test]
    fn waiting_ends() {
        let mut left = 3;
        let value = wait_for("count", Duration::from_secs(5), || {
            left -= 1;
            Ok((left == 0).then_some("done"))
        });
        assert_eq!(value.unwrap(), "done");
        let never = wait_for::<()>("never", Duration::from_millis(60), || Ok(None)).unwrap_err();
        assert!(never.to_string().contains("never: not within"), "{never}");
    }
}
