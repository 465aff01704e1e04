"""libcurl, through pycurl, as the client of an HTTPS proxy over HTTP/2 with a client certificate.

    proxy.py PROXY-PORT CREDENTIAL ORIGIN-CREDENTIAL BYTES

Starts an origin with plain HTTP and one with HTTPS, sends BYTES to each and fetches BYTES from each through the proxy, and prints one
JSON object a line: {"event": NAME, "status": …, "count": …, "sha256": …, "text": …, "error": …}. Names: the scheme and the method;
"parallel", which is eight at once (libcurl makes a connection to the proxy for each); "refused" for an origin that is not there;
"forward" for plain HTTP without a tunnel, which an HBONE server does not do; "anonymous" for a client without a certificate.
"""
import hashlib
import http.server
import json
import ssl
import sys
import threading

import pycurl

PROXY, CREDENTIAL, ORIGIN, BYTES = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
BLOCK = hashlib.shake_256(b"interop").digest(1000003)
BODY = (BLOCK * (BYTES // len(BLOCK) + 1))[:BYTES]


class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle(self):
        try:
            super().handle()
        except ConnectionResetError:
            pass  # A client that keeps its connection, and then is gone.

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(BODY)

    def do_PUT(self):
        digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
        while left > 0:
            piece = self.rfile.read(min(left, 1 << 16))
            digest.update(piece)
            left -= len(piece)
        self.answer(digest.hexdigest().encode())


def origin(secure):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    server.daemon_threads = True
    if secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{ORIGIN}/cert-chain.pem", f"{ORIGIN}/key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"{'https' if secure else 'http'}://127.0.0.1:{server.server_address[1]}/"


class Transfer:
    def __init__(self, url, upload=None, certificate=True, tunnel=True):
        self.count, self.hash = 0, hashlib.sha256()
        curl = self.curl = pycurl.Curl()
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.PROXY, f"https://127.0.0.1:{PROXY}")
        curl.setopt(pycurl.PROXYTYPE, 3)  # CURLPROXY_HTTPS2
        curl.setopt(pycurl.HTTPPROXYTUNNEL, 1 if tunnel else 0)
        # Name and chain of the proxy are verified: its certificate has an IP name beside the SPIFFE ID.
        curl.setopt(pycurl.PROXY_CAINFO, f"{CREDENTIAL}/root-cert.pem")
        curl.setopt(pycurl.PROXY_SSL_VERIFYPEER, 1)
        curl.setopt(pycurl.PROXY_SSL_VERIFYHOST, 2)
        if certificate:
            curl.setopt(pycurl.PROXY_SSLCERT, f"{CREDENTIAL}/cert-chain.pem")
            curl.setopt(pycurl.PROXY_SSLKEY, f"{CREDENTIAL}/key.pem")
        curl.setopt(pycurl.CAINFO, f"{ORIGIN}/root-cert.pem")
        curl.setopt(pycurl.TIMEOUT, 60)
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.WRITEFUNCTION, self.received)
        if upload is not None:
            self.rest = memoryview(upload)
            curl.setopt(pycurl.UPLOAD, 1)
            curl.setopt(pycurl.INFILESIZE_LARGE, len(upload))
            curl.setopt(pycurl.READFUNCTION, self.read)
            curl.setopt(pycurl.HTTPHEADER, ["Expect:"])

    def received(self, piece):
        self.count += len(piece)
        self.hash.update(piece)
        self.text = piece[:64].decode("latin-1")

    def read(self, size):
        piece, self.rest = self.rest[:size], self.rest[size:]
        return bytes(piece)

    def result(self, error=""):
        return {
            "status": self.curl.getinfo(pycurl.RESPONSE_CODE),
            "count": self.count,
            "sha256": self.hash.hexdigest(),
            "text": getattr(self, "text", "") if self.count == 64 else "",
            "error": error,
        }

    def perform(self):
        try:
            self.curl.perform()
            return self.result()
        except pycurl.error as error:
            return self.result(f"{error.args[0]}: {error.args[1]}")


def report(event, values):
    print(json.dumps({"event": event, **values}), flush=True)


def parallel(url, number):
    multi = pycurl.CurlMulti()
    transfers = [Transfer(url) for _ in range(number)]
    for transfer in transfers:
        multi.add_handle(transfer.curl)
    running = number
    while running:
        _, running = multi.perform()
        multi.select(1.0)
    for transfer in transfers:
        report("parallel", transfer.result(transfer.curl.errstr()))


def main():
    plain, secure = origin(False), origin(True)
    report("body", {"sha256": hashlib.sha256(BODY).hexdigest(), "text": pycurl.version})
    for name, url in (("http", plain), ("https", secure)):
        report(f"{name} GET", Transfer(url).perform())
        report(f"{name} PUT", Transfer(url, upload=BODY).perform())
    parallel(plain, 8)
    report("refused", Transfer("http://127.0.0.1:1/").perform())
    report("forward", Transfer(plain, tunnel=False).perform())
    report("anonymous", Transfer(plain, certificate=False).perform())


main()
