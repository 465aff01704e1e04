//! A TCP connection and an HTTP/2 stream, joined: bytes and ends of stream both ways, each way on its own.

use std::io;

use bytes::{Bytes, BytesMut};
use futures_util::future::{poll_fn, try_join};
use h2::{RecvStream, SendStream};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;

use crate::Failure;

/// With the header a frame of four whole TLS records.
const READ: usize = (64 << 10) - 9;
/// Less room than this is not read into: small messages share a buffer, bulk gets a new one.
const ROOM: usize = 16 << 10;

/// An error of either way ends both: what is dropped resets the stream and closes the connection.
pub async fn join(mut tcp: TcpStream, sending: SendStream<Bytes>, receiving: RecvStream) -> Result<(), Failure> {
    let (reader, writer) = tcp.split();
    try_join(up(reader, sending), down(writer, receiving)).await?;
    Ok(())
}

async fn up(reader: ReadHalf<'_>, mut sending: SendStream<Bytes>) -> Result<(), Failure> {
    let mut buffer = BytesMut::new();
    loop {
        reader.readable().await?;
        if buffer.capacity() < ROOM {
            buffer.reserve(READ);
        }
        match reader.try_read_buf(&mut buffer) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        }
        let mut chunk = buffer.split().freeze();
        while !chunk.is_empty() {
            sending.reserve_capacity(chunk.len());
            while sending.capacity() == 0 {
                poll_fn(|context| sending.poll_capacity(context)).await.ok_or("the stream was closed")??;
            }
            let count = chunk.len().min(sending.capacity());
            sending.send_data(chunk.split_to(count), false)?;
        }
    }
    sending.send_data(Bytes::new(), true)?;
    Ok(())
}

async fn down(mut writer: WriteHalf<'_>, mut receiving: RecvStream) -> Result<(), Failure> {
    while let Some(data) = receiving.data().await {
        let data = data?;
        writer.write_all(&data).await?;
        // Credit for what the socket has taken, not for what waits here.
        receiving.flow_control().release_capacity(data.len())?;
    }
    match writer.shutdown().await {
        // The other end is gone already.
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error.into()),
        _ => Ok(()),
    }
}
