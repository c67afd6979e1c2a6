//! The key account `fetched = used + lost + held`: as a daemon says it, as its tool prints it, and as Prometheus is
//! told.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::control::{self, number};
use crate::exec;
use crate::report::Finding;
use crate::scrape::Scrape;
use crate::world::{Role, World};

/// The daemons that have one.
const ENDS: [Role; 2] = [Role::N3iwf, Role::Ue];
/// How long the three may take to agree: a page is served again for half a second, and keys may be on their way.
const AGREEMENT: Duration = Duration::from_secs(10);

/// A key account: `fetched = used + lost + held`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyAccount {
    /// Delivered by the KME.
    pub fetched: u64,
    /// Keyed something.
    pub used: u64,
    /// Wiped without use.
    pub lost: u64,
    /// In memory: fetched ahead, or for an exchange that is not final.
    pub held: u64,
    /// Those of them that were fetched ahead.
    pub ahead: u64,
}

impl KeyAccount {
    /// The account of one end.
    ///
    /// # Errors
    /// When the daemon does not answer, or its account does not balance.
    pub fn of(world: &World, role: Role) -> Result<Self> {
        let reply = match role {
            Role::Ue => control::ue(world, "keys")?,
            _ => control::n3iwf(world, "keys")?,
        };
        Self::read(&reply).with_context(|| role.name().to_owned())
    }

    /// What `n3iwfctl keys` and `uectl keys` print as JSON, which is what the daemon says.
    fn of_tool(world: &World, role: Role) -> Result<Self> {
        let socket = world.socket(role).display().to_string();
        let (program, option) = match role {
            Role::Ue => ("uectl", "--control"),
            _ => ("n3iwfctl", "--socket"),
        };
        let text = world.tool(role, program, &[option, &socket, "--json", "keys"])?;
        Self::read(&serde_json::from_str(&text)?).with_context(|| program.to_owned())
    }

    /// What the page for Prometheus says.
    fn of_page(page: &Scrape, role: Role) -> Result<Self> {
        let prefix = if role == Role::Ue { "ue" } else { "n3iwf" };
        let sum = |name: &str| {
            let name = format!("{prefix}_qkd_keys_{name}");
            // Without any key there is no peer to have a series of its own.
            ensure!(page.mentions(&name), "{name} is not on the page");
            let value = page.sum(&name, &[]).unwrap_or(0.0);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "counts of a scenario"
            )]
            let whole = value as u64;
            ensure!(whole as f64 == value, "{name} is {value}");
            Ok(whole)
        };
        Self {
            fetched: sum("fetched_total")?,
            used: sum("used_total")?,
            lost: sum("lost_total")?,
            held: sum("held")?,
            ahead: 0,
        }
        .balanced()
    }

    /// The totals of an answer, which are the sums of its peers where it has some.
    fn read(reply: &Value) -> Result<Self> {
        let account = Self::totals(reply.get("total").context("no totals")?)?;
        if let Some(peers) = reply.get("peers").and_then(Value::as_array) {
            let mut sum = Self::default();
            for peer in peers {
                // A name and its totals.
                sum.add(Self::totals(peer.get(1).context("a peer without totals")?)?);
            }
            ensure!(sum == account, "{account}, and of all peers {sum}");
        }
        Ok(account)
    }

    fn totals(value: &Value) -> Result<Self> {
        let count = |name: &str| number(value, &format!("/{name}"));
        Self {
            fetched: count("fetched")?,
            used: count("used")?,
            lost: count("lost")?,
            held: count("held")?,
            ahead: count("ahead").unwrap_or(0),
        }
        .balanced()
    }

    fn balanced(self) -> Result<Self> {
        if self.fetched != self.used + self.lost + self.held {
            bail!("{self:?} does not balance");
        }
        Ok(self)
    }

    fn add(&mut self, other: Self) {
        self.fetched += other.fetched;
        self.used += other.used;
        self.lost += other.lost;
        self.held += other.held;
        self.ahead += other.ahead;
    }
}

impl fmt::Display for KeyAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            fetched,
            used,
            lost,
            held,
            ..
        } = self;
        write!(
            f,
            "fetched {fetched} = used {used} + lost {lost} + held {held}"
        )
    }
}

/// The account of every daemon that runs is exact: it adds up, for each peer and in all, and the daemon, its tool and
/// the page for Prometheus have the same numbers.
///
/// # Errors
/// Says who differs from whom, or that the N3IWF is not there to be asked.
pub fn exact(world: &World) -> Result<Finding> {
    ensure!(world.runs(Role::N3iwf), "no N3IWF to ask");
    let mut found = Vec::new();
    for role in ENDS.into_iter().filter(|role| world.runs(*role)) {
        let account = agreed(world, role)?;
        found.push(format!("{}: {account}", role.name()));
    }
    Ok(Finding::new(found.join("; ")))
}

fn agreed(world: &World, role: Role) -> Result<KeyAccount> {
    let mut last = String::new();
    let waited = exec::wait_for("one key account", AGREEMENT, || {
        let said = KeyAccount::of(world, role)?;
        let printed = KeyAccount::of_tool(world, role)?;
        let scraped = KeyAccount::of_page(&Scrape::of(world, role)?, role)?;
        last = format!(
            "{}: {said}; its tool: {printed}; its page: {scraped}",
            role.name()
        );
        let scraped = KeyAccount {
            ahead: said.ahead,
            ..scraped
        };
        Ok((said == printed && said == scraped).then_some(said))
    });
    waited.with_context(|| last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_account_that_does_not_add_up_is_told() {
        let totals = |fetched: u64| json!({"fetched": fetched, "used": 4, "lost": 2, "held": 1});
        let good = json!({"total": totals(7), "peers": [["a", totals(7)]]});
        assert_eq!(KeyAccount::read(&good).unwrap().fetched, 7);
        assert!(KeyAccount::read(&json!({"total": totals(8)})).is_err());
        let twice = json!({"total": totals(7), "peers": [["a", totals(7)], ["b", totals(7)]]});
        assert!(KeyAccount::read(&twice).is_err());
        let wrong = json!({"total": totals(7), "peers": [["a", totals(8)]]});
        assert!(KeyAccount::read(&wrong).is_err());
        assert!(KeyAccount::read(&json!({})).is_err());
    }
}
