import Testing

@testable import SSHSignal

@Suite struct DestinationTests {
    @Test(
        arguments: [
            ("host", nil, "host", nil),
            ("user@host", "user", "host", nil),
            ("user@host:2222", "user", "host", 2222),
            ("host:1", nil, "host", 1),
            ("host:65535", nil, "host", 65535),
            ("10.0.0.7:22", nil, "10.0.0.7", 22),
            ("::1", nil, "::1", nil),
            ("fe80::1%eth0", nil, "fe80::1%eth0", nil),
            ("root@[2001:db8::1]:2222", "root", "2001:db8::1", 2222),
            ("[2001:db8::1]", nil, "2001:db8::1", nil),
            ("ssh://host", nil, "host", nil),
            ("SSH://user@host:22/", "user", "host", 22),
            ("ssh://us%65r@[::1]:22", "user", "::1", 22),
            ("dom\\user@host", "dom\\user", "host", nil),
            ("user@realm@host", "user@realm", "host", nil),
        ] as [(String, String?, String, UInt16?)]
    )
    func accepts(text: String, user: String?, host: String, port: UInt16?) throws {
        let destination = try Destination(parsing: text)
        #expect(destination == Destination(user: user, host: host, port: port))
        // What it prints is read back as the same, except for what has a spelling in the URI form only.
        #expect(try Destination(parsing: destination.description) == destination)
    }

    @Test(arguments: [
        ("", "no host"), ("@host", "no user"), ("user@", "no host"), (":22", "no host"), ("host:", "port"),
        ("host:0", "port"),
        ("host:65536", "port"), ("host:+22", "port"), ("host:22x", "port"), ("[::1", "not closed"),
        ("[::1]22", "colon"),
        ("[host]:22", "IPv6"), ("-oProxyCommand=x", "not allowed"), ("-l@host", "not allowed"),
        ("-\u{301}l@host", "not allowed"), ("-\u{301}host", "not allowed"),
        ("ho st", "not allowed"),
        ("host$(id)", "not allowed"), ("host\n", "not allowed"), ("a;b@host", "not allowed"),
        ("host/path", "not allowed"),
        ("ssh://us%4@host", "%"), ("ssh://us%+1@host", "%"), ("u\\@host", "not allowed"), ("*.example", "not allowed"),
    ])
    func refuses(text: String, reason: String) {
        let error = #expect(throws: SSHConfigurationError.self) { try Destination(parsing: text) }
        #expect(error?.message.contains(reason) == true, "\(error?.message ?? "")")
    }
}

@Suite struct HostPatternTests {
    @Test(arguments: [
        ("host", "host", true), ("host", "*", true), ("", "*", true), ("", "?", false), ("host", "h?st", true),
        ("host.example", "*.example", true), (".example", "*.example", true), ("host.example.org", "*.example", false),
        ("abcbcd", "a*bcd", true), ("abcbce", "a*bcd", false), ("aaa", "a*a*a", true), ("aa", "a*a*a", false),
        ("host", "host?", false), ("host", "h**t", true), ("x", "", false), ("", "", true),
    ])
    func patterns(text: String, pattern: String, matches: Bool) {
        #expect(HostPattern.matches(text, pattern) == matches)
    }

    @Test func negationWinsWhereverItStands() {
        #expect(HostPattern.matches("a.lan", list: ["*.lan", "!b.lan"]))
        #expect(!HostPattern.matches("b.lan", list: ["*.lan", "!b.lan"]))
        #expect(!HostPattern.matches("b.lan", list: ["!b.lan", "*.lan"]))
        #expect(!HostPattern.matches("a.lan", list: ["!b.lan"]))
    }

    @Test func manyStarsStayCheap() {
        let pattern = String(repeating: "*a", count: 500) + "b"
        #expect(!HostPattern.matches(String(repeating: "a", count: 5000), pattern))
    }
}
