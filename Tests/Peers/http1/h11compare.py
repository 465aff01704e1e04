#!/usr/bin/env python3
"""Says what h11 makes of messages: one line of JSON for each line of hexadecimal bytes on stdin.

    KIND HEX        KIND: `request`, or `response:METHOD`
"""

import json
import sys

import h11


def fields(headers):
    return [[name.decode("latin-1").lower(), value.decode("latin-1")] for name, value in headers]


def read(kind, data):
    if kind == "request":
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=65536)
    else:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=65536)
        method = kind.partition(":")[2]
        connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        connection.send(h11.EndOfMessage())
    result = {"content": "", "interims": 0}
    connection.receive_data(data)
    ended = False
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if kind == "request" or ended:
                break
            connection.receive_data(b"")
            ended = True
        elif isinstance(event, h11.InformationalResponse):
            result["interims"] += 1
        elif isinstance(event, h11.Request):
            result["first"] = [event.method.decode("latin-1"), event.target.decode("latin-1"), event.http_version.decode()]
            result["fields"] = fields(event.headers)
        elif isinstance(event, h11.Response):
            result["first"] = [str(event.status_code), event.http_version.decode()]
            result["fields"] = fields(event.headers)
        elif isinstance(event, h11.Data):
            result["content"] += bytes(event.data).hex()
        elif isinstance(event, h11.EndOfMessage):
            result["trailers"] = fields(event.headers)
            result["rest"] = bytes(connection.trailing_data[0]).hex()
            break
        else:
            break
    return result


for line in sys.stdin:
    kind, data = line.split()
    try:
        answer = read(kind, bytes.fromhex(data))
    except h11.ProtocolError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))
