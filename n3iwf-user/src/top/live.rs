//! The terminal: a view that is drawn again, or lines for scripts and pipes.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    time::Duration,
};

use anyhow::Context;
use crossterm::{
    cursor,
    event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    execute, queue,
    style::{Attribute, Print, SetAttribute},
    terminal::{self, ClearType},
};
use daemon::control::Client;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Rates, events, record, view};
use crate::report::{Overview, Request};

/// Rows of UEs asked for.
const ROWS: usize = 500;
/// Columns and lines where there is no terminal to ask.
const PAGE: (usize, usize) = (160, 60);
/// How often the keyboard is looked at.
const KEYS: Duration = Duration::from_millis(50);

/// Options of `top`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Top {
    /// Time between two views.
    #[arg(long, value_parser = interval, default_value = "2s")]
    interval: Duration,
    /// Print one view and end; rates are those of one interval.
    #[arg(long)]
    once: bool,
}

/// Options of `watch`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Watch {
    /// Time between two lines.
    #[arg(long, value_parser = interval, default_value = "1s")]
    interval: Duration,
    /// End after so many intervals.
    #[arg(long)]
    count: Option<u64>,
}

fn interval(text: &str) -> Result<Duration, String> {
    qkd::duration::parse(text)
        .filter(|time| *time >= Duration::from_millis(100))
        .ok_or_else(|| "100ms or more, such as 500ms, 2s".to_owned())
}

/// The daemon, asked again and again.
struct Source {
    client: Client,
}

impl Source {
    async fn connect(socket: &Path) -> anyhow::Result<Self> {
        let client = Client::connect(socket).await?;
        Ok(Self { client })
    }

    async fn ask(&mut self) -> anyhow::Result<Overview> {
        Ok(self.client.call(&Request::Overview { ues: ROWS }).await?)
    }
}

/// `n3iwfctl top`: on a terminal until `q`; else one view after the other.
///
/// # Errors
/// When the daemon does not answer, or the terminal does not.
pub async fn top(socket: &Path, options: Top) -> anyhow::Result<()> {
    let mut source = Source::connect(socket).await?;
    let mut out = io::stdout();
    if !options.once && out.is_terminal() && io::stdin().is_terminal() {
        let screen = Screen::open()?;
        let outcome = draw(&mut source, options.interval).await;
        drop(screen);
        return outcome;
    }
    let mut before = source.ask().await?;
    loop {
        sleep(options.interval).await;
        let now = source.ask().await?;
        let mut text = view(&now, Some(&before), PAGE.0, PAGE.1).join("\n");
        text.push('\n');
        if !options.once {
            text.push('\n');
        }
        if !written(&mut out, &text)? || options.once {
            return Ok(());
        }
        before = now;
    }
}

/// `n3iwfctl watch`: one JSON object per line for each interval and each change; without `json`,
/// one line of text for each.
///
/// # Errors
/// When the daemon does not answer.
pub async fn watch(socket: &Path, options: Watch, json: bool) -> anyhow::Result<()> {
    let mut source = Source::connect(socket).await?;
    let mut out = io::stdout();
    let mut before: Option<Overview> = None;
    let mut left = options.count;
    let mut next = Instant::now();
    while left != Some(0) {
        sleep_until(next).await;
        next += options.interval;
        let now = source.ask().await?;
        let rates = before.as_ref().map(|before| Rates::between(before, &now));
        let changes = before.as_ref().map(|before| events(before, &now));
        let mut text = String::new();
        for change in changes.unwrap_or_default() {
            text += &format!("{change}\n");
        }
        if json {
            text += &format!("{}\n", record(&now, rates.as_ref()));
        } else {
            let rates = rates.unwrap_or_default();
            text += &format!(
                "up {}s: {} UEs, {} IKE SAs, keys held {}, {:.1} keys/s, user {:.0} pkt/s up {:.0} pkt/s down\n",
                now.status.uptime,
                now.status.ues,
                now.status.ike_sas,
                now.keys.held,
                rates.keys_fetched,
                rates.up_packets,
                rates.down_packets,
            );
        }
        if !written(&mut out, &text)? {
            return Ok(());
        }
        before = Some(now);
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// Whether anybody still reads.
fn written(out: &mut impl Write, text: &str) -> io::Result<bool> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

async fn draw(source: &mut Source, interval: Duration) -> anyhow::Result<()> {
    let mut before: Option<Overview> = None;
    loop {
        let now = source.ask().await?;
        let next = Instant::now() + interval;
        let mut resized = true;
        while Instant::now() < next {
            if resized {
                paint(&now, before.as_ref()).context("terminal")?;
                resized = false;
            }
            // A look at the keyboard does not wait; the runtime has other things to do meanwhile.
            while event::poll(Duration::ZERO)? {
                match event::read()? {
                    Event::Key(key) if leaves(key) => return Ok(()),
                    Event::Resize(..) => resized = true,
                    _ => {}
                }
            }
            sleep(KEYS).await;
        }
        before = Some(now);
    }
}

fn leaves(key: KeyEvent) -> bool {
    key.kind == KeyEventKind::Press
        && (matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
            || (key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL)))
}

fn paint(now: &Overview, before: Option<&Overview>) -> io::Result<()> {
    let (columns, lines) = terminal::size()?;
    let (width, height) = (usize::from(columns), usize::from(lines));
    let mut out = io::stdout().lock();
    for (at, text) in (0_u16..).zip(view(now, before, width, height)) {
        let bold = if at == 0 {
            Attribute::Bold
        } else {
            Attribute::Reset
        };
        queue!(
            out,
            cursor::MoveTo(0, at),
            SetAttribute(bold),
            Print(text),
            SetAttribute(Attribute::Reset),
            terminal::Clear(ClearType::UntilNewLine)
        )?;
    }
    queue!(out, terminal::Clear(ClearType::FromCursorDown))?;
    out.flush()
}

/// The terminal in its other screen and without line editing; given back on drop.
struct Screen;

impl Screen {
    fn open() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let screen = Self;
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        drop(execute!(
            io::stdout(),
            cursor::Show,
            terminal::LeaveAlternateScreen
        ));
        drop(terminal::disable_raw_mode());
    }
}
