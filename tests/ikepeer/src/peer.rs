//! The loop: datagrams, commands and time in; datagrams, data plane and report lines out.

use std::{net::IpAddr, time::Instant as Clock};

use anyhow::Result;
use getrandom::SysRng;
use ike::{CommandError, Endpoint, Event, Grant, Instant, Path, SaId, SaState};
use rand_core::UnwrapErr;
use tokio::sync::mpsc;

use crate::{
    config::{Config, Parts},
    eap::Conversations,
    plane::Plane,
    report::{Line, Seen, say},
    sockets::{IKE_PORT, Sockets},
};

struct Peer {
    config: Config,
    parts: Parts,
    endpoint: Endpoint,
    sockets: Sockets,
    plane: Plane,
    eap: Conversations,
    began: Clock,
    seen: Seen,
}

/// Runs until standard input ends or says `quit`.
///
/// # Errors
/// When sockets or the data plane cannot be had.
pub async fn run(config: Config) -> Result<()> {
    let parts = config.parts()?;
    let plane = Plane::new(&config).await?;
    let kernel = config.esp_in == crate::config::Esp::Kernel;
    let sockets = Sockets::bind(config.listen, kernel).await?;
    let endpoint = Endpoint::new(parts.endpoint.clone(), Box::new(UnwrapErr(SysRng)));
    let mut peer = Peer {
        eap: Conversations::new(&config),
        config,
        parts,
        endpoint,
        sockets,
        plane,
        began: Clock::now(),
        seen: Seen::default(),
    };
    say(&Line::Ready);
    let mut commands = commands();
    loop {
        let due = peer.endpoint.poll_timeout();
        let sleep = async {
            match due {
                Some(at) => {
                    let wait = at.since_origin().saturating_sub(peer.began.elapsed());
                    tokio::time::sleep(wait).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            command = commands.recv() => match command.as_deref().map(str::trim) {
                None | Some("quit") => break,
                Some(command) => match command.strip_prefix("move ") {
                    Some(address) => peer.go_to(address).await,
                    None => peer.command(command),
                },
            },
            received = peer.sockets.recv() => {
                // An ICMP error of an earlier datagram is the network's word, not the peer's.
                if let Ok((path, data)) = received {
                    peer.seen.note(path.local.port(), &data, false);
                    let now = peer.now();
                    peer.endpoint.handle_datagram(now, path, &data);
                }
            },
            () = sleep => {
                let now = peer.now();
                peer.endpoint.handle_timeout(now);
            }
        }
        peer.drain().await;
    }
    peer.plane.stop().await
}

/// Lines of standard input. The thread ends with it, or with the process.
fn commands() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let lines = std::io::stdin().lines().map_while(Result::ok);
        for line in lines {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

impl Peer {
    fn now(&self) -> Instant {
        Instant::from_origin(self.began.elapsed())
    }

    fn command(&mut self, command: &str) {
        let result = match command {
            "initiate" => {
                self.initiate();
                Ok(())
            }
            "half-open" => {
                let sa = self.initiate();
                let now = self.now();
                // Its request is in the queue, and nobody waits for the answer.
                self.endpoint.abandon(now, sa);
                Ok(())
            }
            "rekey-child" => self.rekey_child(),
            "rekey-ike" => self.each(Endpoint::rekey_ike),
            "probe" => self.each(|endpoint, now, sa| {
                endpoint.probe(now, sa);
                Ok(())
            }),
            "close" => self.each(|endpoint, now, sa| {
                endpoint.close(now, sa);
                Ok(())
            }),
            "status" => {
                self.status();
                Ok(())
            }
            other => {
                let text = format!("no command {other:?}");
                return say(&Line::Error { text });
            }
        };
        if let Err(error) = result {
            let text = format!("{command}: {error}");
            say(&Line::Error { text });
        }
    }

    /// Another address of this host: new sockets, then MOBIKE.
    async fn go_to(&mut self, address: &str) {
        let kernel = self.config.esp_in == crate::config::Esp::Kernel;
        let moved = async {
            let address: IpAddr = address.parse()?;
            self.sockets = Sockets::bind(address, kernel).await?;
            self.each(|endpoint, now, sa| endpoint.roam(now, sa, address))?;
            anyhow::Ok(())
        };
        if let Err(error) = moved.await {
            let text = format!("move {address}: {error:#}");
            say(&Line::Error { text });
        }
    }

    fn initiate(&mut self) -> SaId {
        let path = Path {
            local: (self.config.listen, IKE_PORT).into(),
            remote: (self.config.remote, IKE_PORT).into(),
        };
        let now = self.now();
        let config = self.parts.initiator.clone();
        self.endpoint
            .initiate_with(now, path, config, &self.parts.offer)
    }

    /// The established IKE SAs: there should be one.
    fn established(&self) -> Vec<ike::SaStatus> {
        self.endpoint
            .sas()
            .filter(|sa| sa.state == SaState::Established)
            .collect()
    }

    fn each(
        &mut self,
        act: impl Fn(&mut Endpoint, Instant, SaId) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        let now = self.now();
        let sas = self.established();
        if sas.is_empty() {
            return Err(CommandError::UnknownSa);
        }
        sas.iter()
            .try_for_each(|sa| act(&mut self.endpoint, now, sa.id))
    }

    fn rekey_child(&mut self) -> Result<(), CommandError> {
        let now = self.now();
        let sas = self.established();
        let (sa, child) = sas
            .iter()
            .find_map(|sa| Some((sa.id, sa.children.iter().rfind(|child| child.up)?.id)))
            .ok_or(CommandError::UnknownChild)?;
        self.endpoint.rekey_child(now, sa, child).map(drop)
    }

    fn status(&self) {
        let sas = self.established();
        let children = sas.iter().flat_map(|sa| &sa.children);
        say(&Line::Status {
            established: sas.len(),
            children: children.filter(|child| child.up).count(),
            seen: self.seen,
        });
    }

    async fn drain(&mut self) {
        loop {
            while let Some(transmit) = self.endpoint.poll_transmit() {
                self.seen
                    .note(transmit.path.local.port(), &transmit.data, true);
                if let Err(error) = self.sockets.send(&transmit).await {
                    let text = format!("not sent to {}: {error}", transmit.path.remote);
                    say(&Line::Error { text });
                }
            }
            match self.endpoint.poll_event() {
                Some(event) => self.event(event).await,
                None => return,
            }
        }
    }

    async fn event(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::PeerAuthenticated { sa, peer_id, .. } => {
                // Whoever proves another identity than the expected one is a stranger.
                if self.parts.initiator.peer_identity.as_ref() != Some(&peer_id) {
                    let kind = ike::wire::NotifyType::AUTHENTICATION_FAILED;
                    let refusal = ike::wire::Notify::status(kind, Vec::new());
                    return self.endpoint.refuse(now, sa, vec![refusal]);
                }
                let grant = Grant {
                    ts_local: vec![self.config.ts_local()],
                    ts_remote: vec![self.config.ts_remote()],
                    ..Grant::default()
                };
                self.endpoint.grant(now, sa, grant);
            }
            Event::InstallChild { sa, child } => {
                let id = child.id;
                let result = self.plane.install(*child).await.map_err(|error| {
                    let text = format!("Child SA not installed: {error:#}");
                    say(&Line::Error { text });
                });
                let now = self.now();
                self.endpoint.child_installed(now, sa, id, result);
            }
            Event::PathChanged {
                path, udp_encap, ..
            } => {
                if let Err(error) = self.plane.relocate(path, udp_encap).await {
                    let text = format!("Child SA not moved: {error:#}");
                    say(&Line::Error { text });
                }
                say(&Line::PathChanged {
                    local: path.local.to_string(),
                    remote: path.remote.to_string(),
                });
            }
            Event::MoveRefused { notify, .. } => {
                let text = format!("move refused: {notify}");
                say(&Line::Error { text });
            }
            Event::ChildDown { child, .. } => {
                if let Err(error) = self.plane.remove(child).await {
                    let text = format!("Child SA not removed: {error:#}");
                    say(&Line::Error { text });
                }
                let child = child.number();
                say(&Line::ChildDown { child });
            }
            Event::ChildRequested { sa, child, .. } => {
                let refusal = ike::wire::NotifyType::NO_ADDITIONAL_SAS;
                self.endpoint.answer_child(now, sa, child, Err(refusal));
            }
            event => {
                // Told first: the IKE SA may be gone by what follows.
                if let Some(line) = self.told(&event) {
                    say(&line);
                }
                self.eap.event(&mut self.endpoint, now, &self.config, event);
            }
        }
    }

    /// Events that only want to be told.
    fn told(&self, event: &Event) -> Option<Line> {
        Some(match event {
            Event::Established { sa, .. } => {
                let status = self.endpoint.sas().find(|status| status.id == *sa)?;
                Line::Established {
                    sa: sa.number(),
                    initiator: status.initiator,
                    suite: status.suite?.to_string(),
                }
            }
            Event::ChildUp { sa, child, .. } => {
                let status = self.endpoint.sas().find(|status| status.id == *sa)?;
                let entry = status.children.iter().find(|entry| entry.id == *child)?;
                Line::ChildUp {
                    child: child.number(),
                    suite: entry.suite?.to_string(),
                    udp: status.nat_local || status.nat_remote,
                }
            }
            Event::ChildFailed { reason, .. } => Line::ChildFailed {
                reason: format!("{reason:?}"),
            },
            Event::ChildSwitched { from, to, .. } => Line::ChildSwitched {
                from: from.number(),
                to: to.number(),
            },
            Event::ChildRekeyFailed { reason, .. } => Line::RekeyFailed {
                reason: format!("Child SA: {reason:?}"),
            },
            Event::IkeRekeyFailed { reason, .. } => Line::RekeyFailed {
                reason: format!("IKE SA: {reason:?}"),
            },
            Event::IkeRekeyed { spi_i, .. } => Line::IkeRekeyed {
                spi_i: format!("{spi_i:016x}"),
            },
            Event::Closed { sa, reason } => Line::Closed {
                sa: sa.number(),
                reason: reason.to_string(),
            },
            _ => return None,
        })
    }
}
