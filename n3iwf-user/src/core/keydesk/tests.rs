use keys::Secret;

use super::*;

const UE: &str = "sae-ue-1";

fn sae(text: &str) -> SaeId {
    text.parse().unwrap()
}

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

/// A KMS with so many keys for everybody, and the books of whoever uses the desk.
struct World {
    desk: KeyDesk,
    now: Instant,
    stored: u64,
    failure: Option<QkdFailure>,
    /// Whether a status comes.
    tells: bool,
    made: u64,
    given: Vec<KeyId>,
    lost: Vec<KeyId>,
    refused: Vec<(u64, QkdFailure)>,
    served: Vec<u64>,
    fetches: Vec<(bool, usize)>,
    statuses: usize,
}

/// The n-th IKE SA and its request.
const fn numbers(n: u64) -> (SaId, KeyRequestId) {
    (SaId::from_number(n), KeyRequestId::from_number(n))
}

fn policy(keys: usize, low: usize, floor: u64, empty: WhenEmpty) -> KeyPolicy {
    KeyPolicy {
        ahead: (keys > 0).then(|| Ahead {
            keys,
            low,
            age: Duration::from_secs(100),
            total: 64,
            peers: Vec::new(),
        }),
        floor,
        empty,
    }
}

impl World {
    fn new(policy: KeyPolicy) -> Self {
        Self {
            desk: KeyDesk::new(policy),
            now: at(0),
            stored: 1000,
            failure: None,
            tells: true,
            made: 0,
            given: Vec::new(),
            lost: Vec::new(),
            refused: Vec::new(),
            served: Vec::new(),
            fetches: Vec::new(),
            statuses: 0,
        }
    }

    fn ask(&mut self, number: u64, keys: usize, rekey: bool) {
        self.ask_of(number, UE, keys, rekey);
    }

    fn ask_of(&mut self, number: u64, slave: &str, keys: usize, rekey: bool) {
        let (sa, request) = numbers(number);
        let ask = Ask {
            sa,
            request,
            slave: sae(slave),
            number: keys,
            size_bits: 256,
            rekey,
            waited: false,
        };
        self.desk.request(self.now, ask);
        self.run();
    }

    /// An attach from its first message to its authentication.
    fn attach(&mut self, number: u64) {
        self.ask(number, 7, false);
        let (sa, _) = numbers(number);
        self.desk.established(self.now, sa);
        self.run();
    }

    fn end(&mut self, number: u64) {
        let (sa, _) = numbers(number);
        self.desk.ended(self.now, sa);
        self.run();
    }

    fn pass(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        let mut steps = 0;
        while let Some(next) = self.desk.poll_timeout().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.desk.handle_timeout(self.now);
            self.run();
            steps += 1;
            assert!(steps < 10_000, "time stands still");
        }
        self.now = end;
    }

    fn allocate(&mut self, number: usize) -> Result<Vec<QkdKey>, QkdFailure> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        self.stored = self
            .stored
            .checked_sub(number as u64)
            .ok_or(QkdFailure::NoKeys)?;
        Ok((0..number)
            .map(|_| {
                self.made += 1;
                let mut id = [0; 16];
                id[..8].copy_from_slice(&self.made.to_be_bytes());
                QkdKey {
                    id: KeyId::from_octets(id),
                    secret: Secret::from_slice(&[7; 32]),
                }
            })
            .collect())
    }

    fn run(&mut self) {
        while let Some(order) = self.desk.poll_order() {
            match order {
                Order::Give { ask, keys } => {
                    assert_eq!(keys.len(), ask.number);
                    self.served.push(ask.sa.number());
                    self.given.extend(keys.iter().map(|key| key.id));
                }
                Order::Refuse { ask, failure } => {
                    self.refused.push((ask.sa.number(), failure));
                }
                Order::Fetch(ask) => {
                    self.fetches.push((false, ask.number));
                    let keys = self.allocate(ask.number);
                    self.desk.answered(self.now, ask.sa, ask.request, keys);
                }
                Order::FetchAhead { slave, number, .. } => {
                    self.fetches.push((true, number));
                    let keys = self.allocate(number);
                    self.desk.arrived(self.now, &slave, keys);
                }
                Order::AskStock { slave } => {
                    self.statuses += 1;
                    let stored = self.tells.then_some(self.stored);
                    self.desk.stock_told(self.now, &slave, stored);
                }
                Order::Wiped(ids) => self.lost.extend(ids),
            }
        }
        self.check();
    }

    /// fetched = used + lost + held, and no key twice.
    fn check(&self) {
        let held = self.desk.counts().held;
        let sum: usize = self.desk.held().values().sum();
        assert_eq!(sum, held);
        let known = self.given.len() + self.lost.len() + held;
        assert_eq!(usize::try_from(self.made).unwrap(), known);
        let all: BTreeSet<KeyId> = self.given.iter().chain(&self.lost).copied().collect();
        assert_eq!(all.len(), self.given.len() + self.lost.len());
    }
}

#[test]
fn nothing_is_fetched_ahead_for_strangers() {
    let mut world = World::new(policy(14, 7, 0, WhenEmpty::Refuse));
    world.ask(0, 7, false);
    world.pass(1000);
    assert_eq!(world.fetches, [(false, 7)]);
    assert_eq!(world.desk.counts().held, 0);
    world.end(0);
    assert!(world.desk.peers.is_empty() && world.desk.sas.is_empty());
}

#[test]
fn who_attached_finds_keys_ready_and_refills_come_with_hysteresis() {
    let mut world = World::new(policy(14, 7, 0, WhenEmpty::Refuse));
    world.attach(0);
    assert_eq!(world.fetches, [(false, 7), (true, 14)]);
    // A rekey, then an attach: from what is here, oldest first.
    world.ask(0, 3, true);
    assert_eq!(world.desk.counts().held, 11);
    assert_eq!(world.fetches.len(), 2, "no refill above the mark");
    world.ask(1, 7, false);
    assert_eq!(world.fetches[2..], [(true, 10)], "one refill, to the brim");
    assert_eq!(world.desk.counts().held, 14);
    let counts = world.desk.counts();
    assert_eq!((counts.ahead, counts.on_demand), (2, 1));
}

#[test]
fn a_named_peer_has_keys_before_its_first_attach() {
    let mut policy = policy(14, 7, 0, WhenEmpty::Refuse);
    policy.ahead.as_mut().unwrap().peers = vec![sae(UE)];
    let mut world = World::new(policy);
    world.desk.start(world.now);
    world.run();
    world.ask(0, 7, false);
    assert_eq!(world.fetches, [(true, 14)]);
    assert_eq!(world.desk.counts().ahead, 1);
}

#[test]
fn keys_that_grow_old_are_wiped_and_only_renewed_for_who_is_there() {
    let mut world = World::new(policy(14, 7, 0, WhenEmpty::Refuse));
    world.attach(0);
    world.pass(150);
    assert_eq!((world.lost.len(), world.desk.counts().aged), (14, 14));
    assert_eq!(world.desk.counts().held, 14);
    world.end(0);
    world.pass(1000);
    assert_eq!((world.lost.len(), world.desk.counts().held), (28, 0));
    assert_eq!(world.desk.poll_timeout(), None);
    assert!(world.desk.peers.is_empty());
}

#[test]
fn what_the_peers_kms_does_not_have_goes_and_fresh_keys_come() {
    let mut world = World::new(policy(14, 7, 0, WhenEmpty::Refuse));
    world.attach(0);
    world.end(0);
    world.pass(5);
    // Seven of fourteen, which turn out to be nobody's; seven are left, and none is fetched to replace them yet.
    world.ask(1, 7, false);
    assert_eq!((world.desk.counts().held, world.lost.len()), (7, 0));
    let (first, second) = (world.given[7], world.given[8]);
    let (slave, other) = (sae(UE), sae("sae-ue-2"));
    for (peer, id) in [(&slave, second), (&other, first)] {
        world.desk.missing(world.now, peer, id);
        world.run();
        assert_eq!(world.desk.counts().held, 7, "not the one it was told about");
    }
    world.desk.missing(world.now, &slave, first);
    world.run();
    assert_eq!((world.desk.counts().held, world.lost.len()), (0, 7));
    world.desk.missing(world.now, &slave, first);
    world.run();
    assert_eq!(world.lost.len(), 7, "said twice");
    world.attach(2);
    assert_eq!(world.desk.counts().on_demand, 2, "fresh from the KMS");
}

#[test]
fn keys_that_came_after_the_missing_ones_stay() {
    let mut world = World::new(policy(14, 10, 0, WhenEmpty::Refuse));
    world.attach(0);
    world.pass(5);
    world.ask(1, 7, false);
    let first = world.given[7];
    assert_eq!(world.desk.counts().held, 14, "refilled at once");
    world.pass(5);
    world.desk.missing(world.now, &sae(UE), first);
    world.run();
    assert_eq!(world.lost.len(), 7, "the rest of the old ones");
    assert_eq!(world.desk.counts().held, 14, "replaced");
    world.pass(1);
    world.ask(2, 7, false);
    world.pass(5);
    let first = world.given[14];
    assert!(first != world.given[7]);
    world.desk.missing(world.now, &sae(UE), first);
    world.run();
    assert_eq!((world.lost.len(), world.desk.counts().held), (14, 14));
}

#[test]
fn all_peers_together_are_bounded() {
    let mut world = World::new(policy(14, 7, 0, WhenEmpty::Refuse));
    for n in 0..10 {
        world.ask_of(n, &format!("sae-ue-{n}"), 7, false);
        let (sa, _) = numbers(n);
        world.desk.established(world.now, sa);
        world.run();
    }
    assert_eq!(world.desk.counts().held, 56, "4 x 14 of 64");
}

#[test]
fn an_empty_kms_refuses_attaches_and_is_asked_again_by_one_of_them() {
    let mut world = World::new(policy(0, 0, 0, WhenEmpty::Refuse));
    world.stored = 3;
    world.ask(0, 7, false);
    world.ask(1, 7, false);
    assert_eq!(world.fetches.len(), 1, "the second costs no request");
    assert_eq!(world.refused.len(), 2);
    // A rekey is not held back.
    world.ask(2, 3, true);
    assert_eq!(world.served, [2]);
    world.pass(2);
    world.stored = 100;
    world.ask(3, 7, false);
    world.ask(4, 7, false);
    assert_eq!(world.served, [2, 3, 4]);
}

#[test]
fn attaches_wait_and_go_on_by_themselves() {
    let mut world = World::new(policy(0, 0, 0, WhenEmpty::Wait(Duration::from_secs(10))));
    world.stored = 0;
    for n in 0..3 {
        world.ask(n, 7, false);
    }
    world.pass(4);
    assert_eq!((world.served.len(), world.refused.len()), (0, 0));
    assert_eq!(world.desk.counts().waiting, 3);
    assert_eq!(world.desk.counts().waited, 3);
    world.stored = 100;
    world.pass(2);
    assert_eq!(world.served.len(), 3);
    assert_eq!(world.desk.counts().waiting, 0);
    world.pass(100);
    assert_eq!(world.desk.poll_timeout(), None);
}

#[test]
fn patience_ends() {
    let mut world = World::new(policy(0, 0, 0, WhenEmpty::Wait(Duration::from_secs(10))));
    world.failure = Some(QkdFailure::Unreachable);
    world.ask(0, 7, false);
    world.ask(1, 7, false);
    world.end(1);
    world.pass(20);
    assert_eq!(world.refused.len(), 1, "{:?}", world.refused);
    assert!(
        world.fetches.len() <= 12,
        "one probe a second: {:?}",
        world.fetches
    );
}

#[test]
fn a_kms_that_refuses_for_good_makes_nobody_wait() {
    let mut world = World::new(policy(0, 0, 0, WhenEmpty::Wait(Duration::from_secs(10))));
    world.failure = Some(QkdFailure::UnknownSae);
    world.ask(0, 7, false);
    assert_eq!(world.refused, [(0, QkdFailure::UnknownSae)]);
    assert!(
        world.desk.peers.is_empty(),
        "strangers leave nothing behind"
    );
}

#[test]
fn the_floor_is_for_rekeys() {
    let mut world = World::new(policy(0, 0, 10, WhenEmpty::Refuse));
    world.stored = 25;
    world.ask(0, 7, false);
    world.ask(1, 7, false);
    assert_eq!(world.stored, 11);
    world.ask(2, 7, false);
    assert_eq!(world.refused, [(2, QkdFailure::NoKeys)], "11 - 7 < 10");
    assert_eq!(world.statuses, 1);
    for n in 3..6 {
        world.ask(n, 3, true);
    }
    assert_eq!(world.stored, 2, "rekeys go on below it");
    world.pass(10);
    world.stored = 17;
    world.ask(7, 7, false);
    assert_eq!(world.served, [0, 1, 3, 4, 5, 7]);
}

#[test]
fn who_waits_at_the_floor_goes_on_when_the_link_has_filled_up() {
    let wait = WhenEmpty::Wait(Duration::from_secs(20));
    let mut world = World::new(policy(0, 0, 10, wait));
    world.stored = 12;
    world.ask(0, 7, false);
    for _ in 0..8 {
        world.pass(1);
        world.stored += 1;
        assert!(world.served.is_empty() || world.stored >= 10);
    }
    assert_eq!(world.served, [0]);
    assert!(world.stored >= 10, "{}", world.stored);
}

#[test]
fn without_a_status_the_kms_itself_decides() {
    let mut world = World::new(policy(0, 0, 10, WhenEmpty::Refuse));
    world.tells = false;
    world.stored = 8;
    world.ask(0, 7, false);
    assert_eq!(world.served, [0]);
}

#[test]
fn refills_stop_at_the_floor() {
    let mut world = World::new(policy(14, 7, 20, WhenEmpty::Refuse));
    world.stored = 35;
    world.attach(0);
    assert_eq!(world.stored, 28, "a refill of 14 would leave 14");
    world.pass(60);
    assert_eq!(world.desk.counts().held, 0);
    world.stored = 100;
    world.pass(10);
    assert_eq!(world.desk.counts().held, 14);
}

#[test]
fn a_failed_refill_is_tried_again_at_growing_intervals() {
    let mut world = World::new(policy(14, 7, 0, WhenEmpty::Refuse));
    world.attach(0);
    world.failure = Some(QkdFailure::Unreachable);
    world.ask(1, 7, false);
    world.ask(2, 7, false);
    world.pass(90);
    let tried = world.fetches.len();
    assert!((5..12).contains(&tried), "{tried}");
    world.failure = None;
    world.pass(120);
    assert_eq!(world.desk.counts().held, 14);
}

#[test]
fn keys_for_who_left_meanwhile_are_as_good_as_new() {
    for (attached, kept) in [(true, 5), (false, 0)] {
        let mut world = World::new(policy(20, 1, 0, WhenEmpty::Refuse));
        if attached {
            world.attach(0);
            world.ask(1, 7, false);
            world.ask(2, 7, false);
        }
        let before = world.desk.counts().held;
        let (sa, request) = numbers(5);
        let ask = Ask {
            sa,
            request,
            slave: sae(UE),
            number: 20,
            size_bits: 256,
            rekey: false,
            waited: false,
        };
        world.desk.request(world.now, ask);
        let Some(Order::Fetch(_)) = world.desk.poll_order() else {
            panic!("more than is held ahead");
        };
        world.desk.ended(world.now, sa);
        let keys = world.allocate(5);
        world.desk.answered(world.now, sa, request, keys);
        world.run();
        assert_eq!(world.desk.counts().held, before + kept);
        assert_eq!(world.lost.len(), 5 - kept);
    }
}

#[test]
fn at_the_end_nothing_is_held() {
    let mut world = World::new(policy(14, 7, 0, WhenEmpty::Wait(Duration::from_secs(10))));
    world.attach(0);
    world.failure = Some(QkdFailure::NoKeys);
    world.ask_of(1, "sae-ue-2", 7, false);
    world.desk.close(world.now);
    world.run();
    assert_eq!(world.desk.counts().held, 0);
    assert_eq!(world.refused, [(1, QkdFailure::Quota)]);
    assert_eq!(world.lost.len(), 14);
}
