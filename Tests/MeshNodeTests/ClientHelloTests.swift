import Foundation
import Platform
import TestPeers
import Testing

@testable import MeshNode

/// ClientHellos of real clients, and what becomes of them where something is wrong.
@Suite struct ClientHelloTests {
    static let name = "web.mesh.example"

    /// By label: see Tests/Peers/tls/hellos.py.
    static func captured() async throws -> [String: [UInt8]] {
        let script = "\(TestTools.repository)/Tests/Peers/tls/hellos.py"
        let output = try await ChildProcess.run("python3", [script, name])
        #expect(output.succeeded, "\(output.standardError)")
        return Dictionary(
            uniqueKeysWithValues: output.standardOutput.split(separator: "\n").map { line in
                let words = line.split(separator: " ")
                return (String(words[0]), HelloMaker.bytes(hex: words[1]))
            }
        )
    }

    /// What it means, given in pieces that end at `ends`; nil while it is not whole.
    static func read(_ bytes: [UInt8], ends: [Int] = []) -> Result<String?, ClientHelloError> {
        var reader = ClientHelloReader()
        var start = 0
        for end in ends + [bytes.count] where end > start {
            let outcome = bytes[start..<end].withUnsafeBytes { piece in
                Result { () throws(ClientHelloError) in try reader.receive(piece) }
            }
            #expect(reader.received == Array(bytes[..<end]), "bytes are changed")
            switch outcome {
            case .success(let name?): return .success(String(decoding: name, as: UTF8.self))
            case .success(nil): break
            case .failure(let error): return .failure(error)
            }
            start = end
        }
        return .success(nil)
    }

    private static func alert(_ bytes: [UInt8]) -> TLSAlert?? {
        if case .failure(let error) = read(bytes) { .some(error.alert) } else { nil }
    }

    @Test func realClientsAreUnderstoodHoweverTheirBytesCome() async throws {
        let hellos = try await Self.captured()
        #expect(hellos.count == 9)
        for (label, hello) in hellos {
            guard !label.hasSuffix("no-name") else {
                #expect(Self.alert(hello) == .missingExtension, "\(label)")
                continue
            }
            #expect(Self.read(hello) == .success(Self.name), "\(label)")
            for end in 0..<hello.count {
                #expect(Self.read(hello, ends: [end]) == .success(Self.name), "\(label) at \(end)")
                #expect(Self.read(Array(hello[..<end])) == .success(nil), "\(label) of \(end)")
            }
            #expect(Self.read(hello, ends: Array(1..<hello.count)) == .success(Self.name), "\(label)")
            // In records of other sizes.
            let message = HelloMaker.message(of: hello)
            for size in [1, 2, 3, 5, 64, message.count - 1] {
                let records = HelloMaker.records(message, size: size)
                #expect(Self.read(records) == .success(Self.name), "\(label) in records of \(size)")
                let ends = Array(1..<records.count)
                #expect(Self.read(records, ends: ends) == .success(Self.name), "\(label) in records of \(size)")
            }
            // What comes after it, early data for instance, waits for the server.
            #expect(Self.read(hello + [20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 1, 7]) == .success(Self.name))
        }
    }

    @Test func whatIsNotAWholeHonestHelloIsRefused() throws {
        let good = HelloMaker()
        #expect(Self.read(good.bytes) == .success(Self.name))
        func expect(_ alert: TLSAlert?, _ what: String, _ change: (inout HelloMaker) -> Void) {
            var hello = good
            change(&hello)
            #expect(Self.alert(hello.bytes) == .some(alert), "\(what)")
        }
        let entry = HelloMaker.entry(Self.name)
        expect(.missingExtension, "no extensions at all") { $0.extensions = nil }
        expect(.missingExtension, "no server name") { $0.extensions = [(43, [2, 3, 4])] }
        expect(.illegalParameter, "twice the name") { $0.extensions! += [(0, HelloMaker.list(entry))] }
        expect(.illegalParameter, "twice another") { $0.extensions! += [(43, [2, 3, 4]), (43, [2, 3, 4])] }
        expect(.illegalParameter, "two host names") { $0.extensions = [(0, HelloMaker.list(entry + entry))] }
        expect(.illegalParameter, "another type") { $0.extensions = [(0, HelloMaker.list([1] + entry.dropFirst()))] }
        expect(.decodeError, "an empty name") { $0.extensions = [(0, HelloMaker.list([0, 0, 0]))] }
        expect(.decodeError, "an empty list") { $0.extensions = [(0, HelloMaker.list([]))] }
        expect(.decodeError, "an empty server_name") { $0.extensions = [(0, [])] }
        expect(.decodeError, "a list too long") { $0.extensions = [(0, [0, UInt8(entry.count + 1)] + entry)] }
        expect(.decodeError, "a list too short") { $0.extensions = [(0, [0, UInt8(entry.count - 1)] + entry)] }
        expect(.unrecognizedName, "ECH") { $0.extensions! += [(0xFE0D, [0, 0, 1, 0, 1, 9, 0, 0, 0, 0])] }
        expect(.unrecognizedName, "ECH before") {
            $0.extensions!.insert((0xFE0D, [0, 0, 1, 0, 1, 9, 0, 0, 0, 0]), at: 0)
        }
        expect(.illegalParameter, "inner ECH") { $0.extensions! += [(0xFE0D, [1])] }
        expect(.decodeError, "an old version") { $0.version = [2, 0] }
        expect(.decodeError, "a session id") { $0.session = [UInt8](repeating: 1, count: 33) }
        expect(.decodeError, "no suites") { $0.suites = [] }
        expect(.decodeError, "an odd list of suites") { $0.suites = [0x13, 1, 0x13] }
        expect(.decodeError, "no compression") { $0.compression = [] }
        expect(.decodeError, "bytes at the end") { $0.trailer = [0] }
        expect(.unexpectedMessage, "a ServerHello") { $0.type = 2 }
        expect(.illegalParameter, "16,385 bytes") { $0.extensions! += [(21, $0.padding(to: 16 << 10 + 1))] }
        var largest = good
        largest.extensions! += [(21, largest.padding(to: 16 << 10))]
        #expect(largest.message.count == 16 << 10)
        #expect(Self.read(HelloMaker.records(largest.message, size: 16 << 10)) == .success(Self.name))
        #expect(Self.alert(HelloMaker.records(largest.message, size: 1)) == .illegalParameter)

        let message = good.message
        #expect(Self.alert(HelloMaker.records(message + [1], size: 1 << 14)) == .unexpectedMessage)
        // Where the message ends, nobody has seen yet what follows.
        let followed = Self.read(HelloMaker.records(message + [1], size: 1 << 14), ends: [5 + message.count])
        #expect(throws: ClientHelloError.self) { try followed.get() }
        #expect(Self.alert([22, 3, 1, 0x40, 1]) == .recordOverflow)
        #expect(Self.alert([22, 3, 1, 0, 0]) == .unexpectedMessage)
        let half = HelloMaker.records(Array(message.prefix(20)), size: 20)
        #expect(Self.alert(half + [21, 3, 1, 0, 2, 1, 0]) == .unexpectedMessage)
        #expect(Self.read(half + [22, 3, 1]) == .success(nil))
        let others = ["GET / HTTP/1.1\r\n", "SSH-2.0-x\r\n", "\u{16}\u{2}", "\0", "\u{5}\u{1}\0"]
        for other in others { #expect(Self.alert(Array(other.utf8)) == .some(nil), "\(other)") }
        // SSL 2's.
        #expect(Self.alert([0x80, 0x2E, 1, 3, 1]) == .some(nil))
    }

    @Test(
        arguments: [
            ("web.mesh", "web.mesh:443"), ("WEB.Mesh", "web.mesh:443"), ("web", "web:443"), ("_a.b_c", "_a.b_c:443"),
            ("outbound_.8080_._.web.mesh", "web.mesh:8080"), ("outbound_.1_.v1_.web", "web:1"),
            ("Outbound_.65535_.V-2_.Web.Mesh", "web.mesh:65535"), ("outbound.80.x.y", "outbound.80.x.y:443"),
            ("outbound_.80_._.a_.b", "a_.b:80"),
            ("", nil), (".", nil), ("web.mesh.", nil), ("outbound_.80_._.web.mesh.", nil), ("a..b", nil), ("-a.b", nil),
            ("127.0.0.1", nil), ("::1", nil), ("[::1]", nil), ("127.1", nil), ("0x7f.1", nil), ("a.1", nil),
            ("a b", nil), ("a\u{0}b", nil), ("a/b", nil), ("a:443", nil), ("u@a", nil), ("é.mesh", nil),
            ("*.mesh", nil),
            ("outbound_.0_._.a", nil), ("outbound_.080_._.a", nil), ("outbound_.65536_._.a", nil),
            ("outbound_.+80_._.a", nil), ("outbound_.99999_._.a", nil), ("outbound_.100000_._.a", nil),
            ("outbound_._._.a", nil), ("outbound_.80_.a", nil), ("outbound_.80_._.", nil), ("outbound_.", nil),
            ("outbound_.80_.v_1_.a", nil), ("outbound_.80_.v.1_.a", nil), ("outbound_.80_.-v_.a", nil),
            ("outbound_.80_._.10.0.0.1", nil), ("outbound_.80_._.::1", nil),
            (String(repeating: "a", count: 64), nil), (String(repeating: "a.", count: 127) + "a", nil),
            (
                "outbound_.80_._." + String(repeating: "a.", count: 126) + "a",
                String(repeating: "a.", count: 126) + "a:80"
            ),
            (String(repeating: "a", count: 40_000), nil),
        ] as [(String, String?)]
    )
    func namesLeadToDestinations(_ name: String, _ expected: String?) {
        do throws(ClientHelloError) {
            #expect(try ServerNameDestination.parse(Array(name.utf8)).description == expected)
        } catch {
            #expect(expected == nil, "\(error)")
            #expect(error.alert == .unrecognizedName && error.reason.utf8.count < 400, "\(error)")
        }
    }

    /// Whatever comes is refused, unfinished or a name, the same in one piece and byte by byte.
    @Test func mutatedHellosNeverMeanTwoThings() async throws {
        var corpus = Array(try await Self.captured().values)
        corpus += corpus.map { HelloMaker.records(HelloMaker.message(of: $0), size: 7) } + [HelloMaker().bytes]
        let entry = HelloMaker.entry("other.example")
        let dictionary: [[UInt8]] = [
            [22, 3, 1], [0xFE, 0x0D], [0, 0], [0xFF, 0xFF], entry, HelloMaker.list(entry), [0, 43], [1, 0, 0, 40],
        ]
        var fuzzer = Fuzzer("ClientHello")
        var done = 0
        var counts = (names: 0, refused: 0, unfinished: 0)
        while fuzzer.goesOn(done, of: 3000) {
            let input = fuzzer.mutate(corpus, dictionary: dictionary)
            let whole = Self.read(input)
            // What follows the error, or the name, is not looked at in either.
            let split = Self.read(input, ends: [fuzzer.below(input.count + 1)])
            #expect(whole == split, "\(input)")
            switch whole {
            case .success(let name?):
                counts.names += 1
                _ = try? ServerNameDestination.parse(Array(name.utf8))
            case .success(nil): counts.unfinished += 1
            case .failure: counts.refused += 1
            }
            done += 1
        }
        #expect(counts.names > 0 && counts.refused > 0 && counts.unfinished > 0, "\(counts)")
    }
}

/// A ClientHello to be changed.
struct HelloMaker {
    var type: UInt8 = 1
    var version: [UInt8] = [3, 3]
    var session: [UInt8] = []
    var suites: [UInt8] = [0x13, 1]
    var compression: [UInt8] = [0]
    var extensions: [(Int, [UInt8])]?
    var trailer: [UInt8] = []

    init(_ name: String = ClientHelloTests.name) { extensions = [(0, Self.list(Self.entry(name)))] }

    /// With the header of the handshake.
    var message: [UInt8] {
        var body = version + [UInt8](repeating: 7, count: 32) + [UInt8(session.count)] + session
        body += Self.number(suites.count, 2) + suites + [UInt8(compression.count)] + compression
        if let extensions {
            let block = extensions.flatMap { Self.number($0.0, 2) + Self.number($0.1.count, 2) + $0.1 }
            body += Self.number(block.count, 2) + block
        }
        body += trailer
        return [type] + Self.number(body.count, 3) + body
    }

    /// In as few records as there can be.
    var bytes: [UInt8] { Self.records(message, size: 16 << 10) }

    /// The content of one more extension that makes the message so long.
    func padding(to length: Int) -> [UInt8] { [UInt8](repeating: 0, count: length - message.count - 4) }

    static func entry(_ name: String) -> [UInt8] { [0] + number(name.utf8.count, 2) + Array(name.utf8) }

    static func list(_ entries: [UInt8]) -> [UInt8] { number(entries.count, 2) + entries }

    static func records(_ message: [UInt8], size: Int) -> [UInt8] {
        stride(from: 0, to: message.count, by: size).flatMap { start in
            let piece = message[start..<min(start + size, message.count)]
            return [22, 3, 1] + number(piece.count, 2) + piece
        }
    }

    /// Of a hello in one record.
    static func message(of hello: [UInt8]) -> [UInt8] { Array(hello[5...]) }

    static func bytes(hex: Substring) -> [UInt8] {
        let digits = Array(hex)
        return stride(from: 0, to: digits.count - 1, by: 2).map { UInt8(String(digits[$0...$0 + 1]), radix: 16) ?? 0 }
    }

    private static func number(_ value: Int, _ size: Int) -> [UInt8] {
        (0..<size).reversed().map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
    }
}
