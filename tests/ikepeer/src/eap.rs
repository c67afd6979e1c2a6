//! EAP of all IKE SAs: one conversation each, in the role of its end.

use std::collections::HashMap;

use getrandom::SysRng;
use ike::{EapSuccess, Endpoint, Event, Instant, SaId};
use rand_core::TryRng;

use crate::{
    config::{Authentication, Config},
    mschapv2::{Account, Client, Server, Step},
};

#[derive(Default)]
pub(crate) struct Conversations {
    account: Option<Account>,
    clients: HashMap<SaId, Client>,
    servers: HashMap<SaId, Server>,
}

impl Conversations {
    pub(crate) fn new(config: &Config) -> Self {
        let account = match &config.authentication {
            Authentication::Eap(eap) => Some(Account {
                user: eap.user.clone(),
                password: eap.password.clone(),
            }),
            _ => None,
        };
        Self {
            account,
            ..Self::default()
        }
    }

    /// Carries out what an event about EAP asks for.
    pub(crate) fn event(
        &mut self,
        endpoint: &mut Endpoint,
        now: Instant,
        config: &Config,
        event: Event,
    ) {
        match event {
            Event::EapBegin { sa, .. } => {
                if let (Some(account), Some(challenge)) = (self.account.clone(), challenge()) {
                    let server = Server::new(account, challenge);
                    endpoint.send_eap(now, sa, server.begin());
                    self.servers.insert(sa, server);
                }
            }
            Event::Eap { sa, packet } => {
                if let Some(server) = self.servers.get_mut(&sa) {
                    match server.next(&packet) {
                        Step::Send(packet) => endpoint.send_eap(now, sa, packet),
                        Step::Failure(packet) => endpoint.eap_failure(now, sa, packet),
                        Step::Success(packet, msk) => {
                            let success = EapSuccess {
                                packet,
                                msk,
                                configuration: Vec::new(),
                                ts_local: vec![config.ts_local()],
                                ts_remote: vec![config.ts_remote()],
                                notifies: Vec::new(),
                            };
                            endpoint.eap_success(now, sa, success);
                        }
                    }
                    return;
                }
                let answer = self.client(sa).and_then(|client| client.answer(&packet));
                match answer {
                    Some(packet) => endpoint.send_eap(now, sa, packet),
                    // A server that is none, or a method this end does not have.
                    None => endpoint.close(now, sa),
                }
            }
            Event::EapSuccess { sa } => {
                match self.clients.remove(&sa).and_then(|client| client.msk()) {
                    Some(msk) => endpoint.set_msk(now, sa, msk),
                    None => endpoint.close(now, sa),
                }
            }
            Event::Closed { sa, .. } => {
                self.clients.remove(&sa);
                self.servers.remove(&sa);
            }
            _ => {}
        }
    }

    fn client(&mut self, sa: SaId) -> Option<&mut Client> {
        let account = self.account.clone()?;
        let challenge = challenge()?;
        Some(
            self.clients
                .entry(sa)
                .or_insert_with(|| Client::new(account, challenge)),
        )
    }
}

fn challenge() -> Option<[u8; 16]> {
    let mut octets = [0; 16];
    SysRng.try_fill_bytes(&mut octets).ok()?;
    Some(octets)
}
