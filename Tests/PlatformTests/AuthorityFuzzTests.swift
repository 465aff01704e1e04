import Platform
import Streams
import TestPeers
import Testing

/// Authorities come from strangers: whatever they are, parsing refuses them or understands them in one way only.
@Suite struct AuthorityFuzzTests {
    @Test("what parses is printed as it parses, and has nothing in it that a log or a header would trip over")
    func authorities() {
        var fuzzer = Fuzzer("authority")
        let corpus = [
            "10.0.0.2:8080", "[fd00::2]:8080", "[::ffff:10.0.0.1]:1", "svc.ns.svc.cluster.local:80", "a:65535",
            "[fe80::1%eth0]:22", "xn--bcher-kva.example:443", "127.1:80", "user@host:80",
        ].map { Array($0.utf8) }
        let dictionary = ["::", ":", "[", "]", "%", "@", "\r\n", ".", "0", "65536", "..", "\u{0}", "ü"].map {
            Array($0.utf8)
        }
        var count = 0
        var parsed = 0
        while fuzzer.goesOn(count, of: 50_000) {
            count += 1
            let text = String(decoding: fuzzer.mutate(corpus, dictionary: dictionary), as: UTF8.self)
            guard let authority = try? Authority(parsing: text) else { continue }
            parsed += 1
            let again = try? Authority(parsing: authority.description)
            if again != authority {
                Issue.record("\(text.debugDescription) is \(authority), which is \(String(describing: again))")
            }
            let isPlain = authority.host.utf8.allSatisfy { byte in
                (0x21...0x7e).contains(byte) && !"@/?#\\ []".utf8.contains(byte)
            }
            if !isPlain || authority.port == 0 {
                Issue.record("\(text.debugDescription) has host \(authority.host.debugDescription)")
            }
        }
        // Mutations that nothing survives would test nothing.
        #expect(parsed > count / 50)
    }

    @Test("socket addresses likewise")
    func socketAddresses() {
        var fuzzer = Fuzzer("socket address")
        let corpus = ["10.0.0.2", "fd00::2", "::", "::ffff:1.2.3.4", "fe80::1%lo", "255.255.255.255"].map {
            Array($0.utf8)
        }
        var count = 0
        var parsed = 0
        while fuzzer.goesOn(count, of: 20_000) {
            count += 1
            let text = String(
                decoding: fuzzer.mutate(corpus, dictionary: [Array("%lo".utf8), Array(":".utf8)]),
                as: UTF8.self
            )
            if (try? SocketAddress(ip: text, port: 80)) != nil { parsed += 1 }
        }
        #expect(parsed > count / 50)
    }
}
