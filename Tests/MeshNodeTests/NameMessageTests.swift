import Foundation
import MeshPolicy
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// Questions to a name server, read and answered; and the addresses that names get.
@Suite struct NameMessageTests {
    private static func message(_ name: String, kind: UInt16 = 1, additional: [UInt8] = []) -> [UInt8] {
        let labels = name.split(separator: ".").flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) }
        return [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, additional.isEmpty ? 0 : 1] + labels
            + [0, UInt8(kind >> 8), UInt8(truncatingIfNeeded: kind), 0, 1] + additional
    }

    private static let options: [UInt8] = [0, 0, 41, 0x04, 0xD0, 0, 0, 0x80, 0, 0, 0]

    @Test func aQuestionIsRead() throws {
        let question = try DNSQuestion(parsing: Self.message("Db.Prod", additional: Self.options))
        #expect(question.id == 0x1234 && question.isRecursionDesired && question.isInternetClass)
        #expect(question.name == "db.prod" && question.kind == 1)
        #expect(question.datagramSize == 1232 && question.isDNSSECDesired)
        #expect(question.bytes == Array(Self.message("Db.Prod")[12...]))
        #expect(try DNSQuestion(parsing: Self.message("a")).datagramSize == nil)
        // What is no letter cannot be taken for a dot.
        var odd = Self.message("a.b")
        odd[14] = 1
        odd[13] = UInt8(ascii: ".")
        #expect(try DNSQuestion(parsing: odd).name == "\\..b")
    }

    /// Cut at every byte, and with every byte changed, it is read or refused.
    @Test func half() {
        let whole = Self.message("db.prod", additional: Self.options)
        for end in whole.indices {
            #expect(throws: DNSQuestion.Unreadable.self) { try DNSQuestion(parsing: Array(whole[..<end])) }
        }
        #expect(throws: DNSQuestion.Unreadable.self) {
            // 256 bytes of name.
            try DNSQuestion(
                parsing: Self.message(
                    [String](repeating: String(repeating: "a", count: 63), count: 4).joined(separator: ".")
                )
            )
        }
        #expect(throws: DNSQuestion.Unreadable(code: .formatError)) {
            try DNSQuestion(parsing: Self.message("a", additional: [0xC0]))
        }
    }

    @Test func fuzz() throws {
        let directory = TestTools.repository + "/Tests/Peers/network/names.corpus"
        let lines = try String(contentsOfFile: directory, encoding: .utf8).split(separator: "\n").filter {
            !$0.hasPrefix("#")
        }
        let corpus = try lines.map { line in
            let digits = Array(line)
            return try stride(from: 0, to: digits.count, by: 2).map {
                try #require(UInt8(String(digits[$0...$0 + 1]), radix: 16))
            }
        }
        var fuzzer = Fuzzer("DNS questions")
        let zone = MeshZone(
            tables: [
                EndpointTable([
                    EndpointBlock([
                        MeshPolicy.Endpoint(
                            match: try EndpointMatch(parsing: "*.prod"),
                            way: .peer(.init(id: .init("p", facts: ""), candidates: [], servers: [], identities: []))
                        )
                    ])
                ])
            ],
            names: VirtualNames(),
            settings: .init()
        )
        var (count, answered) = (0, 0)
        while fuzzer.goesOn(count, of: 20_000) {
            count += 1
            let message = fuzzer.mutate(corpus, dictionary: [[0xC0, 12], [63], [0, 41], [0xFF, 0xFF]])
            do throws(DNSQuestion.Unreadable) {
                let question = try DNSQuestion(parsing: message)
                #expect(question.bytes.count <= message.count - 12)
                guard let answer = zone.answer(to: question)?.bytes(to: question) else { continue }
                answered += 1
                #expect(answer.count <= 512 && answer[0] == message[0] && answer[1] == message[1])
                #expect(Array(answer[12..<12 + question.bytes.count]) == question.bytes)
                _ = DNSQuestion.addresses(in: message)
            } catch {
                _ = DNSQuestion.addresses(in: message)
                if let code = error.code { #expect(DNSAnswer.refusing(message, code).count >= 12) }
            }
        }
        #expect(answered > 100)
    }

    @Test func whatOthersAnswerIsLookedThrough() throws {
        let zone = MeshZone(tables: [], names: VirtualNames(), settings: .init())
        func answer(_ address: [UInt8]) -> [UInt8] {
            var message = Self.message("a.test")
            (message[2], message[7]) = (0x81, 1)
            return message + [0xC0, 12, 0, address.count == 4 ? 1 : 28, 0, 1, 0, 0, 0, 9, 0, UInt8(address.count)]
                + address
        }
        #expect(zone.allows(answer([192, 0, 2, 1])))
        #expect(!zone.allows(answer([198, 19, 0, 1])))
        #expect(!zone.allows(answer(try #require(IPAddress("fd6d:6573:6800::5")).bytes)))
        #expect(!zone.allows(Array(answer([192, 0, 2, 1]).dropLast())))
    }

    /// A browser may connect to what an HTTPS record says, before it has any other address.
    @Test func addressesOfServicesAreLookedAt() throws {
        let zone = MeshZone(tables: [], names: VirtualNames(), settings: .init())
        func answer(_ kind: UInt8, _ parameters: [UInt8]) -> [UInt8] {
            var message = Self.message("a.test")
            (message[2], message[7]) = (0x81, 1)
            let data: [UInt8] = [0, 1, 0] + parameters
            return message + [0xC0, 12, 0, kind, 0, 1, 0, 0, 0, 9, 0, UInt8(data.count)] + data
        }
        let mesh = try #require(IPAddress("fd6d:6573:6800::5")).bytes
        let protocols: [UInt8] = [0, 1, 0, 3, 2, 0x68, 0x32]
        for kind: UInt8 in [64, 65] {
            #expect(zone.allows(answer(kind, [])))
            #expect(zone.allows(answer(kind, protocols + [0, 4, 0, 4, 192, 0, 2, 1])))
            #expect(!zone.allows(answer(kind, protocols + [0, 4, 0, 8, 192, 0, 2, 1, 198, 19, 0, 1])))
            #expect(!zone.allows(answer(kind, [0, 6, 0, 16] + mesh)))
            #expect(!zone.allows(answer(kind, [0, 6, 0, 15] + mesh.dropLast())))
            #expect(!zone.allows(answer(kind, [0, 4, 0])))
        }
    }

    // MARK: Addresses

    @Test func anAddressIsMadeOfItsName() throws {
        let (first, second) = (VirtualNames(), VirtualNames())
        let addresses = try #require(first.addresses(of: "db.prod"))
        #expect(
            VirtualBlocks.standard.ipv4.contains(addresses.ipv4) && VirtualBlocks.standard.ipv6.contains(addresses.ipv6)
        )
        _ = second.addresses(of: "other.prod")
        #expect(second.addresses(of: "db.prod")?.ipv4 == addresses.ipv4)
        #expect(first.meaning(of: addresses.ipv4) == .name("db.prod"))
        #expect(first.meaning(of: addresses.ipv6) == .name("db.prod"))
        #expect(first.meaning(of: try #require(IPAddress("198.18.0.0"))) == .unknown)
        #expect(first.meaning(of: try #require(IPAddress("192.0.2.1"))) == .address)
    }

    /// In a small block many names want one address; each has its own, always the same, and no more than there is room.
    @Test func namesThatWantOneAddressHaveTwo() throws {
        let blocks = VirtualBlocks(ipv4: try CIDR(parsing: "10.0.0.0/24"), ipv6: VirtualBlocks.standard.ipv6)
        let names = (0..<63).map { "n\($0).prod" }
        func addresses(_ order: [String]) -> [IPAddress?] {
            let virtual = VirtualNames(blocks)
            virtual.prepare(order, in: blocks)
            return names.map { virtual.addresses(of: $0)?.ipv4 }
        }
        let forward = addresses(names)
        #expect(Set(forward).count == 63 && !forward.contains(nil))
        #expect(addresses(names.reversed()) == forward)
        let full = VirtualNames(blocks)
        full.prepare(names, in: blocks)
        #expect(full.addresses(of: "one-more.prod") == nil)
    }

    /// Whoever asks for many names keeps no other from having one: the least recently used is given up, in time.
    @Test func addressesThatNobodyUsesAreGivenToOthers() throws {
        let blocks = VirtualBlocks(ipv4: try CIDR(parsing: "10.0.0.0/24"), ipv6: VirtualBlocks.standard.ipv6)
        let clock = Lock<UInt64>(1000)
        let virtual = VirtualNames(blocks) { clock.withLock { $0 } }
        virtual.prepare(["fixed.prod"], in: blocks, lifetime: 900)
        for index in 0..<62 { #expect(virtual.addresses(of: "n\(index).prod") != nil) }
        #expect(virtual.addresses(of: "more.prod") == nil)
        clock.withLock { $0 = 1899 }
        #expect(virtual.addresses(of: "more.prod") == nil, "an answer may still hold")
        let used = try #require(virtual.addresses(of: "n0.prod"))
        let connected = try #require(virtual.addresses(of: "n1.prod"))
        clock.withLock { $0 = 1900 }
        #expect(virtual.addresses(of: "more.prod") != nil)
        for index in 0..<59 { #expect(virtual.addresses(of: "m\(index).prod") != nil) }
        #expect(virtual.addresses(of: "too-many.prod") == nil)
        #expect(virtual.meaning(of: used.ipv4) == .name("n0.prod"))
        #expect(virtual.meaning(of: connected.ipv6) == .name("n1.prod"))
        // What is written out stays for good.
        clock.withLock { $0 = 1_000_000 }
        for index in 0..<70 { #expect(virtual.addresses(of: "k\(index).prod") != nil || index >= 62) }
        let fixed = try #require(virtual.addresses(of: "fixed.prod"))
        let fresh = VirtualNames(blocks)
        fresh.prepare(["fixed.prod"], in: blocks)
        #expect(fresh.addresses(of: "fixed.prod")?.ipv4 == fixed.ipv4)
    }

    /// The largest blocks hold no more names than memory has room for.
    @Test func blocksHaveAnEnd() throws {
        let blocks = VirtualBlocks(ipv4: try CIDR(parsing: "10.0.0.0/8"), ipv6: VirtualBlocks.standard.ipv6)
        #expect(blocks.places == (1 << 18) - 2)
    }

    // MARK: Asking others

    /// A name server that asks itself asks itself again.
    @Test func theListenerItselfIsNoServerToAsk() throws {
        func listener(_ text: String) throws -> NodeConfiguration.Listener {
            try NodeConfiguration.parse("identity: i\nlisteners: [\(text)]", file: "f").listeners[0]
        }
        let any = try listener("{name: d, bind: \"0.0.0.0:53\", protocol: dns, capture: {interfaces: [lan]}}")
        let one = try listener("{name: d, bind: \"127.0.0.1:53\", protocol: dns}")
        let addresses = Set(["192.0.2.1", "2001:db8::1"].compactMap { IPAddress($0) })
        func isOwn(_ server: String, _ listener: NodeConfiguration.Listener) throws -> Bool {
            NameForwarder.isOwn(try SocketAddress(parsing: server), of: listener, on: addresses)
        }
        for own in ["127.0.0.1:53", "127.0.0.53:53", "[::1]:53", "192.0.2.1:53", "[2001:db8::1]:53"] {
            let result = try isOwn(own, any)
            #expect(result, "\(own)")
        }
        for other in ["127.0.0.1:54", "192.0.2.2:53", "192.0.2.1:5353"] {
            let result = try isOwn(other, any)
            #expect(!result, "\(other)")
        }
        let (itself, resolved) = (try isOwn("127.0.0.1:53", one), try isOwn("127.0.0.53:53", one))
        #expect(itself && !resolved)
    }

    /// What repeats no question is an error and no more, or it could be the answer to any.
    @Test func anAnswerIsToTheQuestion() throws {
        let question = Self.message("db.test")
        let size = question.count - 12
        var whole = question
        whole[2] = 0x81
        func isAnswer(_ bytes: [UInt8]) -> Bool {
            bytes.withUnsafeBytes { NameForwarder.isAnswer($0, to: question, repeating: size) }
        }
        #expect(isAnswer(whole) && !isAnswer(question))
        let head: [UInt8] = [0x12, 0x34, 0x81, 0x01, 0, 0, 0, 0, 0, 0, 0, 0]
        #expect(isAnswer(head), "FORMERR")
        var fine = head
        fine[3] = 0
        #expect(!isAnswer(fine), "no error")
        for place in [7, 9, 11] {
            var more = head
            more[place] = 1
            #expect(!isAnswer(more + whole[12...]), "\(place)")
        }
        var another = whole
        another[13] ^= 1
        #expect(!isAnswer(another))
    }

    @Test func oneMachineLeavesOthersTheirTurn() async throws {
        let upstream = FreePort.next()
        let listener = try NodeConfiguration.parse(
            "identity: i\nlisteners: [{name: d, bind: \"127.0.0.1:1\", protocol: dns, "
                + "names: {upstreams: [\"127.0.0.1:\(upstream)\"]}}]",
            file: "f"
        ).listeners[0]
        let question = Self.message("a.test")
        let loop = EventLoop(name: "names")
        let refused = try await loop.execute {
            let forwarder = NameForwarder(on: loop, logger: LogRecorder().logger)
            var refused: [String] = []
            // Nobody answers: each that is taken waits.
            for asker in [String](repeating: "192.0.2.7", count: 33) + ["192.0.2.8"]
                + [String](repeating: "127.0.0.1", count: 40)
            {
                forwarder.ask(
                    question,
                    repeating: question.count - 12,
                    for: listener,
                    from: IPAddress(asker),
                    isStream: false
                ) { answer in
                    if answer == nil { refused.append(asker) }
                }
            }
            return refused
        }
        await loop.shutDown()
        #expect(refused == ["192.0.2.7"])
    }

    /// Whoever wonders why names are not found looks into the log: there is one line, however many questions.
    @Test func serversThatDoNotAnswerAreLogged() async throws {
        let upstream = FreePort.next()
        let listener = try NodeConfiguration.parse(
            "identity: i\nlisteners: [{name: d, bind: \"127.0.0.1:1\", protocol: dns, "
                + "names: {upstreams: [\"127.0.0.1:\(upstream)\"]}}]",
            file: "f"
        ).listeners[0]
        let question = Self.message("a.test")
        let (loop, log, answers) = (EventLoop(name: "names"), LogRecorder(), Lock<[Bool]>([]))
        try await loop.execute {
            let forwarder = NameForwarder(on: loop, logger: log.logger)
            // Over TCP, so that the refusal is seen at once.
            for _ in 0..<3 {
                forwarder.ask(question, repeating: question.count - 12, for: listener, from: nil, isStream: true) {
                    answer in answers.withLock { $0.append(answer != nil) }
                }
            }
        }
        try await eventually("all have failed") { answers.withLock { $0 } == [false, false, false] }
        await loop.shutDown()
        let lines = log.lines.filter { $0.contains("no name server answers") }
        #expect(lines.count == 1 && lines[0].contains("127.0.0.1:\(upstream)"), "\(log.lines)")
    }

    /// A name server that everybody reaches floods others.
    @Test(arguments: ["", ", capture: {}"]) func aNameServerBeyondLoopbackIsRefused(_ keys: String) throws {
        let error = #expect(throws: ConfigurationError.self) {
            try NodeConfiguration.parse(
                "identity: i\nlisteners: [{name: d, bind: \"0.0.0.0:53\", protocol: dns\(keys)}]",
                file: "f"
            )
        }
        let isSaid = error?.issues.contains { $0.message.contains("would answer anybody") } == true
        #expect(isSaid, "\(error as Any)")
    }

    @Test func reverseNames() throws {
        #expect(MeshZone.reversed("1.2.18.198.in-addr.arpa") == IPAddress("198.18.2.1"))
        #expect(MeshZone.reversed("1.2.18.in-addr.arpa") == nil)
        #expect(MeshZone.reversed("01.2.18.198.in-addr.arpa") == nil)
        let nibbles = "1" + String(repeating: ".0", count: 23) + ".d.f.0.0.0.0.0.0"
        #expect(MeshZone.reversed(nibbles + ".ip6.arpa") == IPAddress("0:fd::1"))
        #expect(MeshZone.reversed("1.ip6.arpa") == nil)
    }

    @Test(arguments: [
        ("names: {ttl: 0}", "'0' is not a number of seconds from 1 to 3600"),
        ("names: {ipv4: \"fd00::/8\"}", "is not a block of IPv4 with a prefix length from 8 to 24"),
        ("names: {ipv4: 10.0.0.0/30}", "is not a block of IPv4 with a prefix length from 8 to 24"),
        ("names: {upstreams: [ns.test]}", "is not an IP address and a port"),
        ("names: {upstreams: [\"0.0.0.0:53\"]}", "is not where a name server listens"),
        ("names: {upstream: [192.0.2.1]}", "did you mean 'upstreams'?"),
        ("capture: {ports: [53]}", "'ports' and 'cidrs' mean nothing with protocol dns"),
        ("plaintext: deny", "'plaintext' is for protocol transparent only"),
    ])
    func whatMakesNoSenseIsRefused(_ keys: String, _ message: String) throws {
        let error = #expect(throws: ConfigurationError.self) {
            try NodeConfiguration.parse(
                "identity: i\nlisteners: [{name: d, bind: \"127.0.0.1:1\", protocol: dns, \(keys)}]",
                file: "f"
            )
        }
        #expect(error?.issues.contains { $0.message.contains(message) } == true, "\(error as Any)")
    }
}
