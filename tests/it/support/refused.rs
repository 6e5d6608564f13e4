//! A port that refuses connections, held for as long as a test needs it.

use std::net::SocketAddr;

use tokio::net::TcpSocket;

/// A bound socket that does not listen, so that no other process can take its port.
pub(crate) struct RefusedPort {
    socket: TcpSocket,
}

impl RefusedPort {
    pub(crate) fn reserve() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket can be created");
        let any = "127.0.0.1:0".parse().expect("a valid address");
        socket.bind(any).expect("loopback has free ports");
        Self { socket }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("the socket is bound")
    }
}

/// Returns an address that refuses connections until the process ends.
pub(crate) fn refused_address() -> SocketAddr {
    let port = RefusedPort::reserve();
    let address = port.address();
    std::mem::forget(port);
    address
}
