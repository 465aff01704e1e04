import MeshPolicy
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// Headers of the PROXY protocol, good and bad, in every piece.
@Suite struct ProxyHeaderTests {
    private static func v2(_ command: UInt8, _ family: UInt8, _ content: [UInt8], length: Int? = nil) -> [UInt8] {
        let count = length ?? content.count
        return [13, 10, 13, 10, 0, 13, 10] + Array("QUIT\n".utf8) + [
            command, family, UInt8(count >> 8), UInt8(count & 255),
        ]
            + content
    }

    private static let four: [UInt8] = [203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x34, 1, 187]
    private static let six =
        [UInt8](repeating: 0, count: 15) + [1] + [0x20, 1] + [UInt8](repeating: 7, count: 14)
        + [0, 80, 0, 81]

    /// What is told, or `refused`.
    private static func read(_ bytes: [UInt8], pieces: Int = .max) -> (text: String, rest: Int) {
        var reader = ProxyHeaderReader()
        var position = 0
        while position < bytes.count {
            let count = min(reader.wanted, pieces, bytes.count - position)
            do throws(StreamError) {
                let header = try reader.receive(bytes[position..<position + count])
                position += count
                guard let header else { continue }
                let elements = header.elements.map { " \(String($0.type, radix: 16))=\($0.value.count)" }.joined()
                let source = header.source.map { "\($0) to \(header.destination?.description ?? "?")" } ?? "itself"
                return (source + elements, bytes.count - position)
            } catch {
                #expect(error.code == .protocolViolation)
                return ("refused", 0)
            }
        }
        return ("more", 0)
    }

    private static let good: [([UInt8], String)] = [
        (Array("PROXY TCP4 203.0.113.9 10.0.0.1 4660 443\r\n".utf8), "203.0.113.9:4660 to 10.0.0.1:443"),
        (Array("PROXY TCP4 1.1.1.1 1.1.1.1 0 65535\r\n".utf8), "1.1.1.1:0 to 1.1.1.1:65535"),
        (Array("PROXY TCP6 ::1 2001:db8::7 80 81\r\n".utf8), "[::1]:80 to [2001:db8::7]:81"),
        (Array("PROXY UNKNOWN\r\n".utf8), "itself"),
        (Array("PROXY UNKNOWN ffff:: what ever\r\n".utf8), "itself"),
        (v2(0x21, 0x11, four), "203.0.113.9:4660 to 10.0.0.1:443"),
        (v2(0x21, 0x21, six), "[::1]:80 to [2001:707:707:707:707:707:707:707]:81"),
        (v2(0x20, 0x11, four), "itself"), (v2(0x20, 0, []), "itself"), (v2(0x21, 0, [1, 2, 3]), "itself"),
        (v2(0x20, 0x31, [9]), "itself"),
        (v2(0x21, 0x11, four + [4, 0, 0] + [0xD0, 0, 2, 65, 66]), "203.0.113.9:4660 to 10.0.0.1:443 4=0 d0=2"),
    ]

    @Test func isReadInWhateverPiecesAndNothingBehindIt() {
        for (bytes, expected) in Self.good {
            for pieces in 1...bytes.count {
                for behind in [[], Array("GET / HTTP/1.1\r\n\r\n".utf8), bytes] {
                    let (text, rest) = Self.read(bytes + behind, pieces: pieces)
                    #expect(text == expected && rest == behind.count, "\(bytes) in \(pieces)")
                }
            }
            for count in 1..<bytes.count { #expect(Self.read(Array(bytes[..<count])).text == "more") }
        }
    }

    @Test func whatIsNotAsItIsWrittenIsRefused() {
        let lines = [
            "GET / HTTP/1.1\r\n", "proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n", "PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n", "PROXY  TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY TCP4 1.1.1.1  1.1.1.1 1 1\r\n", "PROXY TCP4 1.1.1.1 1.1.1.1 1 1 \r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n", "PROXY TCP4 1.1.1.1 1.1.1.1 1 01\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n", "PROXY TCP4 1.1.1.01 1.1.1.1 1 1\r\n",
            "PROXY TCP4 127.1 1.1.1.1 1 1\r\n", "PROXY TCP4 ::1 ::1 1 1\r\n", "PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n", "PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n\n", "PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\r\n",
            "PROXY TCP4\t1.1.1.1 1.1.1.1 1 1\r\n", "PROXY \r\n         ", "PROXY TCP4 1.1.1.1 1.1.1.1 1 1\0\r\n",
            "PROXY UNKNOWN " + String(repeating: "a", count: 100) + "\r\n",
        ]
        for line in lines {
            for pieces in [1, 3, 1000] {
                #expect(Self.read(Array(line.utf8), pieces: pieces).text == "refused", "\(line)")
            }
        }
        let bad: [[UInt8]] = [
            Self.v2(0x11, 0x11, Self.four), Self.v2(0x31, 0x11, Self.four), Self.v2(0x22, 0x11, Self.four),
            Self.v2(0x21, 0x12, Self.four), Self.v2(0x21, 0x22, Self.six), Self.v2(0x21, 0x31, Self.six),
            Self.v2(0x21, 0x41, Self.four), Self.v2(0x21, 0x11, Self.four.dropLast()), Self.v2(0x21, 0x21, Self.four),
            Self.v2(0x21, 0x11, Self.four + [0xD0]), Self.v2(0x21, 0x11, Self.four + [0xD0, 0, 2, 1]),
            Self.v2(0x21, 0x11, Self.four + [3, 0, 4, 1, 2, 3, 4]), Self.v2(0x21, 0x11, Self.four + [3, 0, 0]),
            Self.v2(0x21, 0x11, [], length: 4097),
            [13, 10, 13, 10, 0, 13, 10, 0x51, 0x55, 0x49, 0x54, 13] + [0, 0, 0, 0],
        ]
        for bytes in bad {
            for pieces in [1, 5, 10_000] { #expect(Self.read(bytes, pieces: pieces).text == "refused", "\(bytes)") }
        }
    }

    @Test func theChecksumCounts() {
        #expect(ProxyHeaderReader.crc32c(Array("123456789".utf8)) == 0xe306_9283)
        var bytes = Self.v2(0x21, 0x11, Self.four + [3, 0, 4, 0, 0, 0, 0])
        let sum = ProxyHeaderReader.crc32c(bytes)
        bytes.replaceSubrange(bytes.count - 4..<bytes.count, with: (0..<4).map { UInt8(sum >> (24 - 8 * $0) & 255) })
        #expect(Self.read(bytes).text.hasSuffix("3=4"))
    }

    @Test func whatIsWrittenIsRead() throws {
        for (from, to, expected) in [
            ("203.0.113.9", "10.0.0.1", "203.0.113.9:0 to 10.0.0.1:443"),
            ("2001:db8::1", "::1", "[2001:db8::1]:0 to [::1]:443"),
            ("203.0.113.9", "::1", "203.0.113.9:0 to [::1]:443"),
        ] {
            var header = ProxyHeader(
                source: try SocketAddress(ip: from, port: 0),
                destination: try SocketAddress(ip: to, port: 443)
            )
            header.elements = [.init(0xD0, "spiffe://a/b".utf8)]
            #expect(Self.read(header.bytes(.v1)).text == expected)
            #expect(Self.read(header.bytes(.v2)).text == expected + " d0=12")
        }
        let mixed = ProxyHeader(
            source: try SocketAddress(ip: "1.2.3.4", port: 0),
            destination: try SocketAddress(ip: "::1", port: 1)
        )
        #expect(String(decoding: mixed.bytes(.v1), as: UTF8.self) == "PROXY TCP6 ::ffff:1.2.3.4 ::1 0 1\r\n")
    }

    /// Whatever comes, it is read in the same way in every piece, within its bounds.
    @Test func fuzz() {
        var fuzzer = Fuzzer("PROXY headers")
        let corpus = Self.good.map(\.0) + [Self.v2(0x21, 0x11, Self.four + [3, 0, 4, 1, 2, 3, 4])]
        let dictionary = [
            Array("PROXY ".utf8), Array("TCP6 ".utf8), [13, 10], Array(Self.v2(0x21, 0x11, []).prefix(14)),
        ]
        var done = 0
        while fuzzer.goesOn(done, of: 20_000) {
            done += 1
            let bytes = fuzzer.mutate(corpus, dictionary: dictionary)
            guard !bytes.isEmpty else { continue }
            let whole = Self.read(bytes)
            for pieces in [1, 1 + fuzzer.below(20)] {
                let (text, rest) = Self.read(bytes, pieces: pieces)
                #expect(text == whole.text && rest == whole.rest, "\(bytes)")
            }
        }
    }
}
