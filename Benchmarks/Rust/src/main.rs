//! The benchmark's Rust peer: TCP to HTTP/2 CONNECT over mutual TLS 1.3 and back, by the libraries that ztunnel is made of.
//!
//!     rust-peer client LISTEN SERVER TARGET CREDENTIALS PEER
//!     rust-peer server LISTEN CREDENTIALS PEER
//!
//! LISTEN, SERVER and TARGET are addresses; CREDENTIALS is a folder with `key.pem`, `cert-chain.pem` and `root-cert.pem`;
//! PEER is the SPIFFE ID that the other side must have. One connection between the two, one thread each.

mod join;
mod tls;

use std::error::Error;
use std::net::SocketAddr;
use std::process::exit;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use tokio::io::BufWriter;
use tokio::net::{TcpListener, TcpStream};

const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const MAX_FRAME: u32 = 64 << 10;
const MAX_STREAMS: u32 = 100_000;
/// h2 gives a frame's header and its payload as two pieces, and rustls would make a record of the nine bytes. Holds one frame.
const STAGING: usize = 128 << 10;

type Failure = Box<dyn Error + Send + Sync>;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("runtime");
    let ended = match words[..] {
        ["client", listen, server, target, credentials, peer] => {
            runtime.block_on(client(listen, server, target, credentials, peer))
        }
        ["server", listen, credentials, peer] => runtime.block_on(server(listen, credentials, peer)),
        _ => {
            Err("usage: rust-peer client LISTEN SERVER TARGET CREDENTIALS PEER | server LISTEN CREDENTIALS PEER".into())
        }
    };
    if let Err(error) = ended {
        eprintln!("rust-peer: {error}");
        exit(1);
    }
}

async fn client(listen: &str, server: &str, target: &str, credentials: &str, peer: &str) -> Result<(), Failure> {
    let tcp = TcpStream::connect(server).await?;
    tcp.set_nodelay(true)?;
    let tls = tls::connect(tcp, credentials, peer).await?;
    let (requests, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .initial_max_send_streams(MAX_STREAMS as usize)
        .enable_push(false)
        .handshake::<_, Bytes>(BufWriter::with_capacity(STAGING, tls))
        .await?;
    tokio::spawn(async move {
        let reason = connection.await.err().map_or("the server closed it".to_string(), |error| error.to_string());
        eprintln!("rust-peer: the connection to the server ended: {reason}");
        exit(1);
    });

    let listener = TcpListener::bind(listen).await?;
    let authority = target.to_string();
    loop {
        let (tcp, _) = listener.accept().await?;
        let (requests, authority) = (requests.clone(), authority.clone());
        tokio::spawn(async move {
            if let Err(error) = tunnel(tcp, requests, &authority).await {
                eprintln!("rust-peer: stream to {authority}: {error}");
            }
        });
    }
}

async fn tunnel(tcp: TcpStream, requests: h2::client::SendRequest<Bytes>, authority: &str) -> Result<(), Failure> {
    tcp.set_nodelay(true)?;
    let request = Request::builder().method(Method::CONNECT).uri(authority).body(())?;
    let (response, sending) = requests.ready().await?.send_request(request, false)?;
    // Nothing is sent ahead of the answer: so does ztunnel.
    let response = response.await?;
    if response.status() != StatusCode::OK {
        return Err(format!("the server answered {}", response.status()).into());
    }
    join::join(tcp, sending, response.into_body()).await
}

async fn server(listen: &str, credentials: &str, peer: &str) -> Result<(), Failure> {
    let acceptor = tls::Acceptor::new(credentials, peer)?;
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (tcp, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if let Err(error) = serve(tcp, acceptor).await {
                eprintln!("rust-peer: connection: {error}");
            }
        });
    }
}

async fn serve(tcp: TcpStream, acceptor: tls::Acceptor) -> Result<(), Failure> {
    tcp.set_nodelay(true)?;
    let tls = acceptor.accept(tcp).await?;
    let mut connection = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_concurrent_streams(MAX_STREAMS)
        .handshake::<_, Bytes>(BufWriter::with_capacity(STAGING, tls))
        .await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        tokio::spawn(async move {
            if let Err(error) = answer(request, respond).await {
                eprintln!("rust-peer: stream: {error}");
            }
        });
    }
    Ok(())
}

async fn answer(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) -> Result<(), Failure> {
    let status = |code| Response::builder().status(code).body(());
    let target: Option<SocketAddr> = request.uri().authority().and_then(|authority| authority.as_str().parse().ok());
    let target = match target {
        Some(target) if request.method() == Method::CONNECT => target,
        _ => {
            respond.send_response(status(StatusCode::BAD_REQUEST)?, true)?;
            return Ok(());
        }
    };
    let tcp = match TcpStream::connect(target).await {
        Ok(tcp) => tcp,
        Err(error) => {
            respond.send_response(status(StatusCode::SERVICE_UNAVAILABLE)?, true)?;
            return Err(error.into());
        }
    };
    tcp.set_nodelay(true)?;
    let sending = respond.send_response(status(StatusCode::OK)?, false)?;
    join::join(tcp, sending, request.into_body()).await
}
