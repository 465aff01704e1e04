import Foundation
import H2Transport
import Logging
import MeshPaths
import Platform
import Streams
import TestPeers
import Testing
import YAML

@testable import MeshNode

@Suite(.timeLimit(.minutes(10))) struct ConnectionSettingsTests {

    private func decode(_ connections: String) throws -> ConnectionSettings {
        let listener = "{name: a, bind: \"127.0.0.1:1\", protocol: hbone}"
        return try NodeConfiguration.parse(
            "{identity: i, listeners: [\(listener)], connections: \(connections)}",
            file: "f"
        ).connections
    }

    @Test func everyKeyIsDecoded() throws {
        let settings = try decode(
            """
            {keepAlive: 1s, keepAliveTimeout: 2s, connectTimeout: 300ms, handshakeTimeout: 4m, requestTimeout: 5h,
             idleTimeout: 1h30m, maximumAge: 7d, drainTimeout: 8s, perPeer: 9, multipath: true}
            """
        )
        var expected = ConnectionSettings()
        expected.keepAlive = .seconds(1)
        expected.keepAliveTimeout = .seconds(2)
        expected.connectTimeout = .milliseconds(300)
        expected.handshakeTimeout = .seconds(240)
        expected.requestTimeout = .seconds(5 * 3600)
        expected.idleTimeout = .seconds(5400)
        expected.maximumAge = .seconds(7 * 86400)
        expected.drainTimeout = .seconds(8)
        expected.perPeer = 9
        expected.multipath = true
        #expect(settings == expected)
        #expect(settings.http2(for: .client).keepAlive.interval == .seconds(1))
        #expect(settings.http2(for: .server).keepAlive.timeout == .seconds(2))
        #expect(settings.http2(for: .client).requestTimeout == .seconds(5 * 3600))
        #expect(settings.http2(for: .client).age.maximum == .seconds(7 * 86400))
        #expect(settings.http2(for: .client).age.drainTimeout == .seconds(8))
        #expect(settings.tls(for: .server).handshakeTimeout == .seconds(240))
        let expectedGroup = ConnectionGroupDriver.Settings.path(
            http2: settings.http2(for: .client),
            connections: 9,
            idleTimeout: .seconds(5400)
        )
        #expect(settings.group == expectedGroup)
    }

    @Test func noneIsNoLimit() throws {
        let settings = try decode("{idleTimeout: none, maximumAge: none, drainTimeout: none}")
        #expect(settings.idleTimeout == nil)
        #expect(settings.maximumAge == nil)
        #expect(settings.drainTimeout == nil)
        #expect(try decode("{perPeer: 1}") == ConnectionSettings().with { $0.perPeer = 1 })
    }

    @Test(arguments: [
        ("{keepAlive: 10}", "'keepAlive': '10' is not a length of time"), ("{keepAlive: 0s}", "not a length of time"),
        ("{keepAlive: none}", "not a length of time"), ("{maximumAge: 1y}", "not a length of time"),
        ("{maximumAge: s}", "not a length of time"), ("{maximumAge: -1s}", "not a length of time"),
        ("{maximumAge: 9999999d}", "not a length of time"), ("{idleTimeout: \"1 h\"}", "not a length of time"),
        ("{perPeer: 0}", "'perPeer': '0' is not a number from 1 to 1024"), ("{perPeer: 01}", "not a number from 1"),
        ("{idleTimout: 1s}", "did you mean 'idleTimeout'?"), ("5", "must be a mapping"),
    ])
    func whatMakesNoSenseIsAnError(_ text: String, _ message: String) {
        let error = #expect(throws: ConfigurationError.self) { try decode(text) }
        #expect(error?.description.contains(message) == true, "\(error.map { "\($0)" } ?? "")")
    }

    /// A connection to the server is replaced many times while streams are opened all the time; one stream lasts
    /// throughout.
    @Test(arguments: ["client", "server", "both"])
    func connectionsThatGrowOldAreReplacedWithoutHarm(impatient: String) async throws {
        let backend = try EchoServer()
        let pair = try await NodePair(
            to: backend.port,
            serverSettings: impatient == "client" ? "" : "connections: {maximumAge: 130ms}",
            clientSettings: impatient == "server" ? "" : "connections: {maximumAge: 100ms}"
        )
        let conversation = try await TCPConversation(port: pair.entry)
        func connections() -> Int {
            pair.serverLog.lines.count { $0.contains("connected") && !$0.contains("disconnected") }
        }
        let deadline = ContinuousClock.now + .seconds(60)
        var round: UInt64 = 0
        while connections() < 5, ContinuousClock.now < deadline {
            round += 1
            let sent = Pattern.bytes(5000, seed: round)
            let (received, ending) = try await TCPClient.exchange(port: pair.entry, sending: sent)
            #expect(ending == .endOfStream)
            #expect(Checksum.of(received) == Checksum.of(sent))
            #expect(Checksum.of(try await conversation.echo(sent)) == Checksum.of(sent))
        }
        #expect(connections() >= 5)
        let (_, ending) = try await conversation.end()
        #expect(ending == .endOfStream)
        await pair.stop()
    }

    @Test func aPeerThatNobodyTalksToIsLetGoAndFoundAgain() async throws {
        let backend = try EchoServer()
        let pair = try await NodePair(to: backend.port, clientSettings: "connections: {idleTimeout: 200ms}")
        for _ in 0..<2 {
            let before = pair.clientLog.lines.count { $0.contains("released") }
            let (received, ending) = try await TCPClient.exchange(port: pair.entry, sending: [1, 2, 3])
            #expect(received == [1, 2, 3])
            #expect(ending == .endOfStream)
            try await eventually("the peer is let go") {
                pair.clientLog.lines.count { $0.contains("released") } > before
            }
        }
        // With a stream, however quiet, it is kept.
        let conversation = try await TCPConversation(port: pair.entry)
        #expect(try await conversation.echo([1]) == [1])
        let before = pair.clientLog.lines.count { $0.contains("released") }
        let start = ContinuousClock.now
        while ContinuousClock.now < start + .milliseconds(600) {
            #expect(try await conversation.echo([2]) == [2])
        }
        #expect(pair.clientLog.lines.count { $0.contains("released") } == before)
        _ = try await conversation.end()
        await pair.stop()
    }
}

extension ConnectionSettings {
    fileprivate func with(_ change: (inout ConnectionSettings) -> Void) -> ConnectionSettings {
        var settings = self
        change(&settings)
        return settings
    }
}
