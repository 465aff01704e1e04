"""A gRPC server (grpcio) without TLS, which takes bytes for messages; prints its port, and what happens to its calls.

    /test.Echo/Unary     the request, backwards; metadata before and after it
    /test.Echo/Down      the request, as many times as it has bytes
    /test.Echo/Up        how many requests there were, and their bytes
    /test.Echo/Both      each request, as it comes
    /test.Echo/Fail      NOT_FOUND, with details and metadata
    /test.Echo/Wait      nothing, until it is cancelled: "cancelled" is printed
"""
import sys
import threading
from concurrent import futures

import grpc


def say(*words):
    print(*words, flush=True)


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-before", metadata.get("x-sent", "")), ("x-via", metadata.get("via", ""))))
    context.set_trailing_metadata((("x-after", "1"), ("x-bytes-bin", b"\x00\xff")))
    return request[::-1]


def down(request, context):
    for _ in request:
        yield request


def up(requests, context):
    count = total = 0
    for request in requests:
        count, total = count + 1, total + len(request)
    return b"%d %d" % (count, total)


def both(requests, context):
    for request in requests:
        yield request


def fail(request, context):
    context.set_trailing_metadata((("x-after", "failed"),))
    context.abort(grpc.StatusCode.NOT_FOUND, "no such \u2014 thing")


def wait(request, context):
    done = threading.Event()
    context.add_callback(done.set)
    say("waiting")
    done.wait()
    say("cancelled")
    return b""


server = grpc.server(futures.ThreadPoolExecutor(32), options=[("grpc.max_receive_message_length", 64 << 20)])
server.add_generic_rpc_handlers(
    (
        grpc.method_handlers_generic_handler(
            "test.Echo",
            {
                "Unary": grpc.unary_unary_rpc_method_handler(unary),
                "Down": grpc.unary_stream_rpc_method_handler(down),
                "Up": grpc.stream_unary_rpc_method_handler(up),
                "Both": grpc.stream_stream_rpc_method_handler(both),
                "Fail": grpc.unary_unary_rpc_method_handler(fail),
                "Wait": grpc.unary_unary_rpc_method_handler(wait),
            },
        ),
    )
)
say(server.add_insecure_port("127.0.0.1:0"))
server.start()
# Until the test lets it go.
sys.stdin.buffer.read()
server.stop(0).wait()
