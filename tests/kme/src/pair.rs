//! KMEs that run: one end for a process of its own, or both with certificates for a test.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use qkd::{KmsConfig, RetryConfig};
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use crate::{
    certs::{KmeName, Pki},
    config::{KmeConfig, LinkConfig, Offer, PeerConfig},
    fault::Fault,
    link::{self, Meeting},
    node::{Counters, Node, NodeStatus, Peer},
    server,
    tls::Acceptors,
};

/// One running KME; it stops when dropped.
pub struct Kme {
    node: Arc<Node>,
    address: SocketAddr,
    server: AbortHandle,
    // Ends all tasks with the KME.
    _tasks: JoinSet<()>,
}

impl Kme {
    /// Starts one end of a pair whose other end is another process.
    ///
    /// # Errors
    /// When a certificate cannot be read or an address cannot be bound.
    pub async fn start(config: &KmeConfig, link: &LinkConfig, peer: PeerConfig) -> Result<Self> {
        let meeting = Meeting::new(peer)
            .await
            .with_context(|| format!("peer {peer:?}"))?;
        let mut kme = Self::alone(config, link).await?;
        let (sender, queue) = mpsc::unbounded_channel();
        kme.node.connect(Peer::There(sender));
        kme._tasks
            .spawn(link::run(kme.node.clone(), meeting, queue));
        Ok(kme)
    }

    /// Starts both ends in this process.
    ///
    /// # Errors
    /// As [`Kme::start`].
    pub async fn start_both(
        a: &KmeConfig,
        b: &KmeConfig,
        link: &LinkConfig,
    ) -> Result<(Self, Self)> {
        let (a, b) = (Self::alone(a, link).await?, Self::alone(b, link).await?);
        a.node.connect(Peer::Here(b.node.clone()));
        b.node.connect(Peer::Here(a.node.clone()));
        Ok((a, b))
    }

    async fn alone(config: &KmeConfig, link: &LinkConfig) -> Result<Self> {
        let acceptors = Acceptors::new(config).with_context(|| format!("KME {}", config.id))?;
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("KME {} listening on {}", config.id, config.listen))?;
        let address = listener.local_addr()?;
        let node = Node::new(config, link);
        let mut tasks = JoinSet::new();
        let server = tasks.spawn(server::serve(node.clone(), listener, acceptors));
        Ok(Self {
            node,
            address,
            server,
            _tasks: tasks,
        })
    }

    /// KME ID.
    pub fn id(&self) -> &str {
        self.node.id()
    }

    /// Where the HTTPS server listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL for clients.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.node.counters()
    }

    /// What `kme status` shows.
    pub fn status(&self) -> NodeStatus {
        self.node.status()
    }

    /// Puts a fault in force.
    pub fn fault(&self, fault: Fault) {
        self.node.add_fault(fault);
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.node.clear_faults();
    }

    /// Stops the HTTPS server for good: connections are refused from now on.
    pub fn stop(&self) {
        self.server.abort();
    }

    /// Waits until the other end of the link is there.
    pub async fn link_up(&self) {
        let mut info = self.node.info().subscribe();
        // The sender lives as long as the node does.
        let _ = info.wait_for(|info| info.up).await;
    }
}

/// What [`Pair::start`] should make.
#[derive(Debug, Clone)]
pub struct Setup {
    /// SAEs at KME `kme-a`.
    pub saes_a: Vec<String>,
    /// SAEs at KME `kme-b`.
    pub saes_b: Vec<String>,
    /// What both KMEs offer.
    pub offer: Offer,
    /// The link.
    pub link: LinkConfig,
    /// Where both listen.
    pub listen: SocketAddr,
}

impl Default for Setup {
    /// `sae-n3iwf` and `sae-ue-1`, a full buffer, 20 ms of replication delay, loopback.
    fn default() -> Self {
        Self {
            saes_a: vec!["sae-n3iwf".into()],
            saes_b: vec!["sae-ue-1".into()],
            offer: Offer::default(),
            link: LinkConfig::default(),
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
        }
    }
}

/// Both KMEs in this process with certificates of their own, for tests.
pub struct Pair {
    /// `kme-a`.
    pub a: Kme,
    /// `kme-b`.
    pub b: Kme,
    pki: Pki,
    setup: Setup,
    _dir: tempfile::TempDir,
}

impl Pair {
    /// Makes certificates in a temporary directory and starts both KMEs.
    ///
    /// # Errors
    /// When certificates cannot be made or an address cannot be bound.
    pub async fn start(setup: Setup) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let pki = Pki::open(dir.path(), 30)?;
        let address = setup.listen.ip().to_string();
        let config = |id: &str, saes: &[String]| -> Result<KmeConfig> {
            pki.kme(&KmeName {
                id: id.into(),
                addresses: vec![address.clone()],
            })?;
            for sae in saes {
                pki.sae(sae)?;
            }
            Ok(KmeConfig {
                id: id.into(),
                listen: setup.listen,
                ca: pki.certificate("ca"),
                certificate: pki.certificate(id),
                private_key: pki.key(id),
                saes: saes.to_vec(),
                offer: setup.offer,
                faults: Vec::new(),
                journal: None,
            })
        };
        let (a, b) = (
            config("kme-a", &setup.saes_a)?,
            config("kme-b", &setup.saes_b)?,
        );
        let (a, b) = Kme::start_both(&a, &b, &setup.link).await?;
        Ok(Self {
            a,
            b,
            pki,
            setup,
            _dir: dir,
        })
    }

    /// The CA and the files it made; more certificates can be had from it.
    pub const fn pki(&self) -> &Pki {
        &self.pki
    }

    /// A client configuration for `sae` at its own KME, with short times fit for tests. An SAE
    /// that is at neither KME gets `kme-a`.
    pub fn client(&self, sae: &str) -> KmsConfig {
        let kme = if self.setup.saes_b.iter().any(|at_b| at_b == sae) {
            &self.b
        } else {
            &self.a
        };
        KmsConfig {
            endpoints: vec![kme.url()],
            ca: self.pki.certificate("ca"),
            certificate: self.pki.certificate(sae),
            private_key: self.pki.key(sae),
            kme_id: Vec::new(),
            method: qkd::Method::Post,
            max_keys_per_request: None,
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(2),
            retry: RetryConfig {
                initial: Duration::from_millis(20),
                maximum: Duration::from_millis(100),
                ..RetryConfig::default()
            },
        }
    }
}
