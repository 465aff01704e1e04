import Foundation
import TestPeers
import Testing

@testable import MeshPaths

/// Two ends of a resumable stream over carriers that lose, cut and delay, with one schedule at random after the other:
/// what was read is a prefix of what was written, a clean end means all of it, and where a carrier stays up everything
/// arrives.
///
/// `BOOTSTRAP_RESUMPTION_SCHEDULES` says how many (by default 60), `BOOTSTRAP_FUZZ_SEED` where to begin.
@Suite(.timeLimit(.minutes(60))) struct ResumptionModelTests {
    /// What one end sends, as a function of where it stands in the stream.
    private static func byte(_ position: UInt64, of side: Int) -> UInt8 {
        let mixed = (position &+ UInt64(side) &* 7_919) &* 0x9e37_79b9_7f4a_7c15
        return UInt8(truncatingIfNeeded: mixed >> 40)
    }

    /// A carrier: bytes on their way, both ways.
    private final class Carrier {
        var toServer: ArraySlice<UInt8> = []
        var toClient: ArraySlice<UInt8> = []
        /// Nothing more gets in; what is on its way may still arrive.
        var isCut = false
    }

    private struct Broken: Error, CustomStringConvertible {
        let description: String
    }

    /// One end: the numbers under test, and a reader that knows what must come.
    private final class End {
        let side: Int
        var state: ResumptionState
        var input = ResumptionFrameReader()
        var output: ArraySlice<UInt8> = []
        var frameLeft = 0
        var carrier: Carrier?
        /// Arrived and not read.
        var inbound = 0
        var isFinished: Bool { state.hasFinished }

        init(_ side: Int, window: Int) {
            self.side = side
            state = ResumptionState(window: window)
        }

        func leave() {
            carrier = nil
            input = ResumptionFrameReader()
            output = []
            frameLeft = 0
            state.detach()
        }

        func send(_ limit: Int) {
            guard let carrier, !carrier.isCut else { return }
            var bytes: [UInt8] = []
            while bytes.count < limit {
                if !output.isEmpty {
                    let piece = output.prefix(limit - bytes.count)
                    bytes += piece
                    output = output.dropFirst(piece.count)
                } else if frameLeft > 0 {
                    let count = min(frameLeft, limit - bytes.count)
                    for offset in 0..<UInt64(count) {
                        bytes.append(ResumptionModelTests.byte(state.sent + offset, of: side))
                    }
                    state.send(count)
                    frameLeft -= count
                } else if state.owesAcknowledgement {
                    stage(.acknowledgement, state.announce())
                } else if state.unsent > 0 {
                    frameLeft = min(state.unsent, ResumptionFrame.longestData)
                    output = withHeader { ResumptionFrame.writeData(frameLeft, to: $0) }.prefix(4)
                } else if state.owesEnd {
                    state.sendEnd()
                    stage(.end, state.written)
                } else {
                    break
                }
            }
            if side == 0 { carrier.toServer += bytes } else { carrier.toClient += bytes }
        }

        private func stage(_ kind: ResumptionFrame.Kind, _ position: UInt64) {
            output = withHeader { ResumptionFrame.write(kind, position, to: $0) }
        }

        private func withHeader(_ body: (UnsafeMutableRawBufferPointer) -> Void) -> ArraySlice<UInt8> {
            var bytes = [UInt8](repeating: 0, count: 12)
            bytes.withUnsafeMutableBytes(body)
            return bytes[...]
        }

        func receive(_ limit: Int) throws {
            guard let carrier else { return }
            let piece = (side == 0 ? carrier.toClient : carrier.toServer).prefix(limit)
            if side == 0 {
                carrier.toClient = carrier.toClient.dropFirst(piece.count)
            } else {
                carrier.toServer = carrier.toServer.dropFirst(piece.count)
            }
            try Array(piece).withUnsafeBytes { bytes in
                var rest = bytes
                while !rest.isEmpty {
                    if input.dataLeft > 0 {
                        let count = min(input.dataLeft, rest.count)
                        let before = state.arrived
                        let new = try state.receive(count)
                        for index in (count - new)..<count {
                            let position = before + UInt64(index - (count - new))
                            guard rest[index] == ResumptionModelTests.byte(position, of: 1 - side) else {
                                throw Broken(description: "another byte at \(position) of \(1 - side)")
                            }
                        }
                        inbound += new
                        input.took(count)
                        rest = UnsafeRawBufferPointer(rebasing: rest[count...])
                        continue
                    }
                    switch try input.read(&rest) {
                    case .acknowledgement(let position):
                        _ = try state.acknowledge(position)
                        guard state.acknowledged <= state.sent else {
                            throw Broken(description: "\(position) is acknowledged, and was not sent on this carrier")
                        }
                    case .end(let position): try state.receiveEnd(at: position)
                    case .data, nil: break
                    }
                }
            }
        }

        func read(_ limit: Int) {
            let count = min(limit, inbound)
            inbound -= count
            state.deliver(count)
            if state.isAtEnd, !state.isEndDelivered { state.deliverEnd() }
        }
    }

    /// One schedule.
    private struct World {
        var fuzzer: Fuzzer
        let client: End
        let server: End
        /// Asked and not answered: a generation, and where the server goes on.
        var requests: [(generation: UInt64, position: UInt64)] = []
        /// Answered: where the client goes on.
        var answers: [(generation: UInt64, position: UInt64, carrier: Carrier)] = []
        /// The client's last request.
        var asked: (generation: UInt64, position: UInt64)?
        var generation: UInt64 = 0
        var resumptions = 0
        /// How often a side might have written and had no room.
        var shortages = 0

        /// - Parameter window: Small ones are used up again and again, and the real one hardly ever.
        init(_ fuzzer: Fuzzer, window: Int) {
            self.fuzzer = fuzzer
            client = End(0, window: window)
            server = End(1, window: window)
            let carrier = Carrier()
            client.carrier = carrier
            server.carrier = carrier
        }

        mutating func step() throws {
            let end = fuzzer.below(2) == 0 ? client : server
            switch fuzzer.below(20) {
            case 0...3:
                // Now and then so much that the window is used up.
                let size = [60, 60, 60, 2_000, 2_000, 20_000, 20_000, 700_000][fuzzer.below(8)]
                guard !end.isFinished else { break }
                end.state.write(min(end.state.room, fuzzer.below(size)))
                if end.state.room == 0 { shortages += 1 }
            case 4...6: end.send(1 + fuzzer.below(fuzzer.below(3) == 0 ? 100_000 : 40))
            case 7...10: try end.receive(1 + fuzzer.below(fuzzer.below(3) == 0 ? 200_000 : 40))
            case 11...13: end.read(1 + fuzzer.below(100_000))
            case 14: if fuzzer.below(12) == 0 { _ = end.state.finish() }
            case 15: cut(end.carrier)
            case 16: if end.carrier?.isCut == true || fuzzer.below(30) == 0 { end.leave() }
            case 17: ask()
            case 18: try answer()
            default: try takeAnswer()
            }
        }

        /// What is on its way is lost from some byte on, each way.
        mutating func cut(_ carrier: Carrier?) {
            guard let carrier, !carrier.isCut, fuzzer.below(3) == 0 else { return }
            carrier.isCut = true
            carrier.toServer = carrier.toServer.prefix(fuzzer.below(carrier.toServer.count + 1))
            carrier.toClient = carrier.toClient.prefix(fuzzer.below(carrier.toClient.count + 1))
        }

        /// Also while there is a carrier: a better path is taken, or both were lost on the way.
        mutating func ask() {
            generation += 1
            let position = client.state.ask()
            asked = (generation, position)
            requests.append((generation, position))
        }

        /// In any order, and one may be lost.
        mutating func answer() throws {
            guard !requests.isEmpty else { return }
            let request = requests.remove(at: fuzzer.below(requests.count))
            let isLost = fuzzer.below(5) == 0
            let position = server.state.position
            do {
                try server.state.check(generation: request.generation, position: request.position)
            } catch {
                // One that the client has given up may come late, and is refused.
                guard request.generation < generation || request.generation <= server.state.generation else {
                    throw error
                }
                return
            }
            let carrier = Carrier()
            server.leave()
            try server.state.attach(generation: request.generation, position: request.position)
            server.carrier = carrier
            if isLost { carrier.isCut = true } else { answers.append((request.generation, position, carrier)) }
        }

        mutating func takeAnswer() throws {
            guard !answers.isEmpty else { return }
            let answer = answers.remove(at: fuzzer.below(answers.count))
            guard let asked, answer.generation == asked.generation else {
                answer.carrier.isCut = true
                return
            }
            self.asked = nil
            client.leave()
            try client.state.attach(generation: answer.generation, position: answer.position, asked: asked.position)
            client.carrier = answer.carrier
            resumptions += 1
        }

        /// From now on nothing is cut: both finish, and everything must arrive.
        mutating func settle() throws {
            requests = []
            answers = []
            for end in [client, server] where !end.isFinished { _ = end.state.finish() }
            ask()
            try answerForSure()
            for _ in 0..<200 {
                for end in [client, server] {
                    end.send(ResumptionFrame.longestData)
                    end.read(1 << 20)
                }
                for end in [client, server] { try end.receive(1 << 21) }
                if client.state.isOver, server.state.isOver { break }
            }
            guard client.state.isOver, server.state.isOver else {
                throw Broken(description: "stands still: \(client.state) \(server.state)")
            }
            guard client.state.delivered == server.state.written, server.state.delivered == client.state.written else {
                throw Broken(description: "a clean end without all bytes")
            }
        }

        private mutating func answerForSure() throws {
            guard let asked else { return }
            requests = []
            let position = server.state.position
            let carrier = Carrier()
            server.leave()
            try server.state.attach(generation: asked.generation, position: asked.position)
            server.carrier = carrier
            client.leave()
            try client.state.attach(generation: asked.generation, position: position, asked: asked.position)
            client.carrier = carrier
        }
    }

    @Test("two ends over a medium that loses, cuts and delays") func schedules() throws {
        let count =
            ProcessInfo.processInfo.environment["BOOTSTRAP_RESUMPTION_SCHEDULES"].flatMap { Int($0) } ?? 60
        var seeds = Fuzzer("resumption, \(count) schedules")
        let windows = [1000, 64 << 10, 1 << 20, ResumptionState.defaultWindow]
        var resumptions = 0
        var shortages = 0
        for number in 0..<count {
            // Beyond what a schedule draws: each is to be another one, not the last one a draw later.
            for _ in 0..<10_000 { _ = seeds.next() }
            var world = World(seeds, window: windows[number % windows.count])
            do {
                for _ in 0..<(50 + world.fuzzer.below(250)) { try world.step() }
                try world.settle()
            } catch {
                Issue.record("schedule \(number) of seed \(seeds.seed): \(error)")
                return
            }
            resumptions += world.resumptions
            shortages += world.shortages
        }
        print("\(count) schedules, \(resumptions) resumptions, \(shortages) windows used up")
        // Schedules in which nothing happens would test nothing.
        #expect(resumptions > count / 2)
        #expect(shortages > count)
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
