import TestPeers
import Testing

@testable import Streams

@Suite("A stream between two event loops", .timeLimit(.minutes(10)))
struct LoopBridgeTests {
    /// Runs each body on its own loop, with its end of a bridge.
    private func withBridge<Near: Sendable, Far: Sendable>(
        near: @escaping @Sendable (Scenario<Near>, LoopBridge) throws -> Void,
        far: @escaping @Sendable (Scenario<Far>, LoopBridge) throws -> Void
    ) async throws -> (Near, Far) {
        let group = EventLoopGroup(count: 2)
        let (here, there) = (group.loops[0], group.loops[1])
        let ends = try await here.execute {
            let end = LoopBridge(on: here, to: "the other loop")
            return (LoopBound(end, on: here), end.makeFarEnd(on: there))
        }
        async let first: Near = onLoop(here) { scenario in try ends.0.withValue { try near(scenario, $0) } }
        async let second: Far = onLoop(there) { scenario in try ends.1.withValue { try far(scenario, $0) } }
        let results = try await (first, second)
        await group.shutDown()
        return results
    }

    private static func talk(_ scenario: Scenario<Talker.Outcome>, _ talker: Talker) {
        scenario.keep(talker)
        awaitAll([talker]) { scenario.complete($0[0]) }
        talker.start()
    }

    @Test("both directions at once, byte for byte")
    func bothWays() async throws {
        let volume = 5_000_000
        let (near, far) = try await withBridge(
            near: { Self.talk($0, Talker($1, sending: volume, seed: 1, expecting: 2)) },
            far: { Self.talk($0, Talker($1, sending: volume + 1, seed: 2, expecting: 1)) }
        )
        #expect(near == .init(sent: volume, received: volume + 1, sawEnd: true))
        #expect(far == .init(sent: volume + 1, received: volume, sawEnd: true))
    }

    @Test("half-close passes in both orders", arguments: [true, false])
    func halfClose(nearEndsFirst: Bool) async throws {
        let (near, far) = try await withBridge(
            near: { scenario, stream in
                let talker = Talker(stream, sending: nearEndsFirst ? 10 : 700_000, seed: 1, expecting: 2)
                talker.finishesAfterPeer = !nearEndsFirst
                Self.talk(scenario, talker)
            },
            far: { scenario, stream in
                let talker = Talker(stream, sending: nearEndsFirst ? 700_000 : 10, seed: 2, expecting: 1)
                talker.finishesAfterPeer = nearEndsFirst
                Self.talk(scenario, talker)
            }
        )
        #expect(near.sawEnd && near.failure == nil && near.received == (nearEndsFirst ? 700_000 : 10))
        #expect(far.sawEnd && far.failure == nil && far.received == (nearEndsFirst ? 10 : 700_000))
    }

    @Test("a relay on the other loop moves bytes on to a socket")
    func relayed() async throws {
        let volume = 3_000_000
        let (near, far) = try await withBridge(
            near: { Self.talk($0, Talker($1, sending: volume, seed: 1, expecting: 2)) },
            far: { (scenario: Scenario<Talker.Outcome>, stream) in
                let (first, second) = try Socket.pair(on: stream.loop)
                Relay(stream, first).start()
                Self.talk(scenario, Talker(second, sending: volume, seed: 2, expecting: 1))
            }
        )
        #expect(near == .init(sent: volume, received: volume, sawEnd: true))
        #expect(far == .init(sent: volume, received: volume, sawEnd: true))
    }

    /// Not so through a pair of sockets, whose reader would see an end.
    @Test("a reset is a failure to the other side, whatever was written before it")
    func reset() async throws {
        let (_, far) = try await withBridge(
            near: { (scenario: Scenario<Bool>, stream) in
                let bytes = [UInt8](repeating: 1, count: 1000)
                #expect(bytes.withUnsafeBytes { stream.write($0) } == .bytes(1000))
                stream.reset(StreamError(.timedOut, "gone"))
                #expect(bytes.withUnsafeBytes { stream.write($0) } == .failed)
                scenario.complete(true)
            },
            far: { Self.talk($0, Talker($1, sending: 0, seed: 2, expecting: 1)) }
        )
        #expect(far.failure?.code == .timedOut && !far.sawEnd, "\(far)")
    }

    @Test("what the end that is reset says beside its reason is known to the other one")
    func farewells() async throws {
        for farewell in [LoopBridge.Farewell.reset, .letGo, .resetByPeer] {
            let (near, far) = try await withBridge(
                near: { (scenario: Scenario<Int>, stream) in
                    var released = 0
                    stream.onRelease = { released += 1 }
                    stream.reset(StreamError(.closed, "gone"), saying: farewell)
                    stream.close()
                    #expect(stream.farewell == nil)
                    scenario.complete(released)
                },
                far: { (scenario: Scenario<LoopBridge.Farewell?>, stream) in
                    let talker = Talker(stream, sending: 0, seed: 2, expecting: 1)
                    scenario.keep(talker)
                    awaitAll([talker]) { _ in scenario.complete(stream.farewell) }
                    talker.start()
                }
            )
            #expect(near == 1 && far == farewell)
        }
    }

    @Test("who is closed before its end has lost bytes; the other side is told")
    func closedEarly() async throws {
        let (_, far) = try await withBridge(
            near: { (scenario: Scenario<Bool>, stream) in
                stream.close()
                scenario.complete(true)
            },
            far: { Self.talk($0, Talker($1, sending: 1_000_000, seed: 2, expecting: 1)) }
        )
        #expect(far.failure?.code == .reset && !far.sawEnd, "\(far)")
    }

    @Test("who has ended and reads no more spoils nothing that it has written")
    func readsNoMore() async throws {
        let (_, far) = try await withBridge(
            near: { (scenario: Scenario<Bool>, stream) in
                let bytes = Array("all of it".utf8)
                #expect(bytes.withUnsafeBytes { stream.write($0) } == .bytes(bytes.count))
                stream.finish()
                stream.close()
                scenario.complete(true)
            },
            far: { (scenario: Scenario<[UInt8]>, stream) in
                let observer = scenario.keep(Observer())
                var text: [UInt8] = []
                var isOver = false
                func read() {
                    var buffer = [UInt8](repeating: 0, count: 100)
                    while !isOver {
                        switch buffer.withUnsafeMutableBytes({ stream.read(into: $0) }) {
                        case .bytes(let count): text += buffer[..<count]
                        case .wouldBlock: return
                        case .failed: return scenario.fail(stream.failure ?? .closed(stream))
                        case .end:
                            isOver = true
                            write()
                        }
                    }
                }
                // The end may be read before the other side is closed: what it then takes in is lost, as in a socket.
                func write() {
                    let rest = [UInt8](repeating: 1, count: 64 << 10)
                    while true {
                        switch rest.withUnsafeBytes({ stream.write($0) }) {
                        case .bytes: continue
                        case .wouldBlock:
                            observer.writable = write
                            return
                        case .failed:
                            #expect(stream.failure?.code == .closed)
                            stream.close()
                            return scenario.complete(text)
                        }
                    }
                }
                observer.readable = read
                stream.observer = observer
                read()
            }
        )
        #expect(far == Array("all of it".utf8))
    }

    @Test("a loop that has shut down is a failure, not a hang")
    func otherLoopIsGone() async throws {
        let (here, there) = (EventLoop(name: "here"), EventLoop(name: "there"))
        let end = try await here.execute {
            let end = LoopBridge(on: here, to: "the other loop")
            _ = end.makeFarEnd(on: there)
            return LoopBound(end, on: here)
        }
        await there.shutDown()
        let outcome: Talker.Outcome = try await onLoop(here) { scenario in
            end.withValue { Self.talk(scenario, Talker($0, sending: 1_000_000, seed: 1, expecting: 2)) }
        }
        #expect(outcome.failure?.code == .reset && !outcome.sawEnd, "\(outcome)")
        await here.shutDown()
    }
}
