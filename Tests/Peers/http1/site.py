#!/usr/bin/env python3
"""What a browser wants of a site: a page whose script loads things in parallel, sends a file, reads events while they come, and talks
by WebSocket. Prints two ports: that of the site, and that of its WebSockets (Python's `websockets`: an echo).

    /           the page; its parameter ws is the URL of the WebSockets. It tells at last how all went: printed as `result …`
    /head       the head of the request, as it came
    /data/N     N times 1,000 bytes
    /upload     how many bytes were sent, as text
    /events     server-sent events: each comes when the page asks for /next, so one that is held back is never asked on
    /big        64 MiB, as fast as the client takes them
    /stalled    the first 128 KiB of 64 MiB, and no more until the client has gone
    /late       an answer when the test writes a line to stdin: a long poll
"""

import asyncio
import resource
import sys

import websockets

PAGE = b"""<!doctype html><title>site</title><script>
(async () => {
  const told = [];
  try {
    const texts = await Promise.all([...Array(20).keys()].map(n => fetch("/data/" + n).then(r => r.text())));
    told.push("data " + texts.every((text, n) => text.length === 1000 * n));
    const sent = await fetch("/upload", {method: "POST", body: new Uint8Array(3 << 20).fill(7)});
    told.push("upload " + await sent.text());
    told.push("events " + await new Promise((done, failed) => {
      const source = new EventSource("/events");
      let seen = "";
      source.onmessage = async event => {
        seen += event.data;
        if (seen.length === 3) { source.close(); done(seen); } else await fetch("/next");
      };
      source.onerror = () => failed("events");
    }));
    const socket = new WebSocket(new URLSearchParams(location.search).get("ws"));
    told.push("socket " + await new Promise((done, failed) => {
      const large = "x".repeat(300000);
      let count = 0;
      socket.onopen = () => socket.send(large);
      socket.onmessage = event => {
        if (event.data !== large) failed("another message");
        if (++count === 5) { socket.close(); done(count); } else socket.send(large);
      };
      socket.onerror = () => failed("socket");
    }));
  } catch (error) { told.push("failed " + error); }
  await fetch("/result", {method: "POST", body: told.join(", ")});
})();
</script>"""

next_event = None
late = None


async def content(reader, fields):
    if fields.get("transfer-encoding") == "chunked":
        total = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            total += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
        return total
    return await reader.readexactly(int(fields.get("content-length", 0)))


async def serve(reader, writer):
    try:
        await requests(reader, writer)
    except (OSError, asyncio.IncompleteReadError):
        pass
    writer.close()


async def requests(reader, writer):
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        target = lines[0].split(" ")[1].split("?")[0]
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        body = await content(reader, fields)

        def answer(text, kind="text/plain"):
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)

        if target.startswith("/data/"):
            answer(b"x" * (1000 * int(target[6:])))
        elif target == "/head":
            answer(head)
        elif target == "/upload":
            answer(b"%d" % len(body))
        elif target == "/next":
            next_event.release()
            answer(b"")
        elif target == "/result":
            print("result", body.decode(), flush=True)
            answer(b"")
        elif target == "/events":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for index in range(3):
                if index:
                    await next_event.acquire()
                writer.write(b"9\r\ndata: %d\n\n\r\n" % index)
            # Open until the page has closed it.
            await reader.read(1)
            return
        elif target == "/big":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
            for _ in range(64 << 4):
                writer.write(b"y" * (1 << 16))
                await writer.drain()
        elif target == "/stalled":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 << 20) + b"y" * (128 << 10))
            await reader.read(1)
            return
        elif target == "/late":
            print("asked", flush=True)
            await late.acquire()
            answer(b"at last")
        elif target == "/":
            answer(PAGE, "text/html")
        else:
            answer(b"hello")
        await writer.drain()


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main():
    global next_event, late
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    next_event, late = asyncio.Semaphore(0), asyncio.Semaphore(0)
    site = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    sockets = await websockets.serve(echo, "127.0.0.1", 0, backlog=1024, ping_interval=None, max_size=1 << 24, compression=None)
    print(site.sockets[0].getsockname()[1], next(iter(sockets.sockets)).getsockname()[1], flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        late.release()


asyncio.run(main())
