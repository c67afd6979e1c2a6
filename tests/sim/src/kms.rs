//! Two KMSs and the QKD link between them, as ETSI GS QKD 014 has SAEs see them.

use std::collections::HashMap;

use ike::{Instant, QkdFailure};
use keys::{KeyId, QkdKey, SaeId, Secret};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::{network::Window, plan::Plan, world::Violation};

/// A key that was delivered to its master SAE.
struct Deposit {
    secret: Vec<u8>,
    master: SaeId,
    slave: SaeId,
    /// From when the slave's KMS has it; never, if the link lost it.
    visible: Option<Instant>,
    collected: bool,
}

/// A link of a certain rate: what it has made waits in a store of a certain size.
struct Link {
    rate: u32,
    size: u32,
    level: f64,
    seen: Instant,
}

impl Link {
    fn level(&mut self, now: Instant) -> f64 {
        let made = now.duration_since(self.seen).as_secs_f64() * f64::from(self.rate);
        self.seen = now;
        self.level = (self.level + made).min(self.size.into());
        self.level
    }

    fn draw(&mut self, now: Instant, number: u32) -> bool {
        let enough = self.level(now) >= f64::from(number);
        if enough {
            self.level -= f64::from(number);
        }
        enough
    }
}

/// Both ends.
pub(crate) struct Kms {
    rng: ChaCha20Rng,
    replication: std::time::Duration,
    keys: HashMap<KeyId, Deposit>,
    link: Option<Link>,
    pub(crate) failure_a: Window<QkdFailure>,
    pub(crate) failure_b: Window<QkdFailure>,
    pub(crate) loss: Window<()>,
}

impl Kms {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            rng: ChaCha20Rng::seed_from_u64(plan.seed ^ 0x6b6d_7300),
            replication: plan.replication,
            keys: HashMap::new(),
            link: plan.supply.link.map(|(rate, size)| Link {
                rate,
                size,
                level: size.into(),
                seen: Instant::ZERO,
            }),
            failure_a: Window::default(),
            failure_b: Window::default(),
            loss: Window::default(),
        }
    }

    /// Both start again: what nobody has collected is gone.
    pub(crate) fn restart(&mut self) {
        self.keys.retain(|_, deposit| deposit.collected);
    }

    /// `enc_keys` at the N3IWF's KMS.
    pub(crate) fn allocate(
        &mut self,
        now: Instant,
        master: &SaeId,
        slave: &SaeId,
        number: usize,
        size_bits: u32,
    ) -> Result<Vec<QkdKey>, QkdFailure> {
        if let Some(failure) = self.failure_a.at(now) {
            return Err(failure);
        }
        let wanted = u32::try_from(number).unwrap_or(u32::MAX);
        if self
            .link
            .as_mut()
            .is_some_and(|link| !link.draw(now, wanted))
        {
            return Err(QkdFailure::NoKeys);
        }
        let lost = self.loss.at(now).is_some();
        let mut keys = Vec::with_capacity(number);
        for _ in 0..number {
            let mut id = [0; 16];
            self.rng.fill_bytes(&mut id);
            let mut secret = vec![0; size_bits.div_ceil(8) as usize];
            self.rng.fill_bytes(&mut secret);
            let id = KeyId::from_octets(id);
            keys.push(QkdKey {
                id,
                secret: Secret::from_slice(&secret),
            });
            let deposit = Deposit {
                secret,
                master: master.clone(),
                slave: slave.clone(),
                visible: (!lost).then(|| now + self.replication),
                collected: false,
            };
            self.keys.insert(id, deposit);
        }
        Ok(keys)
    }

    /// `stored_key_count` at the N3IWF's KMS, if it answers.
    pub(crate) fn stored(&mut self, now: Instant) -> Option<u64> {
        if self.failure_a.at(now).is_some() {
            return None;
        }
        Some(match &mut self.link {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 0 and the size"
            )]
            Some(link) => link.level(now) as u64,
            None => u64::from(u32::MAX),
        })
    }

    /// `dec_keys` at the UEs' KMS. Asking for a key that was delivered already is a violation: it
    /// would be used twice.
    pub(crate) fn collect(
        &mut self,
        now: Instant,
        slave: &SaeId,
        master: &SaeId,
        ids: &[KeyId],
    ) -> Result<Result<Vec<QkdKey>, QkdFailure>, Violation> {
        if let Some(failure) = self.failure_b.at(now) {
            return Ok(Err(failure));
        }
        for id in ids {
            let Some(deposit) = self.keys.get(id) else {
                return Ok(Err(QkdFailure::UnknownKey));
            };
            if deposit.collected {
                return Err(Violation::new(format!("{slave} asks for key {id} again")));
            }
            let here = deposit.visible.is_some_and(|at| at <= now);
            if !here || deposit.slave != *slave || deposit.master != *master {
                return Ok(Err(QkdFailure::UnknownKey));
            }
        }
        let mut keys = Vec::with_capacity(ids.len());
        for id in ids {
            if let Some(deposit) = self.keys.get_mut(id) {
                deposit.collected = true;
                keys.push(QkdKey {
                    id: *id,
                    secret: Secret::from_slice(&deposit.secret),
                });
            }
        }
        Ok(Ok(keys))
    }
}
