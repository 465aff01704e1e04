import Platform
import Streams
import TestPeers
import Testing

@testable import MeshPaths

@Suite struct SOCKSHandshakeTests {
    /// Feeds `input` in the pieces that are asked for; returns what was sent, and how it ended.
    ///
    /// - Parameter password: What lets a client in; nil: everybody comes in.
    private func run(
        _ input: [UInt8],
        password: String? = nil
    ) -> (sent: [UInt8], end: SOCKSHandshake.Action?, rest: [UInt8], SOCKSHandshake) {
        var handshake = SOCKSHandshake(authenticates: password != nil)
        var rest = input[...]
        var sent: [UInt8] = []
        var action = SOCKSHandshake.start
        while true {
            let count: Int
            switch action {
            case .read(let wanted): count = wanted
            case .send(let bytes, let wanted):
                sent += bytes
                count = wanted
            case .check(let user, let given):
                action = handshake.checked(user == [0x61] && password.map { Array($0.utf8) } == given)
                continue
            case .connect, .refuse: return (sent, action, Array(rest), handshake)
            }
            guard rest.count >= count else { return (sent, nil, Array(rest), handshake) }
            action = handshake.received(Array(rest.prefix(count)))
            rest = rest.dropFirst(count)
        }
    }

    private static let greeting: [UInt8] = [5, 2, 2, 0]

    /// To say that the password is wrong would not be true.
    @Test func whoCouldNotBeCheckedIsToldNothing() {
        var handshake = SOCKSHandshake(authenticates: true)
        for bytes in [[5], [1], [2], [1, 1], [97, 1], [97]] as [[UInt8]] { _ = handshake.received(bytes) }
        guard case .refuse(let reply, let error) = handshake.checked(nil) else {
            Issue.record("the client was not sent away")
            return
        }
        #expect(reply.isEmpty && error.code == .limit)
    }

    @Test func version5TakesNamesAndAddresses() throws {
        let name = Array("Db.Prod".utf8)
        let requests: [([UInt8], String)] = [
            ([5, 1, 0, 3, UInt8(name.count)] + name + [0x15, 0x38], "db.prod:5432"),
            ([5, 1, 0, 1, 10, 0, 0, 7, 0, 80], "10.0.0.7:80"),
            ([5, 1, 0, 4, 0xFD] + [UInt8](repeating: 0, count: 14) + [2, 0, 80], "[fd00::2]:80"),
        ]
        for (request, expected) in requests {
            // What the client sends early is not touched.
            let result = run(Self.greeting + request + [1, 2, 3])
            #expect(result.sent == [5, 0])
            #expect(result.end == .connect(try Authority(parsing: expected)))
            #expect(result.rest == [1, 2, 3])
            #expect(result.3.reply(nil) == [5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
            #expect(result.3.reply(StreamError(.denied, ""))[1] == 2)
            #expect(result.3.reply(StreamError(.refused, ""))[1] == 5)
        }
    }

    @Test func version4TakesAddressesAnd4aNames() throws {
        let user = Array("me".utf8) + [0]
        let plain = run([4, 1, 0, 80, 10, 0, 0, 7] + user + [9])
        #expect(plain.end == .connect(try Authority(parsing: "10.0.0.7:80")))
        #expect(plain.rest == [9])
        #expect(plain.3.reply(nil) == [0, 0x5A, 0, 0, 0, 0, 0, 0])
        #expect(plain.3.reply(StreamError(.refused, ""))[1] == 0x5B)
        let named = run([4, 1, 0x15, 0x38, 0, 0, 0, 1] + user + Array("db.prod".utf8) + [0])
        #expect(named.end == .connect(try Authority(parsing: "db.prod:5432")))
    }

    @Test(
        arguments: [
            (Array("GET / HTTP/1.1".utf8), [], "SOCKS"),
            ([5, 0], [5, 0xFF], "method"),
            ([5, 1, 2], [5, 0xFF], "authentication"),
            (greeting + [5, 2, 0, 1, 10, 0, 0, 7, 0, 80], [5, 7, 0, 1, 0, 0, 0, 0, 0, 0], "BIND"),
            (greeting + [5, 1, 0, 9, 0, 0], [5, 8, 0, 1, 0, 0, 0, 0, 0, 0], "kind"),
            (greeting + [5, 1, 0, 3, 0], [5, 1, 0, 1, 0, 0, 0, 0, 0, 0], "empty"),
            (greeting + [5, 1, 0, 3, 3, 0x61, 0x0A, 0x62, 0, 80], [5, 1, 0, 1, 0, 0, 0, 0, 0, 0], "impossible"),
            (greeting + [5, 1, 0, 1, 10, 0, 0, 7, 0, 0], [5, 1, 0, 1, 0, 0, 0, 0, 0, 0], "impossible"),
            ([4, 2, 0, 80, 10, 0, 0, 7], [0, 0x5B, 0, 0, 0, 0, 0, 0], "BIND"),
            (
                [4, 1, 0, 80, 10, 0, 0, 7] + [UInt8](repeating: 0x61, count: 300), [0, 0x5B, 0, 0, 0, 0, 0, 0],
                "user name"
            ),
            (
                [4, 1, 0, 80, 0, 0, 0, 7, 0] + [UInt8](repeating: 0x61, count: 300), [0, 0x5B, 0, 0, 0, 0, 0, 0], "name"
            ),
        ] as [([UInt8], [UInt8], String)]
    )
    func refuses(input: [UInt8], reply: [UInt8], reason: String) {
        guard case .refuse(reply, let error) = run(input).end else {
            Issue.record("not refused as it should be: \(run(input))")
            return
        }
        #expect(error.code == .badRequest)
        #expect(error.message.contains(reason), "\(error)")
    }

    @Test func aPasswordLetsIn() throws {
        let request: [UInt8] = [5, 1, 0, 1, 10, 0, 0, 7, 0, 80]
        let login: [UInt8] = [1, 1, 0x61, 2, 0x70, 0x77]
        let right = run([5, 2, 0, 2] + login + request + [9], password: "pw")
        #expect(right.sent == [5, 2, 1, 0])
        #expect(right.end == .connect(try Authority(parsing: "10.0.0.7:80")))
        #expect(right.rest == [9])
        for (input, reply, reason) in [
            ([5, 2, 0, 2, 1, 1, 0x62, 2, 0x70, 0x77], [1, 1], "wrong"), ([5, 1, 0], [5, 0xFF], "does not offer"),
            ([5, 1, 2, 0, 1], [1, 1], "version"), ([5, 1, 2, 1, 0, 1], [1, 1], "empty"),
            ([5, 1, 2, 1, 1, 0x61, 0], [1, 1], "empty"), ([4], [0, 0x5B, 0, 0, 0, 0, 0, 0], "no password"),
        ] as [([UInt8], [UInt8], String)] {
            guard case .refuse(reply, let error) = run(input + request, password: "pw").end else {
                Issue.record("not refused as it should be: \(input)")
                continue
            }
            #expect(error.message.contains(reason), "\(error)")
        }
    }

    /// The connection as a client sees it, cut at every byte.
    @Test(arguments: [false, true]) func anyPieces(authenticates: Bool) async throws {
        let loop = EventLoop(name: "pieces")
        let login: [UInt8] = authenticates ? [5, 1, 2, 1, 1, 0x61, 2, 0x70, 0x77] : [5, 1, 0]
        let input = login + [5, 1, 0, 3, 2, 0x61, 0x62, 0, 80] + [7, 8, 9]
        for cut in 1..<input.count {
            let (user, client) = try await loop.execute {
                let (user, client) = MemoryStream.pair(on: loop)
                return (LoopBound(user, on: loop), LoopBound(client, on: loop))
            }
            let outcome = Lock<(Authority, [UInt8])?>(nil)
            try await loop.execute {
                let check: (([UInt8], [UInt8], @escaping (Bool) -> Void) -> Void)? =
                    authenticates ? { _, password, completion in completion(password == [0x70, 0x77]) } : nil
                let connection = SOCKSConnection(
                    client.withValue { $0 },
                    .init(
                        connect: { connection, authority in
                            // Answered only when everything has come.
                            loop.submit { [connection = LoopBound(connection, on: loop)] in
                                loop.submit {
                                    let early = connection.withValue { $0.succeed() }
                                    outcome.withLock { $0 = early.map { (authority, $0) } }
                                }
                            }
                            return {}
                        },
                        failed: { _, error in Issue.record("cut at \(cut): \(error)") },
                        check: check
                    )
                )
                connection.start(timeout: .seconds(3600))
            }
            for piece in [input[..<cut], input[cut...]] {
                try await loop.execute {
                    _ = piece.withUnsafeBytes { bytes in user.withValue { $0.write(bytes) } }
                }
            }
            try await eventually("it is answered") { outcome.withLock { $0 != nil } }
            let rest: [UInt8] = try await loop.execute {
                var buffer = [UInt8](repeating: 0, count: 100)
                let answers = user.withValue { user in buffer.withUnsafeMutableBytes { user.read(into: $0) } }
                #expect(answers == .bytes(authenticates ? 14 : 12))
                let count = client.withValue { client in buffer.withUnsafeMutableBytes { client.read(into: $0) } }
                client.withValue { $0.reset(StreamError(.closed, "over")) }
                user.withValue { $0.reset(StreamError(.closed, "over")) }
                guard case .bytes(let left) = count else { return [] }
                return Array(buffer[..<left])
            }
            let (authority, early) = try #require(outcome.withLock { $0 })
            #expect(authority.description == "ab:80")
            #expect(early + rest == [7, 8, 9], "cut at \(cut)")
        }
        await loop.shutDown()
    }

    /// Whatever comes, it ends or asks for a few bytes more, and never traps.
    @Test func anyBytes() {
        var fuzzer = Fuzzer("SOCKS")
        let corpus: [[UInt8]] = [
            Self.greeting + [5, 1, 0, 3, 3, 0x61, 0x2E, 0x62, 0, 80, 1, 2, 3],
            Self.greeting + [5, 1, 0, 1, 10, 0, 0, 7, 0, 80],
            [5, 1, 2, 1, 1, 0x61, 2, 0x70, 0x77, 5, 1, 0, 4] + [UInt8](repeating: 0, count: 15) + [1, 1, 0],
            [4, 1, 0, 80, 10, 0, 0, 7, 0x61, 0], [4, 1, 0, 80, 0, 0, 0, 1, 0, 0x61, 0],
        ]
        var count = 0
        while fuzzer.goesOn(count, of: 20_000) {
            count += 1
            let input = fuzzer.mutate(corpus, dictionary: [[5, 1, 0], [0], [0xFF], [1, 1], [0, 0, 0, 1]])
            for password in [nil, "pw"] {
                let result = run(input, password: password)
                if case .connect(let authority)? = result.end { #expect(authority.port > 0) }
            }
        }
    }
}
