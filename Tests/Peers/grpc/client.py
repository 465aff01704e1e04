"""Calls the server of this folder through whatever is at PORT, with grpcio; prints what does not hold, and "ok" at the end.

    client.py PORT calls              every kind of call
    client.py PORT hold               a call of each kind stays open until a line comes on stdin, and then goes on to its end
    client.py PORT TARGET ROOTS       TLS: every kind of call, the server's name being TARGET
"""
import queue
import sys
import threading

import grpc

port, what = sys.argv[1:3]
options = [("grpc.max_receive_message_length", 64 << 20), ("grpc.enable_http_proxy", 0)]
if what in ("calls", "hold"):
    options.append(("grpc.default_authority", "grpc.example.org"))
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
else:
    with open(sys.argv[3], "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    options.append(("grpc.ssl_target_name_override", what))
    channel = grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=options)
unary = channel.unary_unary("/test.Echo/Unary")
down = channel.unary_stream("/test.Echo/Down")
up = channel.stream_unary("/test.Echo/Up")
both = channel.stream_stream("/test.Echo/Both")


def expect(holds, *facts):
    if not holds:
        print("wrong:", *facts, flush=True)
        sys.exit(1)


def calls():
    answer, call = unary.with_call(b"hello", metadata=(("x-sent", "1"),), timeout=60)
    before, after = dict(call.initial_metadata()), dict(call.trailing_metadata())
    expect(answer == b"olleh", answer)
    expect(before["x-before"] == "1" and before["x-via"].endswith("bootstrap"), before)
    expect(after["x-after"] == "1" and after["x-bytes-bin"] == b"\x00\xff", after)
    large = b"ab" * (4 << 20)
    expect(unary(large, timeout=60) == large[::-1], "large message")
    expect(unary(b"", timeout=60) == b"", "empty message")
    expect(list(down(b"12345", timeout=60)) == [b"12345"] * 5, "server streaming")
    expect(up(iter([b"x" * 1000] * 300), timeout=60) == b"300 300000", "client streaming")

    # One message each way at a time: nothing is held back.
    messages = queue.Queue()
    replies = both(iter(messages.get, None), timeout=60)
    for number in range(20):
        messages.put(b"%d" % number)
        expect(next(replies) == b"%d" % number, "bidirectional streaming", number)
    messages.put(None)
    expect(list(replies) == [], "the end of bidirectional streaming")

    try:
        channel.unary_unary("/test.Echo/Fail")(b"", timeout=60)
        expect(False, "no failure")
    except grpc.RpcError as error:
        expect(error.code() == grpc.StatusCode.NOT_FOUND and error.details() == "no such \u2014 thing", error)
        expect(dict(error.trailing_metadata())["x-after"] == "failed", error)
    try:
        channel.unary_unary("/test.Echo/Nothing")(b"", timeout=60)
        expect(False, "no failure")
    except grpc.RpcError as error:
        expect(error.code() == grpc.StatusCode.UNIMPLEMENTED, error)
    # A deadline, and a client that gives up: the server learns both.
    wait = channel.unary_unary("/test.Echo/Wait")
    try:
        wait(b"", timeout=0.3)
        expect(False, "no deadline")
    except grpc.RpcError as error:
        expect(error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error)
    # Many at once on one connection.
    futures = [unary.future(b"%d" % number, timeout=60) for number in range(200)]
    expect(all(future.result() == (b"%d" % n)[::-1] for n, future in enumerate(futures)), "many calls")


def hold():
    messages = queue.Queue()
    replies = both(iter(messages.get, None))
    messages.put(b"first")
    expect(next(replies) == b"first", "the first message")
    uploads = queue.Queue()
    counted = up.future(iter(uploads.get, None))
    uploads.put(b"12345")
    print("open", flush=True)
    sys.stdin.readline()
    messages.put(b"second")
    expect(next(replies) == b"second", "the second message")
    messages.put(None)
    expect(list(replies) == [], "the end")
    uploads.put(b"67890")
    uploads.put(None)
    expect(counted.result() == b"2 10", "the count")


if what == "hold":
    hold()
else:
    calls()
print("ok", flush=True)
