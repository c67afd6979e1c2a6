//! Associations with AMFs: one task connects and receives, one sends in order.

use n2::{Address, Association, NGAP_PPID, Options, SendHalf};
use tokio::{sync::mpsc, task::JoinHandle};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::Input;
use crate::core::AmfNumber;

/// Messages that wait for the association to take them.
const QUEUE: usize = 1024;
/// The PPID as a sender in host order of a little-endian machine writes it.
const SWAPPED_PPID: u32 = NGAP_PPID.swap_bytes();

pub(super) struct N2 {
    links: Vec<Link>,
    options: Options,
    inputs: mpsc::Sender<Input>,
}

struct Link {
    address: Address,
    /// Counts connections, so that news of an earlier one are told apart.
    attempt: u64,
    receiver: Option<JoinHandle<()>>,
    sender: Option<Sender>,
}

struct Sender {
    queue: mpsc::Sender<(u16, Vec<u8>)>,
    task: JoinHandle<()>,
    streams: u16,
}

impl N2 {
    pub(super) fn new(
        addresses: Vec<Address>,
        options: Options,
        inputs: mpsc::Sender<Input>,
    ) -> Self {
        let links = addresses
            .into_iter()
            .map(|address| Link {
                address,
                attempt: 0,
                receiver: None,
                sender: None,
            })
            .collect();
        Self {
            links,
            options,
            inputs,
        }
    }

    /// Begins to connect.
    pub(super) fn connect(&mut self, amf: AmfNumber) {
        self.disconnect(amf);
        let Some(link) = self.links.get_mut(amf) else {
            return;
        };
        let attempt = link.attempt;
        let (address, options) = (link.address.clone(), self.options.clone());
        let inputs = self.inputs.clone();
        link.receiver = Some(tokio::spawn(async move {
            let reason = receive(amf, attempt, &address, &options, &inputs).await;
            let lost = Input::AmfLost {
                amf,
                attempt,
                reason,
            };
            drop(inputs.send(lost).await);
        }));
    }

    /// Closes in order; what is queued is still sent.
    pub(super) fn disconnect(&mut self, amf: AmfNumber) {
        if let Some(link) = self.links.get_mut(amf) {
            link.attempt += 1;
            if let Some(task) = link.receiver.take() {
                task.abort();
            }
            link.sender = None;
        }
    }

    /// The association stands. `false`: it is one that was given up meanwhile.
    pub(super) fn connected(&mut self, amf: AmfNumber, attempt: u64, half: SendHalf) -> bool {
        let Some(link) = self.current(amf, attempt) else {
            return false;
        };
        let streams = half.streams();
        let (queue, mut waiting) = mpsc::channel::<(u16, Vec<u8>)>(QUEUE);
        let task = tokio::spawn(async move {
            while let Some((stream, data)) = waiting.recv().await {
                if let Err(error) = half.send(stream, &data).await {
                    // The receiving task sees the end of a broken association and tells it.
                    debug!(%error, "NGAP send");
                }
            }
        });
        link.sender = Some(Sender {
            queue,
            task,
            streams,
        });
        true
    }

    /// The association is gone. `false`: it was given up before.
    pub(super) fn lost(&mut self, amf: AmfNumber, attempt: u64) -> bool {
        let current = self.is_current(amf, attempt);
        if current {
            self.disconnect(amf);
        }
        current
    }

    pub(super) fn is_current(&self, amf: AmfNumber, attempt: u64) -> bool {
        self.links
            .get(amf)
            .is_some_and(|link| link.attempt == attempt)
    }

    /// Queues a message: about a UE on the stream of that UE, else on stream 0 (TS 38.412, 7).
    pub(super) fn send(&self, amf: AmfNumber, ue: Option<u32>, data: Vec<u8>) {
        let Some(sender) = self.links.get(amf).and_then(|link| link.sender.as_ref()) else {
            debug!(amf, "no association: message dropped");
            return;
        };
        let stream = match (ue, sender.streams.checked_sub(1)) {
            (Some(ue), Some(others)) if others > 0 => {
                u16::try_from(ue % u32::from(others)).map_or(0, |stream| stream + 1)
            }
            _ => 0,
        };
        if sender.queue.try_send((stream, data)).is_err() {
            warn!(amf, "the AMF takes no messages: one dropped");
        }
    }

    /// Sends what is queued and closes every association.
    pub(super) async fn close(&mut self) {
        for link in &mut self.links {
            link.attempt += 1;
            if let Some(sender) = link.sender.take() {
                drop(sender.queue);
                drop(tokio::time::timeout(std::time::Duration::from_secs(1), sender.task).await);
            }
            if let Some(task) = link.receiver.take() {
                task.abort();
            }
        }
    }

    fn current(&mut self, amf: AmfNumber, attempt: u64) -> Option<&mut Link> {
        self.links
            .get_mut(amf)
            .filter(|link| link.attempt == attempt)
    }
}

/// Connects and passes messages on until the association ends; why it did.
async fn receive(
    amf: AmfNumber,
    attempt: u64,
    address: &Address,
    options: &Options,
    inputs: &mpsc::Sender<Input>,
) -> String {
    let association = match Association::connect(address, options).await {
        Ok(association) => association,
        Err(error) => return error.to_string(),
    };
    let (sender, mut receiver) = association.into_split();
    let connected = Input::AmfConnected {
        amf,
        attempt,
        sender,
    };
    if inputs.send(connected).await.is_err() {
        return "the daemon ends".to_owned();
    }
    loop {
        let received = match receiver.recv().await {
            Ok(Some(received)) => received,
            Ok(None) => return "closed by the AMF".to_owned(),
            Err(error) if error.is_recoverable() => {
                warn!(amf, %error, "NGAP message dropped");
                continue;
            }
            Err(error) => return error.to_string(),
        };
        if received.ppid == SWAPPED_PPID {
            debug!(amf, "PPID in host order");
        } else if received.ppid != NGAP_PPID {
            warn!(
                amf,
                ppid = received.ppid,
                "message of another protocol dropped"
            );
            continue;
        }
        let data = Zeroizing::new(received.data);
        let message = Input::Ngap { amf, attempt, data };
        if inputs.send(message).await.is_err() {
            return "the daemon ends".to_owned();
        }
    }
}
