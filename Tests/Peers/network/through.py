"""A way through a front for programs that know of none: listens on 127.0.0.1, prints its port, and leads each connection on.

    through.py tcp PORT
    through.py socks5 PORT HOST:PORT
    through.py http-proxy PORT HOST:PORT
    through.py tls PORT NAME ROOTS          the front ends this TLS
"""

import asyncio
import ssl
import sys

kind, port = sys.argv[1], int(sys.argv[2])


async def front():
    """A connection that the program's bytes may follow on."""
    if kind == "tls":
        context = ssl.create_default_context(cafile=sys.argv[4])
        return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=sys.argv[3])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    if kind == "socks5":
        host, _, number = sys.argv[3].rpartition(":")
        writer.write(b"\5\1\0")
        assert await reader.readexactly(2) == b"\5\0"
        writer.write(b"\5\1\0\3" + bytes([len(host)]) + host.encode() + int(number).to_bytes(2, "big"))
        answer = await reader.readexactly(10)
        assert answer[:4] == b"\5\0\0\1", answer
    if kind == "http-proxy":
        writer.write(f"CONNECT {sys.argv[3]} HTTP/1.1\r\nHost: {sys.argv[3]}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
    return reader, writer


async def pump(reader, writer):
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
            return
    except OSError:
        pass
    writer.close()


async def serve(reader, writer):
    try:
        far_reader, far_writer = await front()
    except Exception as error:
        print("failed", repr(error), file=sys.stderr, flush=True)
        writer.transport.abort()
        return
    await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
    far_writer.close()
    writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
