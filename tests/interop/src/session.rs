//! One row: an IKE SA from beginning to end, with a mark for each thing that was seen on both sides.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use ikepeer::report::Line;
use rig::{
    bulk::{self, Direction},
    exec,
};
use serde::{Deserialize, Serialize};

use crate::{
    lab::{self, Lab, Places},
    matrix::{Begins, Row, Situation},
    ours::Ours,
    strongswan::{self, Strongswan, word},
};

/// What is looked at in each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Column {
    /// IKE_SA_INIT and IKE_AUTH; what is special about the row shows here.
    Fresh,
    /// The Child SA rekeyed by us,
    ChildByUs,
    /// by them;
    ChildByThem,
    /// the IKE SA rekeyed by us,
    IkeByUs,
    /// by them.
    IkeByThem,
    /// Deleted by the side that did not begin it, and gone on both.
    Deleted,
}

impl Column {
    /// In order.
    pub const ALL: [Self; 6] = [
        Self::Fresh,
        Self::ChildByUs,
        Self::ChildByThem,
        Self::IkeByUs,
        Self::IkeByThem,
        Self::Deleted,
    ];
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mark", rename_all = "camelCase")]
pub enum Mark {
    /// Seen on both sides.
    Held,
    /// Tried, and not so.
    Failed {
        /// What was seen.
        why: String,
    },
    /// Not tried.
    NotRun {
        /// Why.
        why: String,
    },
}

/// A row and its marks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The row.
    pub row: Row,
    /// Its marks.
    pub marks: BTreeMap<Column, Mark>,
}

impl Outcome {
    /// A row that is not run.
    #[must_use]
    pub fn not_run(row: &Row, why: &str) -> Self {
        let mark = Mark::NotRun {
            why: why.to_owned(),
        };
        Self {
            row: row.clone(),
            marks: Column::ALL.map(|column| (column, mark.clone())).into(),
        }
    }
}

/// Octets carried each way after every change, where the kernel carries ESP.
const BULK: u64 = 256 * 1024;

/// Runs a row through all columns; after the first failure the rest is not tried.
pub fn run(lab: &Lab, places: &Places, theirs: &mut Strongswan<'_>, row: &Row) -> Outcome {
    let mut marks = BTreeMap::new();
    let mut failed = None;
    let mut session = match Session::start(lab, places, theirs, row) {
        Ok(session) => Some(session),
        Err(error) => {
            failed = Some(format!("{error:#}"));
            None
        }
    };
    for column in Column::ALL {
        let mark = match (&mut session, &failed) {
            (Some(session), None) => match session.step(column) {
                Ok(()) => Mark::Held,
                Err(error) => {
                    let why = format!("{error:#}");
                    failed = Some(why.clone());
                    session.keep_traces();
                    Mark::Failed { why }
                }
            },
            (None, Some(why)) if column == Column::Fresh => Mark::Failed { why: why.clone() },
            _ => Mark::NotRun {
                why: "an earlier step of the row failed".to_owned(),
            },
        };
        marks.insert(column, mark);
    }
    // It ends, and leaves the addresses it moved to.
    let moved = session.map(|session| session.moved);
    if failed.is_some() {
        theirs.clear();
    }
    if let Some(moved) = moved
        && let Err(error) = moved.back(lab)
    {
        let why = format!("addresses are not restored: {error:#}");
        marks.insert(Column::Deleted, Mark::Failed { why });
    }
    Outcome {
        row: row.clone(),
        marks,
    }
}

/// Who is at another address than when the row began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    Nobody,
    Us,
    Them,
}

impl Moved {
    fn back(self, lab: &Lab) -> Result<()> {
        match self {
            Self::Nobody => Ok(()),
            Self::Us => lab.withdraw_from_us(),
            Self::Them => lab.move_them(lab::THEIRS_LATER, lab::THEIRS),
        }
    }
}

fn is_child_down(line: &Line) -> bool {
    matches!(line, Line::ChildDown { .. })
}

struct Session<'a, 'b> {
    lab: &'a Lab,
    places: &'a Places,
    theirs: &'a Strongswan<'b>,
    ours: Ours,
    row: &'a Row,
    moved: Moved,
}

impl<'a, 'b> Session<'a, 'b> {
    fn start(
        lab: &'a Lab,
        places: &'a Places,
        theirs: &'a mut Strongswan<'b>,
        row: &'a Row,
    ) -> Result<Self> {
        theirs.configure(row)?;
        let config = places.work.join("ikepeer.yaml");
        fs::write(&config, strongswan::ours(places, row))?;
        let log = places.work.join("ikepeer.log");
        let ours = Ours::start(&lab.ours, &places.ikepeer, &config, &log)?;
        Ok(Self {
            lab,
            places,
            theirs,
            ours,
            row,
            moved: Moved::Nobody,
        })
    }

    fn step(&mut self, column: Column) -> Result<()> {
        let hybrid = match column {
            Column::Fresh | Column::Deleted => false,
            Column::ChildByUs | Column::ChildByThem => self.row.esp.contains("ke1_"),
            Column::IkeByUs | Column::IkeByThem => self.row.ike.contains("ke1_"),
        };
        if !hybrid {
            return self.change(column);
        }
        let (_, _, before) = self.ours.status()?;
        self.change(column)?;
        let (_, _, after) = self.ours.status()?;
        ensure!(
            after.followup >= before.followup + 2,
            "a rekey with ML-KEM, and {} IKE_FOLLOWUP_KE messages",
            after.followup - before.followup
        );
        Ok(())
    }

    fn change(&mut self, column: Column) -> Result<()> {
        match column {
            Column::Fresh => self.fresh(),
            Column::ChildByUs => {
                self.ours.command("rekey-child")?;
                self.child_is_replaced()
            }
            Column::ChildByThem => {
                self.theirs.rekey("child", "c")?;
                self.child_is_replaced()
            }
            Column::IkeByUs => {
                self.ours.command("rekey-ike")?;
                self.ike_is_replaced()
            }
            Column::IkeByThem => {
                self.theirs.rekey("ike", "t")?;
                self.ike_is_replaced()
            }
            Column::Deleted => self.deleted(),
        }
    }

    fn fresh(&mut self) -> Result<()> {
        if self.row.situation == Situation::Cookie && self.row.begins == Begins::Us {
            // strongSwan asks for cookies when there is a half-open IKE SA.
            self.ours.command("half-open")?;
            self.ours
                .wait("half-open", |line| matches!(line, Line::Closed { .. }))?;
            std::thread::sleep(Duration::from_millis(200));
        }
        match self.row.begins {
            Begins::Us => self.ours.command("initiate")?,
            Begins::Them => self.theirs.initiate()?,
        }
        let established = self
            .ours
            .wait("IKE SA", |line| matches!(line, Line::Established { .. }))?;
        if let Line::Established { initiator, .. } = established {
            ensure!(
                initiator == (self.row.begins == Begins::Us),
                "the wrong role"
            );
        }
        let up = self
            .ours
            .wait("Child SA", |line| matches!(line, Line::ChildUp { .. }))?;
        let sas = self.theirs.settles(1)?;
        self.is_special(&up, &sas)?;
        self.traffic()
    }

    /// What the row is about has really happened.
    fn is_special(&mut self, up: &Line, sas: &str) -> Result<()> {
        let (_, _, seen) = self.ours.status()?;
        match self.row.situation {
            Situation::Cookie => {
                ensure!(seen.cookies >= 2, "no COOKIE was asked for and returned");
            }
            Situation::Fragments => ensure!(
                seen.fragments_in >= 2 && seen.fragments_out >= 2,
                "{} fragments came, {} were sent",
                seen.fragments_in,
                seen.fragments_out
            ),
            Situation::Nat => {
                ensure!(
                    matches!(up, Line::ChildUp { udp: true, .. }),
                    "no ESP in UDP"
                );
                let port: u16 = word(sas, "remote-port=").context("no port")?.parse()?;
                ensure!(
                    (20_000..30_000).contains(&port),
                    "port {port} is not the NAT's"
                );
            }
            Situation::Ppk => ensure!(seen.ppk >= 2, "no USE_PPK both ways"),
            Situation::MlKem => ensure!(
                seen.intermediate >= 2,
                "{} IKE_INTERMEDIATE messages",
                seen.intermediate
            ),
            Situation::Mobike => {
                // Before the move, so that there is something to move.
                self.traffic()?;
                self.initiator_moves()?;
            }
            Situation::Plain => {}
        }
        Ok(())
    }

    /// The initiator goes to another address, and both ends say that it is there.
    fn initiator_moves(&mut self) -> Result<()> {
        let before = self.theirs.sas()?;
        let said = self.ours.said.len();
        let (address, key) = match self.row.begins {
            Begins::Us => {
                self.lab.offer_us()?;
                self.moved = Moved::Us;
                self.ours.command(&format!("move {}", lab::OURS_LATER))?;
                (lab::OURS_LATER, "remote-host=")
            }
            Begins::Them => {
                self.moved = Moved::Them;
                self.lab.move_them(lab::THEIRS, lab::THEIRS_LATER)?;
                (lab::THEIRS_LATER, "local-host=")
            }
        };
        let here = |line: &Line| match line {
            Line::PathChanged { local, remote } => {
                let end = match key {
                    "remote-host=" => local,
                    _ => remote,
                };
                end.starts_with(&format!("{address}:"))
            }
            _ => false,
        };
        self.ours.wait("the move", here)?;
        let after = exec::wait_for(
            "the move in strongSwan's words",
            Duration::from_secs(10),
            || {
                let sas = self.theirs.sas()?;
                Ok((word(&sas, key) == Some(address)).then_some(sas))
            },
        )?;
        let mut same = vec!["initiator-spi=", "responder-spi="];
        if self.places.kernel_esp {
            same.extend(["spi-in=", "spi-out="]);
        } else if !self.ours.said.iter().skip(said).any(is_child_down) {
            // Its user space cannot move a Child SA: strongSwan rekeys it at the new address.
            self.ours
                .wait("a Child SA at the new address", is_child_down)?;
        }
        for name in same {
            let [was, is] = [&before, &after].map(|sas| word(sas, name));
            ensure!(was.is_some() && was == is, "{name} {was:?} became {is:?}");
        }
        self.theirs.settles(1).map(drop)
    }

    fn child_is_replaced(&mut self) -> Result<()> {
        self.ours.wait("packets on the new Child SA", |line| {
            matches!(line, Line::ChildSwitched { .. })
        })?;
        self.ours.wait("end of the old Child SA", is_child_down)?;
        self.agreed()
    }

    fn ike_is_replaced(&mut self) -> Result<()> {
        let line = self
            .ours
            .wait("new IKE SA", |line| matches!(line, Line::IkeRekeyed { .. }))?;
        let sas = self.theirs.settles(1)?;
        if let Line::IkeRekeyed { spi_i } = line {
            let theirs = word(&sas, "initiator-spi=").context("no SPI")?;
            ensure!(theirs == spi_i, "SPI {spi_i} here, {theirs} there");
        }
        self.agreed()
    }

    /// One IKE SA with one Child SA on both sides, which carries packets.
    fn agreed(&mut self) -> Result<()> {
        self.theirs.settles(1)?;
        let (ikes, children, _) = self.ours.status()?;
        ensure!(
            (ikes, children) == (1, 1),
            "{ikes} IKE SAs with {children} Child SAs here"
        );
        self.traffic()
    }

    /// A ping and a bulk transfer each way, every octet compared.
    fn traffic(&self) -> Result<()> {
        if !self.places.kernel_esp {
            return Ok(());
        }
        let ends = [
            (&self.lab.ours, lab::OUR_INNER, lab::THEIR_INNER),
            (&self.lab.theirs, lab::THEIR_INNER, lab::OUR_INNER),
        ];
        for (place, from, to) in ends {
            let arguments = ["-n", "-c", "2", "-i", "0.2", "-W", "5", "-I", from, to];
            place
                .output("ping", &arguments)
                .with_context(|| format!("ping {from} to {to}"))?;
        }
        for direction in [Direction::Up, Direction::Down] {
            bulk::transfer(
                &self.lab.ours,
                lab::OUR_INNER.parse()?,
                &self.lab.theirs,
                lab::THEIR_INNER.parse()?,
                direction,
                BULK,
            )
            .with_context(|| format!("bulk {direction:?}"))?;
        }
        // They went through the Child SA that stands now, by the other side's account.
        let sas = self.theirs.sas()?;
        for counter in ["packets-in=", "packets-out="] {
            let number: u64 = word(&sas, counter).context("no counter")?.parse()?;
            ensure!(number > 0, "{counter}{number} after a transfer");
        }
        Ok(())
    }

    fn deleted(&mut self) -> Result<()> {
        match self.row.begins {
            Begins::Us => self.theirs.terminate()?,
            Begins::Them => self.ours.command("close")?,
        }
        let line = self.ours.wait("end of the IKE SA", |line| {
            matches!(line, Line::Closed { .. })
        })?;
        let expected = match self.row.begins {
            Begins::Us => "deleted by the peer",
            Begins::Them => "closed here",
        };
        match line {
            Line::Closed { reason, .. } if reason == expected => {}
            other => bail!("{other:?}"),
        }
        self.theirs.settles(0).map(drop)
    }

    /// For whoever looks into a failure: what `ikepeer` said, and the end of charon's log.
    fn keep_traces(&self) {
        let said: String = self
            .ours
            .said
            .iter()
            .map(|line| format!("{line:?}\n"))
            .collect();
        let name = format!(
            "failed-{}-{:?}-{:?}-{:?}.log",
            self.row.ike, self.row.auth, self.row.begins, self.row.situation
        );
        let text = format!("{said}\n{}\n", self.theirs.log_tail(80));
        // A trace that cannot be kept is no reason to stop.
        let _ = fs::write(self.places.work.join(name), text);
    }
}
