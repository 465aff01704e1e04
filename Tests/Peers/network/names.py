"""A name server that others are forwarded to, and a client that prints what it is answered. Written by RFC 1035 alone.

    names.py serve ADDRESS PORT           big.test has more than a datagram holds, none.test nothing, missing.* does not exist,
                                          forged.test an address of the mesh, every other name the address 203.0.113.9;
                                          prints "listening"
    names.py ask ADDRESS PORT NAME TYPE [tcp] [edns]
    names.py raw ADDRESS PORT HEX         sends a datagram, prints the answer in hexadecimal, or "silence"
"""

import socket
import struct
import sys
import threading

TYPES = {"A": 1, "SOA": 6, "PTR": 12, "TXT": 16, "AAAA": 28, "HTTPS": 65}


def encode(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def decode(message, place):
    labels, end = [], None
    while message[place]:
        if message[place] >= 0xC0:
            end = end or place + 2
            place = struct.unpack_from(">H", message, place)[0] & 0x3FFF
            continue
        labels.append(message[place + 1 : place + 1 + message[place]].decode())
        place += 1 + message[place]
    return ".".join(labels), end or place + 1


def answer(message, stream):
    name, end = decode(message, 12)
    kind = struct.unpack_from(">H", message, end)[0]
    question, flags, records = message[12 : end + 4], 0x8180, []
    if name.startswith("missing."):
        flags |= 3
    elif name == "big.test":
        if stream:
            records = [struct.pack(">HHHIH", 0xC00C, 16, 1, 60, 251) + b"\xfa" + b"x" * 250] * 20
        else:
            flags |= 0x0200
    elif name != "none.test" and kind == 1:
        records = [struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton("198.18.0.9" if name == "forged.test" else "203.0.113.9")]
    return message[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0) + question + b"".join(records)


def serve(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    datagrams, listener = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_STREAM)
    for server in (datagrams, listener):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, port))
    listener.listen(16)
    print("listening", flush=True)

    def streams():
        while True:
            connection, _ = listener.accept()
            file = connection.makefile("rb")
            length = file.read(2)
            reply = answer(file.read(struct.unpack(">H", length)[0]), True)
            connection.sendall(struct.pack(">H", len(reply)) + reply)
            connection.close()

    threading.Thread(target=streams, daemon=True).start()
    while True:
        message, peer = datagrams.recvfrom(4096)
        datagrams.sendto(answer(message, False), peer)


def ask(address, port, name, kind, *options):
    options_record = b"\0" + struct.pack(">HHIH", 41, 1232, 0, 0) if "edns" in options else b""
    query = struct.pack(">HHHHHH", 0x1234, 0x0100, 1, 0, 0, 1 if options_record else 0)
    query += encode(name) + struct.pack(">HH", TYPES[kind], 1) + options_record
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if "tcp" in options:
        client = socket.create_connection((address, port), 20)
        client.sendall(struct.pack(">H", len(query)) + query)
        file = client.makefile("rb")
        reply = file.read(struct.unpack(">H", file.read(2))[0])
    else:
        client = socket.socket(family, socket.SOCK_DGRAM)
        client.settimeout(20)
        client.connect((address, port))
        client.send(query)
        reply = client.recv(65536)
    identifier, flags, questions, answers, authorities, additional = struct.unpack_from(">HHHHHH", reply)
    assert identifier == 0x1234 and flags & 0x8000 and questions == 1 and decode(reply, 12)[0] == name
    said = [["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP"][flags & 15]]
    said += ["truncated"] if flags & 0x0200 else []
    place = decode(reply, 12)[1] + 4
    for index in range(answers + authorities + additional):
        _, place = decode(reply, place)
        kind, _, lifetime, length = struct.unpack_from(">HHIH", reply, place)
        data = reply[place + 10 : place + 10 + length]
        if kind == 1:
            said.append(socket.inet_ntoa(data))
        elif kind == 28:
            said.append(socket.inet_ntop(socket.AF_INET6, data))
        elif kind == 12:
            said.append(decode(reply, place + 10)[0])
        elif kind == 6:
            said.append(f"SOA {lifetime}")
        elif kind == 41:
            said.append("EDNS")
        place += 10 + length
    assert place == len(reply)
    print(*said, *(["records %d" % answers] if answers > 1 else []))


def raw(address, port, text):
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(1)
    client.connect((address, port))
    client.send(bytes.fromhex(text))
    try:
        print(client.recv(65536).hex())
    except socket.timeout:
        print("silence")


command, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
{"serve": serve, "ask": ask, "raw": raw}[command](address, port, *sys.argv[4:])
