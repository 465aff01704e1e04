import Foundation
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// Load balancers in front of a node and behind it that speak the PROXY protocol.
@Suite(.timeLimit(.minutes(10))) struct ProxyProtocolTests {
    private static let line = Array("PROXY TCP4 203.0.113.9 127.0.0.1 5000 80\r\n".utf8)

    private static func header(_ bytes: [UInt8]) throws -> (header: ProxyHeader, rest: [UInt8]) {
        var reader = ProxyHeaderReader()
        var left = bytes[...]
        while !left.isEmpty {
            let piece = left.prefix(reader.wanted)
            left = left.dropFirst(piece.count)
            if let header = try reader.receive(piece) { return (header, Array(left)) }
        }
        throw StreamError(.truncated, "no header in \(bytes)")
    }

    @Test(arguments: [
        ("protocol: tcp, forwardTo: 'a:1', proxyProtocol: accept", "", "needs 'trustedProxies'"),
        ("protocol: tcp, forwardTo: 'a:1', proxyProtocol: accept, trustedProxies: []", "", "is an empty list"),
        ("protocol: sni, proxyProtocol: accept, trustedProxies: [10.0.0.1/8]", "", "has bits set after its prefix"),
        ("protocol: sni, trustedProxies: [10.0.0.1]", "", "means nothing without 'proxyProtocol: accept'"),
        ("protocol: sni, proxyProtocol: v2, trustedProxies: [10.0.0.1]", "", "'proxyProtocol'"),
        (
            "protocol: hbone, proxyProtocol: accept, trustedProxies: [10.0.0.1]", "",
            "is for the protocols http, https, sni, socks5, tcp, tls"
        ),
        ("protocol: sni", "{match: a, hbone: 'a:1', proxyProtocol: v2}", "'proxyProtocol' is for 'direct: true'"),
        ("protocol: sni", "{match: a, direct: true, proxyProtocol: v3}", "'proxyProtocol'"),
        ("protocol: sni, proxyProtocol: none", "{match: a, direct: true, proxyProtocol: v1}", ""),
    ]) func whatMeansNothingIsToldAtLoad(_ listener: String, _ endpoint: String, _ message: String) {
        let text =
            "identity: i\nlisteners: [{name: l, bind: '127.0.0.1:1', \(listener)}]\n"
            + (endpoint.isEmpty ? "" : "endpoints: [\(endpoint)]\n")
        do {
            _ = try NodeConfiguration.parse(text, file: "f")
            #expect(message.isEmpty)
        } catch {
            #expect(!message.isEmpty && error.issues.count == 1 && "\(error)".contains(message), "\(error)")
        }
    }

    @Test func theClientOfALoadBalancerIsTheClient() async throws {
        let backend = try EchoServer()
        let listener = "proxyProtocol: accept, trustedProxies: [\"127.0.0.0/8\"]"
        let nodes = try await FrontNodes(
            """
            - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "web.lan:80", \(listener)}
            - {name: sni, bind: "127.0.0.1:0", protocol: sni, \(listener)}
            - {name: socks, bind: "127.0.0.1:0", protocol: socks5, \(listener)}
            """,
            names: [:],
            more: """
                - {match: "web.lan:80", address: "127.0.0.1:\(backend.port)", direct: true, proxyProtocol: v2}
                - {match: "tls.lan:443", address: "127.0.0.1:\(backend.port)", direct: true, proxyProtocol: v1}
                policy: [{name: shut, action: DENY, rules: [{from: [{sourceIPs: ["203.0.113.66"]}]}]}]
                """
        )
        // The backend gets a header of this node's, then the bytes behind the client's.
        let (received, _) = try await TCPClient.exchange(port: nodes.port("in"), sending: Self.line + [1, 2, 3])
        let (header, rest) = try Self.header(received)
        #expect(rest == [1, 2, 3])
        #expect(header.source?.address == IPAddress("203.0.113.9"))
        #expect(header.destination == (try SocketAddress(ip: "127.0.0.1", port: backend.port)))
        #expect(header.elements == [.init(ProxyHeader.dialledName, "web.lan".utf8)])
        // Policy decides about the client, not about the load balancer.
        let denied = Array("PROXY TCP4 203.0.113.66 127.0.0.1 5000 80\r\n".utf8)
        #expect(try await TCPClient.exchange(port: nodes.port("in"), sending: denied + [1]).received == [])
        // A health check of the load balancer's own.
        let own = try await TCPClient.exchange(port: nodes.port("in"), sending: Array("PROXY UNKNOWN\r\n".utf8))
        #expect(try Self.header(own.received).header.source?.address == .loopbackIPv4)

        let hello = HelloMaker("tls.lan").bytes
        let passed = try await TCPClient.exchange(port: nodes.port("sni"), sending: Self.line + hello)
        let expected = "PROXY TCP4 203.0.113.9 127.0.0.1 0 \(backend.port)\r\n"
        #expect(passed.received == Array(expected.utf8) + hello)
        let greeted = try await TCPClient.exchange(port: nodes.port("socks"), sending: Self.line + [5, 1, 0])
        #expect(greeted.received == [5, 0])
        await nodes.stop()
    }

    @Test func whoIsNoProxyAndWhatIsNoHeaderAreRefused() async throws {
        let backend = try EchoServer()
        let nodes = try await FrontNodes(
            """
            - {name: far, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "web.lan:80", proxyProtocol: accept, trustedProxies: [10.0.0.0/8]}
            - {name: near, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "web.lan:80", proxyProtocol: accept, trustedProxies: [127.0.0.1]}
            """,
            names: [:],
            more: "- {match: \"web.lan:80\", address: \"127.0.0.1:\(backend.port)\", direct: true}"
        )
        let (received, ending) = try await TCPClient.exchange(port: nodes.port("far"), sending: Self.line + [1])
        #expect(received == [] && ending == .broken(ECONNRESET))
        for bytes in [Array("GET / HTTP/1.1\r\n\r\n".utf8), [0, 1, 2], Array(Self.line.dropLast())] {
            let (received, ending) = try await TCPClient.exchange(port: nodes.port("near"), sending: bytes)
            #expect(received == [] && ending == .broken(ECONNRESET))
        }
        #expect(backend.accepted == 0)
        for words in ["127.0.0.1 is none of 'trustedProxies'", "a connection without its PROXY header"] {
            #expect(nodes.nearLog.lines.contains { $0.contains(words) }, "\(nodes.nearLog.lines)")
        }
        // One that says nothing holds nobody up.
        let silent = try await TCPConversation(port: nodes.port("near"))
        #expect(try await TCPClient.exchange(port: nodes.port("near"), sending: Self.line + [7]).received == [7])
        _ = silent
        await nodes.stop()
    }

    /// A service of this machine is told which identity of the mesh asks.
    @Test func aServiceIsToldWhoseStreamItIs() async throws {
        let backend = try EchoServer()
        let pair = try await NodePair(
            to: backend.port,
            serverSettings: """
                endpoints:
                - {match: "127.0.0.1:\(backend.port)", direct: true, proxyProtocol: v2}
                """
        )
        let (received, _) = try await TCPClient.exchange(port: pair.entry, sending: [1, 2])
        let (header, rest) = try Self.header(received)
        #expect(rest == [1, 2])
        #expect(header.source?.address == .loopbackIPv4)
        #expect(header.elements == [.init(ProxyHeader.spiffeID, "spiffe://mesh.example/ns/prod/sa/client".utf8)])
        await pair.stop()
    }

    @Test func withHAProxyInFrontAndBehind() async throws {
        let names = ["FRONT11", "FRONT12", "FRONT21", "FRONT22", "BEHIND"]
        var ports = Dictionary(uniqueKeysWithValues: names.map { ($0, FreePort.next()) })
        let behind = try #require(ports["BEHIND"])
        let accept = "proxyProtocol: accept, trustedProxies: [127.0.0.1]"
        let nodes = try await FrontNodes(
            """
            - {name: one, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "one.lan:80", \(accept)}
            - {name: two, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "two.lan:80", \(accept)}
            """,
            names: [:],
            more: """
                - {match: "one.lan:80", address: "127.0.0.1:\(behind)", direct: true, proxyProtocol: v1}
                - {match: "two.lan:80", address: "127.0.0.1:\(behind)", direct: true, proxyProtocol: v2}
                """
        )
        ports["NODE1"] = try nodes.port("one")
        ports["NODE2"] = try nodes.port("two")
        var text = try String(
            contentsOfFile: TestTools.repository + "/Tests/Peers/haproxy/proxy-protocol.cfg",
            encoding: .utf8
        )
        for (name, port) in ports { text = text.replacingOccurrences(of: "@\(name)@", with: "\(port)") }
        let file = try nodes.directory.write("haproxy.cfg", text)
        let haproxy = try ChildProcess("/usr/sbin/haproxy", ["-db", "-f", file])
        for name in names.dropLast() {
            let port = try #require(ports[name])
            try await eventually("HAProxy listens: \(haproxy.standardError.text)") {
                (try? await TCPConversation(port: port)) != nil
            }
            let output = try await ChildProcess.run(
                "curl",
                ["-sS", "--max-time", "60", "--interface", "127.0.0.5", "http://127.0.0.1:\(port)/"]
            )
            #expect(
                output.standardOutput == "127.0.0.5 127.0.0.1",
                "\(name): \(output.standardError), \(nodes.nearLog.lines)"
            )
        }
        await haproxy.stop()
        await nodes.stop()
    }
}
