import Platform
import Streams
import Testing

@Suite struct AuthorityTests {
    @Test(arguments: [
        ("example.com:80", "example.com:80"),
        ("EXAMPLE.Com.:80", "example.com:80"),
        ("a_b-c.d1:65535", "a_b-c.d1:65535"),
        ("localhost:1", "localhost:1"),
        ("1.lan:1", "1.lan:1"),
        ("0xcafe.lan:1", "0xcafe.lan:1"),
        ("10.0.0.2:8080", "10.0.0.2:8080"),
        ("[fd00::2]:8080", "[fd00::2]:8080"),
        ("[FD00:0:0::0002]:8080", "[fd00::2]:8080"),
        ("[1:0:0:2:0:0:0:3]:5", "[1:0:0:2::3]:5"),
        ("[1:0:2:3:4:5:6:7]:5", "[1:0:2:3:4:5:6:7]:5"),
        ("[::]:5", "[::]:5"),
        ("[::1.2.3.4]:5", "[::102:304]:5"),
        ("[::ffff:1.2.3.4]:5", "1.2.3.4:5"),
        ("[::FFFF:7f00:1]:5", "127.0.0.1:5"),
    ])
    func normalises(_ text: String, _ expected: String) throws {
        let authority = try Authority(parsing: text)
        #expect(authority.description == expected)
        #expect(try Authority(parsing: authority.description) == authority)
    }

    @Test(arguments: [
        ("", "is empty"),
        ("example.com", "has no port"),
        ("[::1]", "has no port"),
        ("example.com:", "no port from 1 to 65535"),
        ("example.com:0", "no port from 1 to 65535"),
        ("example.com:080", "without leading zeros"),
        ("example.com:65536", "no port from 1 to 65535"),
        ("example.com:+80", "no port from 1 to 65535"),
        ("example.com:8 0", "no port from 1 to 65535"),
        ("example.com:80\r\nx", "no port from 1 to 65535"),
        ("example.com:99999999999999999999", "no port from 1 to 65535"),
        (":80", "no host"),
        (".:80", "no host"),
        ("user@host:80", "must not name a user"),
        ("@host:80", "must not name a user"),
        ("host:80@evil", "must not name a user"),
        ("::1:80", "in brackets"),
        ("host:80:90", "several ':'"),
        ("[1.2.3.4]:80", "not an IPv6 address"),
        ("[host]:80", "not an IPv6 address"),
        ("[::1:80", "brackets"),
        ("::1]:80", "in brackets"),
        ("[::1]x:80", "brackets"),
        ("[]:80", "brackets"),
        ("[:::1]:80", "brackets"),
        ("[1::2::3]:80", "brackets"),
        ("[1:2:3:4:5:6:7:8:9]:80", "brackets"),
        ("[1:2:3:4:5:6:7]:80", "brackets"),
        ("[1:2:3:4:5:6:7:]:80", "brackets"),
        ("[12345::]:80", "brackets"),
        ("[::1.2.3]:80", "brackets"),
        ("[::1.2.3.04]:80", "brackets"),
        ("[1.2.3.4::]:80", "brackets"),
        ("[fe80::1%eth0]:80", "zone"),
        ("fe80%25eth0:80", "zone"),
        ("a b:80", "character"),
        ("a\0b:80", "character"),
        ("a\nb:80", "character"),
        ("a/b:80", "character"),
        ("a\\b:80", "character"),
        ("b\u{fc}cher.example:80", "character"),
        ("\u{ff11}.example:80", "character"),
        ("a..b:80", "label"),
        (".a:80", "label"),
        ("-a.b:80", "label"),
        ("a-.b:80", "label"),
        ("127.1:80", "ends in a number"),
        ("0x7f.1:80", "ends in a number"),
        ("0x7f000001:80", "ends in a number"),
        ("0X7F.0.0.0x1:80", "ends in a number"),
        ("017.0.0.1:80", "ends in a number"),
        ("2130706433:80", "ends in a number"),
        ("1.2.3.4.:80", "ends in a number"),
        ("1.2.3.256:80", "ends in a number"),
        ("1.2.3.4.5:80", "ends in a number"),
        ("a.0x:80", "ends in a number"),
    ])
    func refuses(_ text: String, _ reason: String) {
        let error = #expect(throws: AddressError.self) { try Authority(parsing: text) }
        #expect(error != nil)
        #expect(error?.message.contains(reason) == true, "\(error?.message ?? "")")
    }

    @Test func limitsLengths() throws {
        let label = String(repeating: "a", count: 63)
        let longest = "\(label).\(label).\(label).\(String(repeating: "a", count: 61))"
        #expect(try Authority(parsing: "\(longest).:65535").host.utf8.count == 253)
        #expect(throws: AddressError.self) { try Authority(parsing: "\(longest)a:1") }
        #expect(throws: AddressError.self) { try Authority(parsing: "a\(label).b:1") }
        let huge = #expect(throws: AddressError.self) { try Authority(parsing: String(repeating: "a", count: 100_000)) }
        #expect((huge?.message.utf8.count ?? 0) < 300)
    }

    @Test func errorsEscapeWhatAPeerSent() {
        let error = #expect(throws: AddressError.self) { try Authority(parsing: "a\r\n\u{1b}[2J:80") }
        #expect(error?.message.unicodeScalars.allSatisfy { (0x20...0x7e).contains($0.value) } == true)
    }

    @Test func knowsAddresses() throws {
        #expect(try Authority(parsing: "[::ffff:10.0.0.1]:1").address == IPAddress("10.0.0.1"))
        #expect(try Authority(parsing: "name:1").address == nil)
        #expect(try Authority(host: "::1", port: 8).description == "[::1]:8")
        #expect(try Authority(host: "Name.", port: 8).description == "name:8")
        #expect(throws: AddressError.self) { try Authority(host: "name", port: 0) }
        #expect(throws: AddressError.self) { try Authority(host: "127.1", port: 1) }
        #expect(throws: AddressError.self) { try Authority(host: "[::1]", port: 1) }
    }

    /// Whatever is thrown at the parser, it answers, and what it accepts it writes in one way only.
    @Test func survivesAnything() throws {
        let pieces = [
            "a", "Z", "0", "1", "255", "256", ":", "::", ".", "..", "[", "]", "-", "_", "%", "@", "/", " ", "\r", "\n",
            "\0",
            "x", "0x", "ffff", "::ffff:", "1.2.3.4", "fe80", "80", "65535", "\u{e9}", "\u{1f600}", "example.com",
        ]
        var random = SplitMix(seed: 0x5eed)
        var accepted = 0
        for _ in 0..<20_000 {
            let count = Int.random(in: 0...7, using: &random)
            var text = (0..<count).map { _ in pieces.randomElement(using: &random) ?? "" }.joined()
            if Bool.random(using: &random) { text += ":80" }
            guard let authority = try? Authority(parsing: text) else { continue }
            accepted += 1
            #expect(try Authority(parsing: authority.description) == authority, "\(text)")
            #expect(try Authority(parsing: authority.description.uppercased()) == authority, "\(text)")
            #expect(authority.host.unicodeScalars.allSatisfy { $0.isASCII && !("A"..."Z").contains($0) }, "\(text)")
        }
        #expect(accepted > 500)
    }
}

/// A generator with a seed, so that a failure can be repeated.
struct SplitMix: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
