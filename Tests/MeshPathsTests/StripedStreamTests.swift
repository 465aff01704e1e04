import Streams
import TestPeers
import Testing

@testable import MeshPaths

/// Striped streams over pipes in memory: order, ends, failures. Nothing here waits for a clock.
@Suite(.timeLimit(.minutes(10))) struct StripedStreamTests {
    /// Both ends of a striped stream, and of its subflows.
    private final class Ends {
        let client: StripedStream
        let server: StripedStream
        private(set) var lower: [(MemoryStream, MemoryStream)] = []

        init(on loop: EventLoop, capacities: [Int]) {
            lower = capacities.map { MemoryStream.pair(on: loop, capacity: $0) }
            let preface = StripePreface()
            client = StripedStream(preface, over: lower[0].0, as: .client)
            Ends.skipPreface(lower[0].1)
            server = StripedStream(preface, over: lower[0].1, as: .server)
        }

        /// Adds the other subflows.
        func widen() {
            for (near, far) in lower.dropFirst() { widen(near, far) }
        }

        func widen(_ near: MemoryStream, _ far: MemoryStream) {
            client.add(near)
            Ends.skipPreface(far)
            server.add(far)
        }

        /// What the acceptor does.
        static func skipPreface(_ stream: MemoryStream) {
            var bytes = [UInt8](repeating: 0, count: StripePreface.length)
            let result = bytes.withUnsafeMutableBytes { stream.read(into: $0) }
            #expect(result == .bytes(StripePreface.length))
            #expect(StripePreface(bytes) != nil)
        }
    }

    /// Sends a pattern and reads to the end.
    private final class Party: StreamObserver {
        let stream: ByteStream
        private let size: Int
        private var pending: ArraySlice<UInt8>
        private(set) var received: [UInt8] = []
        private var readEnded = false
        private(set) var outcome: StreamError??
        private let done: () -> Void
        private let step: Int

        init(_ stream: ByteStream, send size: Int, seed: UInt64, step: Int = 100_000, done: @escaping () -> Void) {
            self.stream = stream
            self.size = size
            self.step = step
            self.done = done
            pending = Pattern.bytes(size, seed: seed)[...]
            stream.observer = self
        }

        func start() {
            write()
            read()
        }

        func streamReadable(_ stream: ByteStream) { read() }
        func streamWritable(_ stream: ByteStream) { write() }
        func streamFailed(_ stream: ByteStream) { end(stream.failure) }

        private func write() {
            while outcome == nil, !pending.isEmpty {
                switch pending.prefix(step).withUnsafeBytes({ stream.write($0) }) {
                case .bytes(let count):
                    pending = pending.dropFirst(count)
                    guard pending.isEmpty else { continue }
                    stream.finish()
                    if readEnded { end(nil) }
                case .wouldBlock: return
                case .failed: return end(stream.failure)
                }
            }
        }

        private func read() {
            var buffer = [UInt8](repeating: 0, count: step)
            while outcome == nil, !readEnded {
                switch buffer.withUnsafeMutableBytes({ stream.read(into: $0) }) {
                case .bytes(let count): received += buffer[..<count]
                case .wouldBlock: return
                case .end:
                    readEnded = true
                    return pending.isEmpty ? end(nil) : ()
                case .failed: return end(stream.failure)
                }
            }
        }

        private func end(_ error: StreamError?) {
            guard outcome == nil else { return }
            outcome = .some(error)
            done()
        }
    }

    private struct Outcome: Sendable {
        var received: [String]
        var failures: [StreamError?]
    }

    /// Runs a conversation of `size` bytes each way and returns what client and server saw.
    private func converse(
        _ capacities: [Int],
        size: Int,
        step: Int = 100_000,
        interfere: @escaping @Sendable (borrowing InterferencePoint) -> Void = { _ in }
    ) async throws -> Outcome {
        let loop = EventLoop(name: "striped")
        let kept = LoopBound(Kept(), on: loop)
        let outcome: Outcome = await withCheckedContinuation { continuation in
            loop.submit {
                let ends = Ends(on: loop, capacities: capacities)
                var parties: [Party] = []
                let check = {
                    guard parties.count == 2, parties.allSatisfy({ $0.outcome != nil }) else { return }
                    let result = Outcome(
                        received: parties.map { Checksum.of($0.received) },
                        failures: parties.map { $0.outcome ?? nil }
                    )
                    for party in parties {
                        if party.outcome == .some(nil) {
                            party.stream.close()
                        } else {
                            party.stream.reset(StreamError(.closed, "done"))
                        }
                    }
                    for (near, far) in ends.lower {
                        near.close()
                        far.close()
                    }
                    parties = []
                    kept.withValue { $0.objects = [] }
                    continuation.resume(returning: result)
                }
                parties = [
                    Party(ends.client, send: size, seed: 1, step: step, done: check),
                    Party(ends.server, send: size, seed: 2, step: step, done: check),
                ]
                kept.withValue { $0.objects = parties + [ends] }
                ends.client.establish { result in
                    guard case .success = result else {
                        Issue.record("not established: \(result)")
                        return
                    }
                    let client = parties.first
                    client?.start()
                    ends.widen()
                    interfere(InterferencePoint(lower: ends.lower.map(\.0), far: ends.lower.map(\.1)))
                }
                parties.last?.start()
            }
        }
        let buffers = try await loop.execute { loop.buffers.buffersInUse }
        #expect(buffers == 0)
        await loop.shutDown()
        return outcome
    }

    private final class Kept { var objects: [AnyObject] = [] }

    struct InterferencePoint: ~Copyable {
        let lower: [MemoryStream]
        let far: [MemoryStream]
    }

    @Test(
        arguments: [[65536], [65536, 65536, 65536, 65536], [1, 70_000, 333, 8], [5, 5], [40_000, 17]],
        [1, 300_001]
    )
    func bytesArriveInOrder(_ capacities: [Int], _ size: Int) async throws {
        // The preface must fit into the first pipe, since nobody reads it bit by bit here.
        let capacities = [max(capacities[0], StripePreface.length)] + capacities.dropFirst().map { max($0, 24) }
        for step in [1000, 100_000] {
            let outcome = try await converse(capacities, size: size, step: step)
            #expect(outcome.failures == [nil, nil])
            #expect(outcome.received == [Pattern.checksum(size, seed: 2), Pattern.checksum(size, seed: 1)])
        }
    }

    @Test func aSubflowThatFailsFailsTheStream() async throws {
        let outcome = try await converse([65536, 65536], size: 3_000_000) { point in
            point.lower[1].reset(StreamError(.reset, "cut"))
        }
        #expect(outcome.failures.allSatisfy { $0 != nil })
    }

    @Test func anEndWithoutTheLastFrameIsNoEnd() async throws {
        let outcome: StreamError? = try await onOneLoop { loop, completion in
            let ends = Ends(on: loop, capacities: [65536])
            var party: Party?
            party = Party(ends.server, send: 1, seed: 1) {
                // Not from inside of a read.
                loop.later {
                    #expect(party?.received.count == 100)
                    completion(party?.outcome ?? nil)
                    party = nil
                    ends.client.reset(StreamError(.closed, "done"))
                    ends.server.reset(StreamError(.closed, "done"))
                }
            }
            party?.start()
            ends.client.establish { _ in
                let sent = [UInt8](repeating: 7, count: 100).withUnsafeBytes { ends.client.write($0) }
                #expect(sent == .bytes(100))
                // The subflow ends in order, the stream does not.
                ends.lower[0].0.finish()
            }
        }
        #expect(outcome?.code == .truncated)
    }

    /// The server is known: what there is to say goes with the preface, and the answer is seen by whoever reads first.
    @Test func whoeverIsKnownIsNotWaitedFor() async throws {
        let received: [UInt8] = try await onOneLoop { loop, completion in
            let (near, far) = MemoryStream.pair(on: loop)
            let preface = StripePreface()
            let client = StripedStream(preface, over: near, as: .client)
            var answers: [Bool] = []
            client.establish(trusting: true) { result in
                if case .success = result { answers.append(true) } else { answers.append(false) }
            }
            #expect(Pattern.bytes(5000).withUnsafeBytes { client.write($0) } == .bytes(5000))
            client.finish()
            #expect(answers.isEmpty, "nothing has been answered")
            Ends.skipPreface(far)
            let server = StripedStream(preface, over: far, as: .server)
            var party: Party?
            party = Party(server, send: 3000, seed: 2) {
                let bytes = party?.received ?? []
                party = nil
                var back: Party?
                back = Party(client, send: 0, seed: 1) {
                    #expect(back?.received.count == 3000)
                    back = nil
                    // Not from inside of a read.
                    loop.later {
                        #expect(answers == [true])
                        client.reset(StreamError(.closed, "done"))
                        server.reset(StreamError(.closed, "done"))
                        completion(bytes)
                    }
                }
                back?.start()
            }
            party?.start()
        }
        #expect(Checksum.of(received) == Pattern.checksum(5000))
    }

    @Test func whoeverIsWronglyKnownBreaksTheStream() async throws {
        let outcome: StreamError? = try await onOneLoop { loop, completion in
            let (near, far) = MemoryStream.pair(on: loop)
            let stream = StripedStream(StripePreface(), over: near, as: .client)
            _ = Array("HTTP/1.1 400".utf8).withUnsafeBytes { far.write($0) }
            let party = Party(stream, send: 10, seed: 1) {}
            stream.establish(trusting: true) { result in
                guard case .failure(let error) = result else { return completion(nil) }
                // Whoever uses it is told as well.
                #expect(stream.failure != nil)
                completion(error)
                stream.reset(StreamError(.closed, "done"))
                far.close()
                _ = party
            }
            party.start()
        }
        #expect(outcome?.code == .protocolViolation)
    }

    @Test func whoeverDoesNotAnswerAsAStripedStreamDoesIsNone() async throws {
        let outcome: StreamError? = try await onOneLoop { loop, completion in
            let (near, far) = MemoryStream.pair(on: loop)
            let stream = StripedStream(StripePreface(), over: near, as: .client)
            _ = Array("HTTP/1.1 400".utf8).withUnsafeBytes { far.write($0) }
            stream.establish { result in
                if case .failure(let error) = result { completion(error) } else { completion(nil) }
                far.close()
            }
        }
        #expect(outcome?.code == .protocolViolation)
    }

    @Test func aFrameThatIsTooLongIsRefused() async throws {
        let outcome: StreamError? = try await onOneLoop { loop, completion in
            let (near, far) = MemoryStream.pair(on: loop)
            let stream = StripedStream(StripePreface(), over: near, as: .server)
            let header: [UInt8] = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]
            _ = header.withUnsafeBytes { far.write($0) }
            var party: Party?
            party = Party(stream, send: 1, seed: 1) {
                // Not from inside of a read.
                loop.later {
                    completion(party?.outcome ?? nil)
                    party = nil
                    stream.reset(StreamError(.closed, "done"))
                    far.close()
                }
            }
            party?.start()
        }
        #expect(outcome?.code == .protocolViolation)
    }

    /// Nobody else keeps a stream that was finished and closed: what it had accepted arrives.
    @Test func aStreamThatIsClosedAtOnceDeliversWhatItHadAccepted() async throws {
        let received: [UInt8] = try await onOneLoop { loop, completion in
            let pairs = [MemoryStream.pair(on: loop, capacity: 30), MemoryStream.pair(on: loop, capacity: 30)]
            let preface = StripePreface()
            var client: StripedStream? = StripedStream(preface, over: pairs[0].0, as: .client)
            Ends.skipPreface(pairs[0].1)
            let server = StripedStream(preface, over: pairs[0].1, as: .server)
            client?.add(pairs[1].0)
            Ends.skipPreface(pairs[1].1)
            server.add(pairs[1].1)
            var party: Party?
            client?.establish { _ in
                let sent = Pattern.bytes(5000).withUnsafeBytes { client?.write($0) }
                #expect(sent == .bytes(5000))
                client?.finish()
                client?.close()
                client = nil
                party = Party(server, send: 1, seed: 1) {
                    completion(party?.received ?? [])
                    server.reset(StreamError(.closed, "done"))
                    party = nil
                }
                party?.start()
            }
        }
        #expect(Checksum.of(received) == Pattern.checksum(5000))
    }

    private func onOneLoop<Success: Sendable>(
        _ body: @escaping @Sendable (EventLoop, @escaping (Success) -> Void) -> Void
    ) async throws -> Success {
        let loop = EventLoop(name: "striped")
        let result: Success = await withCheckedContinuation { continuation in
            loop.submit { body(loop) { continuation.resume(returning: $0) } }
        }
        await loop.shutDown()
        return result
    }
}
