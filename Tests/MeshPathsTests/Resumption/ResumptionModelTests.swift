import Foundation
import Streams
import TestPeers
import Testing

@testable import MeshPaths

/// Resumable streams, several of them on one connection, over carriers that lose, cut and delay, with one schedule at
/// random after the other: what was read is a prefix of what was written, a clean end means all of it, where a
/// connection stays up everything arrives, and no writer waits for room that nobody tells it of.
///
/// `BOOTSTRAP_RESUMPTION_SCHEDULES` says how many (by default 60), `BOOTSTRAP_FUZZ_SEED` where to begin.
@Suite(.timeLimit(.minutes(60))) struct ResumptionModelTests {
    @Test("streams of shared connections over a medium that loses, cuts and delays") func schedules() async throws {
        let count =
            ProcessInfo.processInfo.environment["BOOTSTRAP_RESUMPTION_SCHEDULES"].flatMap { Int($0) } ?? 60
        var seeds = Fuzzer("resumption, \(count) schedules")
        let loop = EventLoop(name: "model")
        var totals = ModelledWorld.Totals()
        for number in 0..<count {
            // Beyond what a schedule draws: each is to be another one, not the last one a draw later.
            for _ in 0..<10_000 { _ = seeds.next() }
            let fuzzer = seeds
            // In one turn of the loop, so that no timer of it comes in between: time passes where a schedule says so.
            let result: Result<ModelledWorld.Totals, ModelFailure> = try await loop.execute {
                let world = ModelledWorld(fuzzer, number, on: loop)
                defer { world.end() }
                do {
                    try world.run()
                    return .success(world.totals)
                } catch {
                    return .failure(ModelFailure(description: "\(error)"))
                }
            }
            switch result {
            case .success(let more): totals.add(more)
            case .failure(let error):
                Issue.record("schedule \(number) of seed \(seeds.seed): \(error)")
                return await loop.shutDown()
            }
        }
        await loop.shutDown()
        print("\(count) schedules: \(totals)")
        // Schedules in which nothing happens would test nothing.
        #expect(totals.resumptions > count / 2)
        #expect(totals.shortages > count)
        #expect(totals.turns > count / 4)
    }

    /// Whatever a peer says, in frames that read as such: a carrier that breaks the rules ends, and the stream goes on
    /// over the next one with nothing lost.
    @Test("a peer that says anything ends its carrier, and nothing more") func hostile() throws {
        var fuzzer = Fuzzer("a hostile peer of a resumable stream")
        var refusals = 0
        for round in 0..<3000 {
            let window = [1000, 64 << 10, ResumptionState.defaultWindow][round % 3]
            let (end, peer) = (ModelledEnd(0, of: 0, window: window), ModelledEnd(1, of: 0, window: window))
            end.state.write(min(window, fuzzer.below(3000)))
            end.state.send(fuzzer.below(end.state.unsent + 1))
            if fuzzer.below(3) == 0, end.state.unsent == 0, end.state.finish() { end.state.sendEnd() }
            peer.state.write(min(window, fuzzer.below(3000)))
            do {
                for _ in 0..<(1 + fuzzer.below(8)) {
                    try end.take(Self.frame(&fuzzer, end, peer))
                    end.read(fuzzer.below(2000))
                }
            } catch is ResumptionViolation {
                refusals += 1
            }
            #expect(end.state.acknowledged <= end.state.sent && end.state.delivered <= end.state.arrived)
            #expect(end.state.end.map { $0 == end.state.arrived } ?? true)
            // Positions are no better when they come with a request.
            let position = Self.position(&fuzzer, end)
            end.leave()
            if (try? end.state.attach(generation: 1, position: position)) != nil {
                #expect(end.state.sent >= end.state.acknowledged && end.state.sent <= end.state.written)
            }
            #expect(end.state.sent <= end.state.written && end.state.room >= 0)
        }
        #expect(refusals > 1000)
    }

    /// Near what is right, or far from it.
    private static func position(_ fuzzer: inout Fuzzer, _ end: ModelledEnd) -> UInt64 {
        let state = end.state
        let near: [UInt64] = [state.acknowledged, state.sent, state.written, state.arrived, 0, .max, 1 << 63]
        return near[fuzzer.below(near.count)] &+ UInt64(fuzzer.below(4)) &- 1
    }

    private static func frame(_ fuzzer: inout Fuzzer, _ end: ModelledEnd, _ peer: ModelledEnd) -> [UInt8] {
        var header = [UInt8](repeating: 0, count: 12)
        switch fuzzer.below(5) {
        case 0, 1:
            let left = Int(clamping: peer.state.written &- min(end.state.arrived, peer.state.written))
            let count = min(left, 1 + fuzzer.below(400))
            // An empty frame, or one of a kind that is none.
            guard count > 0 else { return [UInt8(fuzzer.below(2) * 7), 0, 0, 0] }
            header.withUnsafeMutableBytes { ResumptionFrame.writeData(count, to: $0) }
            return Array(header[..<4]) + ModelledBytes.of(side: 1, stream: 0, from: end.state.arrived, count)
        case 2, 3:
            let position = Self.position(&fuzzer, end)
            header.withUnsafeMutableBytes { ResumptionFrame.write(.acknowledgement, position, to: $0) }
        default:
            let position = Self.position(&fuzzer, end)
            header.withUnsafeMutableBytes { ResumptionFrame.write(.end, position, to: $0) }
        }
        return header
    }

    // MARK: What is refused

    @Test("an acknowledgement of what was never sent, or of less than before, is refused") func acknowledgements()
        throws
    {
        var state = ResumptionState()
        state.write(100)
        state.send(60)
        #expect(try state.acknowledge(40) == 40)
        #expect(throws: ResumptionViolation.self) { _ = try state.acknowledge(61) }
        #expect(throws: ResumptionViolation.self) { _ = try state.acknowledge(39) }
        #expect(throws: ResumptionViolation.self) { _ = try state.acknowledge(.max) }
        #expect(try state.acknowledge(60) == 20)
        #expect(state.room == state.window - 40)
    }

    /// The old carrier goes on bringing bytes while the request for the next one is under way.
    @Test("what comes again is acknowledged when it has, and what was not sent again is not acknowledged")
    func repetition() throws {
        var (sender, reader) = (ResumptionState(), ResumptionState())
        sender.write(100)
        sender.send(100)
        _ = sender.finish()
        sender.sendEnd()
        #expect(try reader.receive(40) == 40)
        reader.deliver(40)
        let asked = reader.ask()
        #expect(try reader.receive(60) == 60)
        try reader.receiveEnd(at: 100)
        reader.deliver(60)
        reader.deliverEnd()
        #expect(reader.announce() == 40)

        try sender.attach(generation: 1, position: asked)
        try reader.attach(generation: 1, position: 0, asked: asked)
        #expect(reader.announce() == 40 && !reader.owesAcknowledgement)
        #expect(try sender.acknowledge(40) == 40)
        sender.send(10)
        #expect(try reader.receive(10) == 0)
        #expect(reader.announce() == 50)
        #expect(try sender.acknowledge(50) == 10 && sender.sentAndKept == 0)
        // A peer that does otherwise ends its carrier, and nothing more.
        for position in [51, 100, 101] as [UInt64] {
            #expect(throws: ResumptionViolation.self) { _ = try sender.acknowledge(position) }
        }
        #expect(sender.acknowledged == 50 && !sender.isEndAcknowledged)
        sender.send(50)
        #expect(try reader.receive(50) == 0)
        #expect(reader.announce() == 100 && !reader.mayEndCarrier)
        sender.sendEnd()
        try reader.receiveEnd(at: 100)
        #expect(reader.announce() == 101)
        #expect(try sender.acknowledge(101) == 50 && sender.isEndAcknowledged)
    }

    @Test("a position is good between what was acknowledged and what was sent, a generation once") func positions()
        throws
    {
        var state = ResumptionState()
        state.write(100)
        state.send(80)
        _ = try state.acknowledge(30)
        for position in [0, 29, 81, 100, 1 << 40] as [UInt64] {
            #expect(throws: ResumptionViolation.self) { try state.attach(generation: 1, position: position) }
        }
        #expect(state.generation == 0)
        try state.attach(generation: 1, position: 30)
        #expect(state.sent == 30 && state.unsent == 70)
        #expect(throws: ResumptionViolation.self) { try state.attach(generation: 1, position: 40) }
        #expect(throws: ResumptionViolation.self) { try state.attach(generation: 0, position: 40) }
        try state.attach(generation: 7, position: 80)
        #expect(state.sent == 80)
    }

    @Test("an end is a fact with a number: once, behind the last byte, and known when it was acknowledged") func ends()
        throws
    {
        var state = ResumptionState()
        #expect(throws: ResumptionViolation.self) { try state.receiveEnd(at: 1) }
        _ = try state.receive(5)
        try state.receiveEnd(at: 5)
        #expect(throws: ResumptionViolation.self) { try state.receiveEnd(at: 5) }
        #expect(throws: ResumptionViolation.self) { _ = try state.receive(1) }
        #expect(!state.isAtEnd && state.position == 6)
        state.deliver(5)
        #expect(state.isAtEnd)

        state.write(3)
        #expect(state.finish() && !state.finish() && !state.owesEnd)
        state.send(3)
        #expect(throws: ResumptionViolation.self) { _ = try state.acknowledge(4) }
        #expect(state.owesEnd)
        state.sendEnd()
        _ = try state.acknowledge(4)
        #expect(state.isEndAcknowledged)
    }

    @Test("more than a window without acknowledgement is refused") func window() throws {
        var state = ResumptionState()
        _ = try state.receive(state.window)
        #expect(throws: ResumptionViolation.self) { _ = try state.receive(1) }
        state.deliver(1000)
        #expect(throws: ResumptionViolation.self) { _ = try state.receive(1) }
        _ = state.announce()
        _ = try state.receive(1000)
    }
}
