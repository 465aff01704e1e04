import Foundation
import TestPeers
import Testing

/// What names resolve to, and what is dialled of it: in a network with a name server that answers as it likes.
@Suite(.enabled(if: getuid() == 0, "it needs namespaces"), .timeLimit(.minutes(10)))
struct EgressNamesTests {
    private static let site = """
        import os, socket, struct, subprocess, threading
        W, BIN = os.environ["W"], os.environ["BIN"]
        # Of each name the answers in turn; the last one stays.
        ANSWERS = {
            "mixed.wild.test": [["203.0.113.9", "10.0.0.9"]],
            "mixed.test": [["203.0.113.9", "10.0.0.9"]],
            "loop.wild.test": [["127.0.0.1"]],
            "inside.wild.test": [["10.0.0.9"]],
            # Somebody who checks, and asks again to dial, gets another address.
            "pinned.wild.test": [["10.0.0.9"], ["127.0.0.1"]],
        }
        questions = []
        dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        dns.bind(("127.0.0.1", 53))

        def answer():
            while True:
                query, peer = dns.recvfrom(1500)
                labels, at = [], 12
                while query[at]:
                    labels.append(query[at + 1 : at + 1 + query[at]].decode())
                    at += 1 + query[at]
                kind = struct.unpack(">H", query[at + 1 : at + 3])[0]
                name, addresses = ".".join(labels).lower(), []
                if kind == 1 and name in ANSWERS:
                    questions.append(name)
                    turns = ANSWERS[name]
                    addresses = turns[min(questions.count(name), len(turns)) - 1]
                records = b"".join(
                    b"\\xc0\\x0c\\0\\x01\\0\\x01\\0\\0\\0\\0\\0\\x04" + socket.inet_aton(address) for address in addresses)
                head = query[:2] + b"\\x81\\x80\\0\\x01" + struct.pack(">H", len(addresses)) + b"\\0\\0\\0\\0"
                dns.sendto(head + query[12 : at + 5] + records, peer)

        threading.Thread(target=answer, daemon=True).start()
        server = socket.create_server(("0.0.0.0", 80))

        def serve():
            while True:
                client, _ = server.accept()
                client.sendall(client.getsockname()[0].encode())
                client.close()

        threading.Thread(target=serve, daemon=True).start()
        node = subprocess.Popen([BIN, "node", "--config", W + "/node.yaml"], stdout=subprocess.PIPE, text=True)
        port = int(node.stdout.readline().rsplit(":", 1)[1])

        def ask(name):
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(b"\\5\\1\\0")
            client.recv(2)
            client.sendall(b"\\5\\1\\0\\3" + bytes([len(name)]) + name.encode() + b"\\0\\x50")
            code = client.recv(10)[1]
            return client.recv(100).decode() if code == 0 else "refused " + str(code)

        for name in ["mixed.wild.test", "mixed.test", "loop.wild.test", "inside.wild.test", "pinned.wild.test"]:
            print(name, ask(name), questions.count(name))
        node.kill()
        """

    @Test func whatWasCheckedIsWhatIsDialled() async throws {
        let directory = TemporaryDirectory()
        try directory.write("resolv.conf", "nameserver 127.0.0.1\n")
        try directory.write("nsswitch.conf", "hosts: files dns\npasswd: files\n")
        try directory.write("site.py", Self.site)
        try directory.write(
            "node.yaml",
            """
            identity: \(TestCertificates.shared.path(.client))
            listeners:
            - {name: socks, bind: "127.0.0.1:0", protocol: socks5}
            endpoints:
            - {match: "mixed.test", direct: true}
            - {match: "*.wild.test", direct: true}
            """
        )
        let script = try directory.write(
            "script",
            """
            set -e
            ip link set lo up
            ip addr add 10.0.0.9/32 dev lo
            ip addr add 203.0.113.9/32 dev lo
            for f in resolv.conf nsswitch.conf; do mount --bind '\(directory.path)'/$f /etc/$f; done
            exec python3 '\(directory.path)/site.py'
            """
        )
        let output = try await ChildProcess.run(
            "unshare",
            ["--net", "--mount", "sh", script],
            environment: ["BIN": TestTools.bootstrap, "W": directory.path],
            within: .seconds(200)
        )
        let lines = output.standardOutput.split(separator: "\n").map(String.init)
        #expect(
            lines.count == 5 && lines[0] == "mixed.wild.test refused 2 1" && lines[2] == "loop.wild.test refused 2 1"
                && lines[3] == "inside.wild.test 10.0.0.9 1" && lines[4] == "pinned.wild.test 10.0.0.9 1",
            "\(lines): \(output.standardError)"
        )
        // An endpoint has that name as it is: either address will do.
        #expect(["mixed.test 10.0.0.9 1", "mixed.test 203.0.113.9 1"].contains(lines.dropFirst().first))
        for words in ["an address inside, at once", "127.0.0.1:80 is loopback"] {
            #expect(output.standardError.contains(words), "\(output.standardError)")
        }
    }
}
