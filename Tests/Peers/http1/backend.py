#!/usr/bin/env python3
"""An HTTP/1.1 server that does what its paths say; prints its port. Its own reader, so that nothing is made better on the way.

    /head       the bytes of the request's head, as they came
    /body       the request's content, with its length in a field
    /chunked    three chunks and a trailer
    /until-end  content that ends with the connection
    /cut        less than Content-Length says, and then the end
    /bad        two Content-Length fields
    /continue   100 Continue, and then /body
    /ws         101, and then an echo
    /big        8 MiB
    /more       an answer, and another for each byte that the test writes to stdin
    /at-once    8 MiB, and another answer right behind it
    /events     one line of an endless response for each byte that the test writes to stdin
    /once       answers, and ends the connection without saying so before
"""

import socket
import sys
import threading

events = threading.Semaphore(0)


def read_chunked(stream):
    content = b""
    while True:
        size = int(stream.readline().split(b";")[0], 16)
        if size == 0:
            while stream.readline() != b"\r\n":
                pass
            return content
        content += stream.read(size)
        stream.readline()


def serve(connection):
    stream = connection.makefile("rb")
    while True:
        head = stream.readline()
        if not head:
            break
        while True:
            line = stream.readline()
            head += line
            if line == b"\r\n":
                break
        method, target, _ = head.split(b" ", 2)
        fields = {}
        for line in head.split(b"\r\n")[1:-2]:
            name, _, value = line.partition(b":")
            fields[name.lower()] = value.strip()
        if target == b"/continue":
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        content = b""
        if b"transfer-encoding" in fields:
            content = read_chunked(stream)
        elif b"content-length" in fields:
            content = stream.read(int(fields[b"content-length"]))

        def whole(body, more=b""):
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n" % (len(body), more)
            connection.sendall(answer + (b"" if method == b"HEAD" else body))

        if target == b"/head":
            whole(head, b"Keep-Alive: x\r\nConnection: X-Secret\r\nX-Secret: 1\r\nX-Seen: 1\r\n")
        elif target in (b"/body", b"/continue"):
            whole(content, b"X-Length: %d\r\n" % len(content))
        elif target == b"/chunked":
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for piece in (b"one,", b"two,", b"three"):
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            connection.sendall(b"0\r\nX-Trailer: 1\r\n\r\n")
        elif target == b"/until-end":
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
            break
        elif target == b"/cut":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            break
        elif target == b"/bad":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")
        elif target == b"/ws":
            connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi")
            while True:
                data = stream.read1(65536)
                if not data:
                    break
                connection.sendall(data)
            break
        elif target == b"/big":
            whole(b"x" * (8 << 20))
        elif target == b"/more":
            whole(b"hello")
            events.acquire()
            whole(b"wrong")
        elif target == b"/at-once":
            whole(b"x" * (8 << 20))
            whole(b"wrong")
        elif target == b"/events":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            try:
                while True:
                    events.acquire()
                    connection.sendall(b"data: 1\n\n")
            except OSError:
                break
        elif target == b"/once":
            whole(b"once")
            break
        else:
            whole(b"hello")
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    stream.close()
    connection.close()


def watch():
    while sys.stdin.buffer.read(1):
        events.release()


threading.Thread(target=watch, daemon=True).start()
listener = socket.create_server(("127.0.0.1", 0), backlog=128)
print(listener.getsockname()[1], flush=True)
while True:
    accepted, _ = listener.accept()
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
