//! A proxy as in a company network: it handles `CONNECT`, forwarded requests and SOCKS, and
//! requires a password.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// Connects to one receiver, whatever name the client asks for.
pub(crate) struct HttpProxy {
    pub(crate) address: SocketAddr,
    requested: Arc<Mutex<Vec<String>>>,
}

const USER: &str = "me:s@cret";

impl HttpProxy {
    /// Returns the URL of the proxy with its password, for a client.
    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://me:s%40cret@{}", self.address)
    }

    /// Returns the request lines, and the names that clients asked for over SOCKS.
    pub(crate) fn requested(&self) -> Vec<String> {
        self.requested
            .lock()
            .expect("the lock is not poisoned")
            .clone()
    }

    pub(crate) fn start(target: SocketAddr) -> Self {
        let requested = Arc::new(Mutex::new(Vec::new()));
        let (sender, address) = std::sync::mpsc::channel();
        let kept = requested.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("the runtime can be built");
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await;
                let listener = listener.expect("loopback has free ports");
                let bound = listener.local_addr().expect("the socket is bound");
                sender
                    .send(bound)
                    .expect("the starter waits for the address");
                while let Ok((client, _)) = listener.accept().await {
                    let requested = kept.clone();
                    tokio::spawn(async move { serve(client, target, &requested).await });
                }
            });
        });
        let address = address.recv().expect("the server starts");
        Self { address, requested }
    }
}

/// Serves one connection. Returns `None` if the client or the receiver disconnects.
async fn serve(
    mut client: TcpStream,
    target: SocketAddr,
    requested: &Mutex<Vec<String>>,
) -> Option<()> {
    let record = |line: &str| {
        requested
            .lock()
            .expect("the lock is not poisoned")
            .push(line.to_owned());
    };
    let mut first = [0];
    client.peek(&mut first).await.ok()?;
    let mut forwarded = Vec::new();
    if first == [5] {
        record(&socks(&mut client).await?);
    } else {
        let head = head(&mut client).await?;
        let (line, headers) = head.split_once("\r\n")?;
        record(line);
        let password = base64::engine::general_purpose::STANDARD.encode(USER);
        let expected = format!("proxy-authorization: basic {password}").to_lowercase();
        let is_it = |header: &&str| header.to_lowercase() == expected;
        if headers.lines().find(is_it).is_none() {
            let answer = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
            return client.write_all(answer).await.ok();
        }
        if line.starts_with("CONNECT ") {
            let answer = b"HTTP/1.1 200 Connection established\r\n\r\n";
            client.write_all(answer).await.ok()?;
        } else {
            let mut parts = line.split(' ');
            let (method, url) = (parts.next()?, parts.next()?);
            let path = url.strip_prefix("http://")?.split_once('/')?.1;
            let headers = headers.lines().filter(|header| !is_it(header));
            let headers = headers.collect::<Vec<_>>().join("\r\n");
            forwarded = format!("{method} /{path} HTTP/1.1\r\n{headers}\r\n\r\n").into_bytes();
        }
    }
    let mut server = TcpStream::connect(target).await.ok()?;
    server.write_all(&forwarded).await.ok()?;
    copy_bidirectional(&mut client, &mut server).await.ok()?;
    Some(())
}

/// Reads a head, without its last empty line.
async fn head(client: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    head.truncate(head.len() - 4);
    String::from_utf8(head).ok()
}

/// Handles the handshake of RFC 1928 and 1929. Returns the name and the port that the client asks for.
async fn socks(client: &mut TcpStream) -> Option<String> {
    let mut greeting = [0; 3];
    client.read_exact(&mut greeting).await.ok()?;
    assert_eq!(greeting, [5, 1, 2], "the client offers a password");
    client.write_all(&[5, 2]).await.ok()?;
    assert_eq!(client.read_u8().await.ok()?, 1);
    let mut words = Vec::new();
    for _ in 0..2 {
        let mut word = vec![0; client.read_u8().await.ok()?.into()];
        client.read_exact(&mut word).await.ok()?;
        words.push(String::from_utf8(word).ok()?);
    }
    assert_eq!(words.join(":"), USER);
    client.write_all(&[1, 0]).await.ok()?;
    let mut request = [0; 4];
    client.read_exact(&mut request).await.ok()?;
    assert_eq!(request, [5, 1, 0, 3], "the proxy resolves the name");
    let mut name = vec![0; client.read_u8().await.ok()?.into()];
    client.read_exact(&mut name).await.ok()?;
    let port = client.read_u16().await.ok()?;
    client
        .write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
        .await
        .ok()?;
    Some(format!("{}:{port}", String::from_utf8(name).ok()?))
}
