//! The network between a worker and the coordinator: a TCP proxy that passes bytes on, breaks connections, or goes silent.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

const BUFFER_BYTES: usize = 64 << 10;

/// What the network does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// Passes them on.
    Open,
    /// Breaks every connection, also new ones.
    Broken,
    /// Keeps connections, accepts new ones, and passes nothing on: what a firewall that drops packets looks like.
    Silent,
}

#[derive(Debug, Clone, Copy)]
struct State {
    network: Network,
    /// Counts how often all connections were broken.
    breaks: u64,
}

/// A proxy before the coordinator. It ends when it is dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: watch::Sender<State>,
    attempts: Arc<AtomicU32>,
    /// Aborted when it is dropped.
    _serving: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port and passes on to `upstream`.
    pub(crate) async fn start(upstream: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("the proxy cannot listen")?;
        let address = listener.local_addr().context("the proxy has no address")?;
        let (state, watched) = watch::channel(State {
            network: Network::Open,
            breaks: 0,
        });
        let attempts = Arc::new(AtomicU32::new(0));
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, upstream, watched, Arc::clone(&attempts)));
        Ok(Self {
            address,
            state,
            attempts,
            _serving: serving,
        })
    }

    /// Changes the network. Connections that were silent go on where they were when it opens again.
    pub(crate) fn set(&self, network: Network) {
        self.state.send_modify(|state| {
            state.network = network;
            state.breaks += u64::from(network == Network::Broken);
        });
    }

    /// Opens the network, and what was on its way is lost.
    pub(crate) fn open_anew(&self) {
        self.set(Network::Broken);
        self.set(Network::Open);
    }

    /// How many connections were asked for so far.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, upstream: SocketAddr, state: watch::Receiver<State>, attempts: Arc<AtomicU32>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                attempts.fetch_add(1, Ordering::Relaxed);
                if let Ok((client, _)) = accepted {
                    connections.spawn(connection(client, upstream, state.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(client: TcpStream, upstream: SocketAddr, mut state: watch::Receiver<State>) {
    let began = *state.borrow_and_update();
    if began.network == Network::Broken {
        return;
    }
    let mut breaking = state.clone();
    let passing = async {
        let opened = state.wait_for(|state| state.network == Network::Open).await.is_ok();
        if !opened {
            return;
        }
        let Ok(server) = TcpStream::connect(upstream).await else {
            return;
        };
        // Without it small frames of both sides wait for each other.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            () = pump(from_client, to_server, state.clone()) => {}
            () = pump(from_server, to_client, state.clone()) => {}
        }
    };
    tokio::select! {
        () = passing => {}
        _ = breaking.wait_for(|state| state.breaks != began.breaks) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        if state.wait_for(|state| state.network == Network::Open).await.is_err() {
            return;
        }
        let read = tokio::select! {
            biased;
            _ = state.changed() => continue,
            read = from.read(&mut buffer) => read,
        };
        match read {
            Ok(count) if count > 0 => {
                if to.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}
