"""Echoes on 127.0.0.1 and prints its port, then how each connection ended: `end`, or `reset`. Ends with its standard input."""
import socket
import sys
import threading

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)


def serve(connection):
    try:
        while data := connection.recv(65536):
            connection.sendall(data)
        print("end", flush=True)
    except ConnectionResetError:
        print("reset", flush=True)
    connection.close()


def accept():
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


threading.Thread(target=accept, daemon=True).start()
sys.stdin.read()
