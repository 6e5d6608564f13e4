//! A proxy in front of a receiver, whose connections can fail.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// The behaviour of the connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    /// Everything is forwarded.
    Pass,
    /// Nothing listens, and all connections are closed.
    Refuse,
    /// Connections are accepted and then ignored.
    Mute,
    /// Nothing more is forwarded, forever.
    Freeze,
    /// One byte is forwarded now and then.
    Drip,
    /// Connections are reset when data arrives.
    Reset,
}

/// Forwards connections from an exporter to a receiver.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    mode: watch::Sender<Mode>,
}

impl Proxy {
    pub(crate) fn start(target: SocketAddr, mode: Mode) -> Self {
        Self::start_tls(target, mode, None)
    }

    pub(crate) fn start_tls(target: SocketAddr, mode: Mode, tls: Option<ServerConfig>) -> Self {
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let (mode, watched) = watch::channel(mode);
        let (sender, address) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("the runtime can be built");
            runtime.block_on(async {
                let mut socket = socket("127.0.0.1:0".parse().expect("a valid address"));
                let bound = socket.local_addr().expect("the socket is bound");
                sender.send(bound).expect("the starter waits for the address");
                loop {
                    let mut refuses = watched.clone();
                    if refuses.wait_for(|mode| *mode != Mode::Refuse).await.is_err() {
                        return;
                    }
                    let listener = socket.listen(128).expect("the socket is bound");
                    let mut connections = JoinSet::new();
                    loop {
                        tokio::select! {
                            accepted = listener.accept() => {
                                let Ok((client, _)) = accepted else {
                                    return;
                                };
                                connections.spawn(serve(client, target, watched.clone(), tls.clone()));
                            }
                            refused = refuses.wait_for(|mode| *mode == Mode::Refuse) => {
                                if refused.is_err() {
                                    return;
                                }
                                break;
                            }
                        }
                    }
                    // The new socket is bound before the old one is closed, so the port stays taken.
                    socket = self::socket(bound);
                }
            });
        });
        Self {
            address: address.recv().expect("the server starts"),
            mode,
        }
    }

    /// Changes the behaviour, for open connections as well.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

/// Returns a bound socket. Another socket of this process may have the same address.
fn socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket can be created");
    socket.set_reuseaddr(true).expect("the option can be set");
    #[cfg(unix)]
    socket.set_reuseport(true).expect("the option can be set");
    socket.bind(address).expect("loopback has free ports");
    socket
}

async fn serve(
    client: TcpStream,
    target: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    tls: Option<TlsAcceptor>,
) {
    let now = *mode.borrow_and_update();
    match now {
        Mode::Mute => {
            let _open = client;
            return pending().await;
        }
        Mode::Reset => {
            let mut client = client;
            let _ = client.read(&mut [0]).await;
            let _ = client.set_zero_linger();
            return;
        }
        _ => {}
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (from_server, to_server) = server.into_split();
    match tls {
        None => {
            let (from_client, to_client) = client.into_split();
            tokio::join!(
                pump(from_server, to_client, mode.clone()),
                pump(from_client, to_server, mode),
            );
        }
        Some(tls) => {
            let Ok(client) = tls.accept(client).await else {
                return;
            };
            let (from_client, to_client) = tokio::io::split(client);
            tokio::join!(
                pump(from_server, to_client, mode.clone()),
                pump(from_client, to_server, mode),
            );
        }
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mode: watch::Receiver<Mode>,
) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let now = *mode.borrow();
        let sent = match now {
            Mode::Freeze | Mode::Mute => pending().await,
            Mode::Reset => return,
            Mode::Drip => {
                for byte in &buffer[..count] {
                    if to.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok(())
            }
            Mode::Pass | Mode::Refuse => to.write_all(&buffer[..count]).await,
        };
        if sent.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
