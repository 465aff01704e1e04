#!/usr/bin/env python3
"""Many WebSockets that stay open, by Python's `websockets`.

    websockets_many.py URL COUNT

Opens them all, prints `open COUNT`, and for each line on stdin sends a message by each of them and reads it back: `echoed COUNT`, or
how many are left. A WebSocket that ends is `lost REASON` at once. Ends with stdin, closing each in order: `closed COUNT`.
"""

import asyncio
import resource
import sys

import websockets


async def main():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    url, count = sys.argv[1], int(sys.argv[2])
    gate = asyncio.Semaphore(50)

    async def connect():
        async with gate:
            return await websockets.connect(url, ping_interval=None, compression=None, open_timeout=60, proxy=None)

    sockets = await asyncio.gather(*(connect() for _ in range(count)))
    leaving = False

    async def watch(socket):
        await socket.wait_closed()
        if not leaving:
            print("lost", socket.close_code, socket.close_reason, flush=True)

    watchers = [asyncio.create_task(watch(socket)) for socket in sockets]
    print("open", len(sockets), flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)

    async def exchange(socket, message):
        try:
            await socket.send(message)
            return await socket.recv() == message
        except websockets.ConnectionClosed:
            return False

    turn = 0
    while await lines.readline():
        turn += 1
        echoed = await asyncio.gather(*(exchange(socket, f"{turn} {index}") for index, socket in enumerate(sockets)))
        print("echoed", sum(echoed), flush=True)
    leaving = True
    await asyncio.gather(*(socket.close() for socket in sockets))
    print("closed", sum(socket.close_code == 1000 for socket in sockets), flush=True)
    await asyncio.gather(*watchers)


asyncio.run(main())
