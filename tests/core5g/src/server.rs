//! Sockets, timers and the control socket around [`Amf`] and [`Upf`].

mod control;
mod n3;
mod transactions;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tokio::sync::{Notify, mpsc};

use crate::amf::{Action, Amf, AssociationId, Handled};
use crate::config::Config;
use crate::home::Home;
use crate::upf::Upf;

pub use control::{Request, Trigger};
pub use transactions::Transaction;
use transactions::Transactions;

/// Why the core cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// N2.
    #[error(transparent)]
    N2(#[from] n2::Error),
    /// Subscriptions.
    #[error(transparent)]
    Home(#[from] crate::home::HomeError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] daemon::control::ControlError),
    /// N3 or N6.
    #[error("{what}: {error}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// No random numbers.
    #[error("random numbers of the system: {0}")]
    Random(String),
}

/// What all tasks share.
pub(crate) struct Shared {
    started: Instant,
    state: Mutex<State>,
    /// Has a lock of its own: user packets do not wait for signalling. Taken
    /// after `state` where both are.
    upf: Mutex<Upf>,
    /// Wakes the timer task when a timer may have changed.
    timer: Notify,
}

pub(crate) struct State {
    amf: Amf,
    transactions: Transactions,
    links: HashMap<AssociationId, mpsc::UnboundedSender<Out>>,
    next_association: u64,
}

/// What goes to an association's sender.
enum Out {
    Message { stream: u16, data: Vec<u8> },
    Abort,
}

impl Shared {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn upf(&self) -> MutexGuard<'_, Upf> {
        self.upf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A panic of another task leaves the state as it was between two inputs.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the AMF an input and does what it says.
    fn with_amf<T>(&self, input: impl FnOnce(&mut State, Duration) -> (T, Vec<Action>)) -> T {
        let mut state = self.lock();
        let (result, actions) = input(&mut state, self.now());
        self.perform(&state, actions);
        drop(state);
        self.timer.notify_one();
        result
    }

    fn perform(&self, state: &State, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send {
                    association,
                    stream,
                    name,
                    ue,
                    data,
                } => {
                    tracing::debug!(message = %name, ue, "sent");
                    if let Some(link) = state.links.get(&association) {
                        // A closed link is an association that has just ended.
                        drop(link.send(Out::Message { stream, data }));
                    }
                }
                Action::Abort(association) => {
                    if let Some(link) = state.links.get(&association) {
                        drop(link.send(Out::Abort));
                    }
                }
                Action::Install(session) => self.upf().install(session),
                Action::Connect {
                    uplink_teid,
                    downlink,
                    qfis,
                } => self.upf().connect(uplink_teid, downlink, qfis),
                Action::Reflow { uplink_teid, flows } => self.upf().reflow(uplink_teid, flows),
                Action::Remove { uplink_teid } => {
                    if let Some(counters) = self.upf().remove(uplink_teid) {
                        tracing::info!(teid = uplink_teid, ?counters, "session's last counters");
                    }
                }
            }
        }
    }
}

/// A core that listens: bound, not yet serving.
pub struct Server {
    shared: Arc<Shared>,
    listener: n2::Listener,
    control: daemon::control::Server,
    n3: n3::N3,
}

impl Server {
    /// Binds every socket that the configuration names.
    ///
    /// # Errors
    /// [`ServerError`] for the first one that cannot be.
    pub async fn bind(config: Config) -> Result<Self, ServerError> {
        let home = Home::new(config.subscribers, &config.home_network_keys)?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| ServerError::Random(error.to_string()))?;
        let rng = Box::new(ChaCha20Rng::from_seed(seed));
        let address = config.upf.address();
        let mut amf = Amf::new(config.amf, config.smf, address, home, rng);
        amf.policy = config.policy;
        amf.faults = config.faults;
        let listener = n2::Listener::bind(&config.listen, &n2::Options::default())?;
        let control = daemon::control::Server::bind(&config.control).await?;
        let n3 = n3::N3::bind(&config.upf).await?;
        let shared = Arc::new(Shared {
            started: Instant::now(),
            state: Mutex::new(State {
                amf,
                transactions: Transactions::default(),
                links: HashMap::new(),
                next_association: 1,
            }),
            upf: Mutex::new(Upf::default()),
            timer: Notify::new(),
        });
        Ok(Self {
            shared,
            listener,
            control,
            n3,
        })
    }

    /// Where N3IWFs connect.
    #[must_use]
    pub fn address(&self) -> &n2::Address {
        self.listener.local()
    }

    /// Serves until the future is dropped.
    ///
    /// # Errors
    /// When N2 or N3 fails for good.
    pub async fn serve(self) -> Result<(), ServerError> {
        let shared = self.shared;
        let control = control::serve(self.control, Arc::clone(&shared));
        let n3 = self.n3.serve(Arc::clone(&shared));
        tokio::select! {
            () = control => Ok(()),
            result = n3 => result,
            () = timers(&shared) => Ok(()),
            result = accept(&self.listener, &shared) => result,
        }
    }
}

async fn timers(shared: &Shared) {
    loop {
        let due = shared.lock().amf.poll_timeout();
        let changed = shared.timer.notified();
        match due {
            None => changed.await,
            Some(at) => {
                let at = tokio::time::Instant::from_std(shared.started + at);
                tokio::select! {
                    () = changed => continue,
                    () = tokio::time::sleep_until(at) => {}
                }
                shared.with_amf(|state, now| ((), state.amf.handle_timeout(now)));
            }
        }
    }
}

async fn accept(listener: &n2::Listener, shared: &Arc<Shared>) -> Result<(), ServerError> {
    // Dropped with the server: every association ends with it.
    let mut links = tokio::task::JoinSet::new();
    loop {
        while links.try_join_next().is_some() {}
        match listener.accept().await {
            Ok(association) => {
                links.spawn(serve_association(association, Arc::clone(shared)));
            }
            Err(error) => {
                tracing::warn!(%error, "N2 accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_association(association: n2::Association, shared: Arc<Shared>) {
    let peer = association.peer().to_owned();
    let streams = association.streams();
    let (send, mut recv) = association.into_split();
    let (link, mut outgoing) = mpsc::unbounded_channel();
    let id = {
        let mut state = shared.lock();
        let id = AssociationId(state.next_association);
        state.next_association += 1;
        state.links.insert(id, link);
        state.amf.connected(shared.now(), id, &peer);
        id
    };
    tracing::info!(%peer, streams, "association up");
    let sender = tokio::spawn(async move {
        while let Some(out) = outgoing.recv().await {
            let sent = match out {
                Out::Message { stream, data } => send.send(stream % streams.max(1), &data).await,
                Out::Abort => {
                    if let Err(error) = send.abort() {
                        tracing::warn!(%error, "N2 abort");
                    }
                    return;
                }
            };
            if let Err(error) = sent {
                tracing::warn!(%error, "N2 send");
                break;
            }
        }
        // Whatever ended the sending ends the association.
        drop(send.shutdown());
    });
    loop {
        match recv.recv().await {
            Ok(Some(message)) => received(&shared, id, &message),
            Ok(None) => break,
            Err(error) if error.is_recoverable() => tracing::warn!(%error, "N2 message dropped"),
            Err(error) => {
                tracing::warn!(%peer, %error, "association broke");
                break;
            }
        }
    }
    tracing::info!(%peer, "association down");
    shared.with_amf(|state, now| {
        state.links.remove(&id);
        ((), state.amf.disconnected(now, id))
    });
    // The channel is closed: the sender ends by itself.
    drop(sender.await);
}

fn received(shared: &Shared, id: AssociationId, message: &n2::Received) {
    if message.ppid != n2::NGAP_PPID {
        tracing::warn!(
            ppid = message.ppid,
            "not the payload protocol identifier of NGAP"
        );
        return;
    }
    shared.with_amf(|state, now| {
        let begun = Instant::now();
        let Handled {
            received,
            ue,
            actions,
        } = state.amf.handle(now, id, &message.data);
        let supi = ue.and_then(|ue| state.amf.supi(ue));
        let sent = actions
            .iter()
            .filter_map(|action| match action {
                Action::Send { name, .. } => Some(name.clone()),
                _ => None,
            })
            .collect();
        state.transactions.push(Transaction {
            at_us: transactions::micros(now),
            ue,
            supi,
            received,
            sent,
            spent_us: transactions::micros(begun.elapsed()),
        });
        ((), actions)
    });
}
