#!/usr/bin/env python3
"""A stand-in for an etcd that cancels every watch at once, which a real one does only where it is told to: an empty store behind TLS
with client certificates. Prints its port, and `watch` for each.

    etcd.py CREDENTIAL

CREDENTIAL has key.pem, cert-chain.pem and root-cert.pem, its own and its clients'. What it answers are messages of etcd's rpc.proto:
a header (1) with cluster (1), member (2) and revision (3); in that of a watch, created (3) and canceled (4).
"""
import sys
from concurrent import futures

import grpc

HEADER = b"\x0a\x06\x08\x01\x10\x01\x18\x01"


def watch(requests, context):
    next(requests)
    print("watch", flush=True)
    yield HEADER + b"\x18\x01"
    yield HEADER + b"\x20\x01"
    for _ in requests:
        pass


class Etcd(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/etcdserverpb.KV/Range":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: HEADER)
        if details.method == "/etcdserverpb.Watch/Watch":
            return grpc.stream_stream_rpc_method_handler(watch)
        return None


def read(name):
    with open(f"{sys.argv[1]}/{name}", "rb") as file:
        return file.read()


server = grpc.server(futures.ThreadPoolExecutor(32))
server.add_generic_rpc_handlers((Etcd(),))
credentials = grpc.ssl_server_credentials(
    [(read("key.pem"), read("cert-chain.pem"))], root_certificates=read("root-cert.pem"), require_client_auth=True
)
print(server.add_secure_port("127.0.0.1:0", credentials), flush=True)
server.start()
server.wait_for_termination()
