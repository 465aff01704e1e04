import Platform
import Streams
import TestPeers
import Testing

@Suite struct IPAddressTests {
    @Test func classifies() throws {
        func address(_ text: String) throws -> IPAddress { try #require(IPAddress(text)) }
        for text in ["127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1"] {
            #expect(try address(text).isLoopback)
        }
        for text in ["128.0.0.1", "::2", "::"] { #expect(try !address(text).isLoopback) }
        for text in ["169.254.169.254", "fe80::1", "febf::1", "::ffff:169.254.0.1"] {
            #expect(try address(text).isLinkLocal)
        }
        for text in ["169.253.0.1", "fec0::1", "fe7f::1"] { #expect(try !address(text).isLinkLocal) }
        for text in ["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0"] { #expect(try address(text).isUnspecified) }
        for text in ["1.0.0.0", "::1"] { #expect(try !address(text).isUnspecified) }
        for text in ["224.0.0.1", "239.255.255.255", "ff02::1"] { #expect(try address(text).isMulticast) }
        for text in ["223.255.255.255", "240.0.0.1", "fe00::1"] { #expect(try !address(text).isMulticast) }
        #expect(try address("255.255.255.255").isBroadcast)
        #expect(IPAddress.loopbackIPv4.description == "127.0.0.1" && IPAddress.loopbackIPv6.description == "::1")
    }

    @Test func bytesRoundTrip() {
        #expect(IPAddress("1.2.3.4")?.bytes == [1, 2, 3, 4])
        #expect(IPAddress(bytes: [1, 2, 3, 4]) == IPAddress("1.2.3.4"))
        let v6 = (1...16).map(UInt8.init)
        #expect(IPAddress(bytes: v6)?.bytes == v6)
        #expect(IPAddress(bytes: v6)?.description == "102:304:506:708:90a:b0c:d0e:f10")
        #expect(IPAddress(bytes: [1, 2, 3]) == nil)
    }

    @Test func socketAddresses() throws {
        #expect(try SocketAddress(ip: "::ffff:1.2.3.4", port: 5).address == IPAddress("1.2.3.4"))
        #expect(try SocketAddress(ip: "fe80::1%1", port: 5).address == IPAddress("fe80::1"))
        #expect(SocketAddress(.loopbackIPv6, port: 5).description == "[::1]:5")
    }

    @Test(arguments: [
        ("10.0.0.0", "not an IP address"), ("10.0.0.0/", "prefix length of 0 to 32"), ("10.0.0.0/33", "0 to 32"),
        ("10.0.0.0/08", "0 to 32"), ("10.0.0.0/+8", "0 to 32"), ("10.0.0.0/8/8", "0 to 32"), ("fd00::/129", "0 to 128"),
        ("::ffff:10.0.0.0/95", "96 to 128"), ("10.0.0.1/8", "write 10.0.0.0/8"), ("fd00::1/8", "write fd00::/8"),
        ("host/8", "not an IP address"), ("", "not an IP address"), ("/8", "not an IP address"),
        ("10.0/8", "not an IP address"),
    ])
    func refusesBlocks(_ text: String, _ reason: String) throws {
        if text == "10.0.0.0" {
            #expect(try CIDR(parsing: text).description == "10.0.0.0/32")
            return
        }
        let error = #expect(throws: AddressError.self) { try CIDR(parsing: text) }
        #expect(error?.message.contains(reason) == true, "\(error?.message ?? "")")
    }

    @Test func mappedBlocksAreIPv4() throws {
        #expect(try CIDR(parsing: "::ffff:10.0.0.0/104").description == "10.0.0.0/8")
        #expect(try !CIDR(parsing: "::/0").contains(#require(IPAddress("10.0.0.1"))))
    }

    /// Python's `ipaddress` reads the same texts: the same are valid, with the same canonical form, in the same blocks.
    @Test func agreesWithPython() async throws {
        var random = SplitMix(seed: 42)
        let pieces = [
            "0", "1", "9", "10", "255", "256", "00", "01", "a", "F", "ffff", "fffff", "abcd", ".", ":", "::", "/", "%",
            " ", "-",
        ]
        var texts: [String] = [
            "", "::", "::1", "1::", "::ffff:1.2.3.4", "64:ff9b::1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7::",
        ]
        for _ in 0..<3000 {
            switch Int.random(in: 0...3, using: &random) {
            case 0:
                texts.append((0..<4).map { _ in "\(Int.random(in: 0...270, using: &random))" }.joined(separator: "."))
            case 1:
                var groups = (0..<8).map { _ in
                    Bool.random(using: &random) ? "0" : String(UInt16.random(in: 0...(.max), using: &random), radix: 16)
                }
                let start = Int.random(in: 0...7, using: &random)
                if Bool.random(using: &random) {
                    groups.removeSubrange(start..<Int.random(in: start...8, using: &random))
                    groups.insert("", at: min(start, groups.count))
                    if start == 0 { groups.insert("", at: 0) }
                    if groups.last == "" { groups.append("") }
                }
                texts.append(groups.joined(separator: ":"))
            default:
                let count = Int.random(in: 1...15, using: &random)
                texts.append((0..<count).map { _ in pieces.randomElement(using: &random) ?? "" }.joined())
            }
        }
        let script = """
            import ipaddress, sys
            def canonical(a):
                return a.ipv4_mapped or a if a.version == 6 else a
            for line in sys.stdin.read().split("\\n")[:-1]:
                try:
                    if "%" in line: raise ValueError
                    a = canonical(ipaddress.ip_address(line))
                    nets = [n for n in NETS if a.version == ipaddress.ip_network(n).version and a in ipaddress.ip_network(n)]
                    print(a, *nets)
                except ValueError:
                    print("-")
            """
        let blocks = [
            "0.0.0.0/0", "10.0.0.0/8", "128.0.0.0/1", "0.0.0.0/5", "::/0", "::/1", "8000::/3", "::/64", "::/65",
            "::/100",
        ]
        let nets = "NETS = [" + blocks.map { "'\($0)'" }.joined(separator: ",") + "]\n"
        let output = try await ChildProcess.run(
            "/usr/bin/env",
            ["python3", "-c", nets + script],
            input: Array(texts.map { $0 + "\n" }.joined().utf8)
        )
        try #require(output.succeeded, "\(output.standardError)")
        let answers = output.standardOutput.split(separator: "\n", omittingEmptySubsequences: false).dropLast()
        try #require(answers.count == texts.count)

        let parsed = try blocks.map { try CIDR(parsing: $0) }
        var valid = 0
        for (text, answer) in zip(texts, answers) {
            var ours = "-"
            if let address = IPAddress(text) {
                valid += 1
                let inside = zip(blocks, parsed).filter { $1.contains(address) }.map { " " + $0.0 }
                ours = address.description + inside.joined()
            }
            #expect(ours == answer, "'\(text)'")
        }
        #expect(valid > 800)
    }
}
