//! Between IKE, the key desk and the KMS.

use std::collections::BTreeMap;

use daemon::timeline::{Party, Timeline};
use ike::{Instant, KeyRequestId, KeysWanted, QkdFailure, SaId};
use keys::{QkdKey, SaeId};
use tracing::{info, warn};

use super::{
    N3iwf,
    keydesk::{Ask, DeskCounts, Order},
    types::{Action, Command},
};

impl N3iwf {
    pub(super) fn keys_needed(
        &mut self,
        now: Instant,
        sa: SaId,
        request: KeyRequestId,
        wanted: KeysWanted,
    ) {
        self.touched = Some(sa);
        let KeysWanted::Allocate {
            slave,
            number,
            size_bits,
        } = wanted
        else {
            // The slave's side: never asked of a responder.
            self.commands.push_back(Command::ProvideKeys {
                sa,
                request,
                keys: Err(QkdFailure::UnknownKey),
            });
            return;
        };
        let ask = Ask {
            sa,
            request,
            slave,
            number,
            size_bits,
            rekey: self.by_sa.contains_key(&sa),
            waited: false,
        };
        if ask.rekey {
            self.ask_desk(now, ask);
        } else if let Some(ask) = self.wait_for_amf(now, ask) {
            self.attach_keys(now, ask);
        }
    }

    /// Keys for an attach, unless no AMF would take it: then not one is spent on it, and the UE backs off.
    pub(super) fn attach_keys(&mut self, now: Instant, ask: Ask) {
        let Ask { sa, request, .. } = ask;
        if self.stopping || !self.any_amf_ready() || self.would_be_turned_away(now, &ask.slave) {
            info!(%sa, "no AMF takes it: attach refused");
            self.commands.push_back(Command::ProvideKeys {
                sa,
                request,
                keys: Err(QkdFailure::Quota),
            });
            return;
        }
        self.half_open
            .entry(sa)
            .or_insert_with(|| Timeline::begin(now.since_origin()));
        self.ask_desk(now, ask);
    }

    fn ask_desk(&mut self, now: Instant, ask: Ask) {
        if let Some(timeline) = self.timeline(ask.sa) {
            timeline.wait(Party::Kms, now.since_origin());
        }
        self.desk.request(now, ask);
        self.key_orders(now);
    }

    /// An answer to [`Action::FetchKeys`].
    pub fn keys_fetched(
        &mut self,
        now: Instant,
        sa: SaId,
        request: KeyRequestId,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    ) {
        self.touched = Some(sa);
        self.desk.answered(now, sa, request, keys);
        self.key_orders(now);
    }

    /// An answer to [`Action::FetchAhead`].
    pub fn keys_ahead(
        &mut self,
        now: Instant,
        slave: &SaeId,
        keys: Result<Vec<QkdKey>, QkdFailure>,
    ) {
        if let Err(failure) = &keys {
            warn!(%slave, %failure, "no QKD keys ahead");
        }
        self.desk.arrived(now, slave, keys);
        self.key_orders(now);
    }

    /// An answer to [`Action::AskStock`]: `stored_key_count`, or `None` without a status.
    pub fn stock_told(&mut self, now: Instant, slave: &SaeId, stored: Option<u64>) {
        self.desk.stock_told(now, slave, stored);
        self.key_orders(now);
    }

    /// What came of requests for keys, and how many are held ahead.
    pub fn desk(&self) -> DeskCounts {
        self.desk.counts()
    }

    /// Keys held ahead, by peer.
    pub fn held_ahead(&self) -> BTreeMap<SaeId, usize> {
        self.desk.held()
    }

    /// Does what the key desk wants.
    pub(super) fn key_orders(&mut self, now: Instant) {
        while let Some(order) = self.desk.poll_order() {
            match order {
                Order::Give { ask, keys } => self.keys_come(now, &ask, Ok(keys)),
                Order::Refuse { ask, failure } => {
                    warn!(sa = %ask.sa, slave = %ask.slave, %failure, "no QKD keys");
                    self.keys_come(now, &ask, Err(failure));
                }
                Order::Fetch(ask) => self.actions.push_back(Action::FetchKeys {
                    sa: ask.sa,
                    request: ask.request,
                    slave: ask.slave,
                    number: ask.number,
                    size_bits: ask.size_bits,
                }),
                Order::FetchAhead {
                    slave,
                    number,
                    size_bits,
                } => self.actions.push_back(Action::FetchAhead {
                    slave,
                    number,
                    size_bits,
                }),
                Order::AskStock { slave } => self.actions.push_back(Action::AskStock { slave }),
                Order::Wiped(ids) => self.actions.push_back(Action::LoseKeys { ids }),
            }
        }
    }

    fn keys_come(&mut self, now: Instant, ask: &Ask, keys: Result<Vec<QkdKey>, QkdFailure>) {
        if let Some(timeline) = self.timeline(ask.sa) {
            timeline.done_waiting(Party::Kms, now.since_origin());
        }
        self.commands.push_back(Command::ProvideKeys {
            sa: ask.sa,
            request: ask.request,
            keys,
        });
    }
}
