import Streams
import TestPeers

@testable import MeshPaths

/// One schedule: streams between the same two nodes, which share connections, and what happens to them. Confined to its
/// loop, of which it takes one turn.
final class ModelledWorld {
    struct Totals: Sendable, CustomStringConvertible {
        var streams = 0
        var resumptions = 0
        /// How often a side might have written and had no room.
        var shortages = 0
        /// Among them, for what the other streams of the connection kept.
        var turns = 0
        /// How often nothing but time helped, once nothing was cut any more.
        var pauses = 0

        mutating func add(_ other: Totals) {
            streams += other.streams
            resumptions += other.resumptions
            shortages += other.shortages
            turns += other.turns
            pauses += other.pauses
        }

        var description: String {
            "\(streams) streams, \(resumptions) resumptions, \(shortages) shortages, \(turns) of them for the others "
                + "of a connection, \(pauses) pauses"
        }
    }

    private struct Stream {
        let ends: [ModelledEnd]
        /// Asked and not answered: a generation, and where the server goes on.
        var requests: [(generation: UInt64, position: UInt64)] = []
        /// Answered: where the client goes on.
        var answers: [(generation: UInt64, position: UInt64, carrier: ModelledCarrier)] = []
        /// The client's last request.
        var asked: (generation: UInt64, position: UInt64)?
        var generation: UInt64 = 0

        var client: ModelledEnd { ends[0] }
        var server: ModelledEnd { ends[1] }
    }

    private var fuzzer: Fuzzer
    private let loop: EventLoop
    /// Of what all streams of a connection keep.
    private let limit: Int?
    private var streams: [Stream] = []
    private var connections: [ModelledConnection] = []
    private(set) var totals = Totals()

    /// Small windows are used up again and again, and the real one hardly ever.
    private static let windows = [1000, 64 << 10, 1 << 20, ResumptionState.defaultWindow]

    init(_ fuzzer: Fuzzer, _ number: Int, on loop: EventLoop) {
        var fuzzer = fuzzer
        limit = [nil, 128 << 10, 256 << 10][fuzzer.below(3)]
        self.fuzzer = fuzzer
        self.loop = loop
        let window = Self.windows[number % Self.windows.count]
        for number in 0..<(1 + self.fuzzer.below(6)) {
            let stream = Stream(ends: (0..<2).map { ModelledEnd($0, of: number, window: window) })
            let carrier = newCarrier()
            for end in stream.ends { end.join(carrier) }
            streams.append(stream)
        }
        totals.streams = streams.count
    }

    private var ends: [ModelledEnd] { streams.flatMap(\.ends) }

    /// On a connection that there is, or on another one.
    private func newCarrier() -> ModelledCarrier {
        let standing = connections.filter { !$0.isCut }
        if !standing.isEmpty, fuzzer.below(3) > 0 {
            return ModelledCarrier(of: standing[fuzzer.below(standing.count)])
        }
        let connection = ModelledConnection(on: loop, limit: limit)
        connections.append(connection)
        return ModelledCarrier(of: connection)
    }

    func run() throws {
        for _ in 0..<(60 + fuzzer.below(200)) * streams.count { try step() }
        try settle()
        end()
        for connection in connections {
            for shared in connection.shared where shared.kept != 0 || shared.owed != 0 {
                throw ModelFailure(description: "\(shared.kept) kept and \(shared.owed) owed by nobody")
            }
        }
    }

    func end() { for end in ends { end.leave() } }

    // MARK: Steps

    private func step() throws {
        let number = fuzzer.below(streams.count)
        let end = streams[number].ends[fuzzer.below(2)]
        switch fuzzer.below(22) {
        case 0...3:
            // Now and then so much that the window is used up.
            let size = [60, 60, 60, 2_000, 2_000, 20_000, 20_000, 700_000][fuzzer.below(8)]
            write(end, fuzzer.below(size))
        case 4...6: end.send(1 + fuzzer.below(fuzzer.below(3) == 0 ? 100_000 : 40))
        case 7...10: try end.receive(1 + fuzzer.below(fuzzer.below(3) == 0 ? 200_000 : 40))
        case 11...13: end.read(1 + fuzzer.below(100_000))
        case 14: if fuzzer.below(12) == 0 { _ = end.state.finish() }
        case 15: cut(end.carrier)
        case 16: if end.carrier?.isCut == true || fuzzer.below(30) == 0 { end.leave() }
        case 17: ask(number)
        case 18: try answer(number)
        case 19: try takeAnswer(number)
        case 20: end.acknowledgeNow()
        default:
            guard let connection = end.carrier?.connection else { break }
            if fuzzer.below(4) == 0 { connection.look() } else { connection.turn() }
        }
    }

    @discardableResult private func write(_ end: ModelledEnd, _ count: Int) -> Int {
        let wasRefused = end.isRefused
        let accepted = end.write(count)
        guard end.isRefused, !wasRefused else { return accepted }
        totals.shortages += 1
        if end.carriedPart.isWaiting { totals.turns += 1 }
        return accepted
    }

    /// What is on its way is lost from some byte on, each way; of one stream, or of all on its connection.
    private func cut(_ carrier: ModelledCarrier?) {
        guard let carrier, !carrier.isCut, fuzzer.below(3) == 0 else { return }
        let connection = carrier.connection
        if fuzzer.below(2) == 0 { connection.isCut = true }
        for carrier in connection.isCut ? connection.carriers : [carrier] where !carrier.isCut {
            carrier.isCut = true
            carrier.toServer = carrier.toServer.prefix(fuzzer.below(carrier.toServer.count + 1))
            carrier.toClient = carrier.toClient.prefix(fuzzer.below(carrier.toClient.count + 1))
        }
    }

    /// Also while there is a carrier: a better path is taken, or both were lost on the way.
    private func ask(_ number: Int) {
        streams[number].generation += 1
        let position = streams[number].client.state.ask()
        let request = (generation: streams[number].generation, position: position)
        streams[number].asked = request
        streams[number].requests.append(request)
    }

    /// In any order, and one may be lost.
    private func answer(_ number: Int) throws {
        guard !streams[number].requests.isEmpty else { return }
        let request = streams[number].requests.remove(at: fuzzer.below(streams[number].requests.count))
        let isLost = fuzzer.below(5) == 0
        let server = streams[number].server
        do {
            try server.state.check(generation: request.generation, position: request.position)
        } catch {
            // One that the client has given up may come late, and is refused.
            guard request.generation < streams[number].generation || request.generation <= server.state.generation
            else { throw error }
            return
        }
        let (carrier, position) = try resume(server, request)
        if isLost {
            carrier.isCut = true
        } else {
            streams[number].answers.append((request.generation, position, carrier))
        }
    }

    private func resume(
        _ server: ModelledEnd,
        _ request: (generation: UInt64, position: UInt64)
    ) throws -> (ModelledCarrier, position: UInt64) {
        let position = server.state.position
        let carrier = newCarrier()
        server.leave()
        try server.state.attach(generation: request.generation, position: request.position)
        server.join(carrier)
        return (carrier, position)
    }

    private func takeAnswer(_ number: Int) throws {
        guard !streams[number].answers.isEmpty else { return }
        let answer = streams[number].answers.remove(at: fuzzer.below(streams[number].answers.count))
        guard let asked = streams[number].asked, answer.generation == asked.generation else {
            answer.carrier.isCut = true
            return
        }
        try goOn(number, asked, answer.position, answer.carrier)
        totals.resumptions += 1
    }

    private func goOn(
        _ number: Int,
        _ asked: (generation: UInt64, position: UInt64),
        _ position: UInt64,
        _ carrier: ModelledCarrier
    ) throws {
        streams[number].asked = nil
        let client = streams[number].client
        client.leave()
        try client.state.attach(generation: asked.generation, position: position, asked: asked.position)
        client.join(carrier)
    }

    // MARK: The end

    /// From now on nothing is cut: each writes something more, and everything must arrive. A writer that was refused
    /// waits until it is told.
    private func settle() throws {
        for connection in connections { connection.isCut = true }
        for number in streams.indices {
            (streams[number].requests, streams[number].answers) = ([], [])
            ask(number)
            guard let asked = streams[number].asked else { continue }
            streams[number].requests = []
            let (carrier, position) = try resume(streams[number].server, asked)
            try goOn(number, asked, position, carrier)
        }
        let ends = ends
        var left = ends.map { $0.isFinished ? 0 : fuzzer.below(400_000) }
        var pauses = 0
        for _ in 0..<20_000 {
            let before = ends.map(\.progress)
            for (index, end) in ends.enumerated() {
                left[index] -= write(end, min(left[index], 1 + fuzzer.below(100_000)))
                if left[index] == 0 { _ = end.state.finish() }
                end.send(1_000_000)
            }
            for end in ends {
                try end.receive(1 << 21)
                end.read(1 << 20)
            }
            if ends.allSatisfy({ $0.state.isOver }) { break }
            guard ends.map(\.progress) == before else {
                pauses = 0
                continue
            }
            // Acknowledgements that wait for bytes to go with, at first; then what streams wait for that have no room.
            pauses += 1
            totals.pauses += 1
            for end in ends { end.acknowledgeNow() }
            for connection in connections { if pauses > 1 { connection.look() } else { connection.turn() } }
            guard pauses < 5 else { break }
        }
        for stream in streams {
            let (client, server) = (stream.client, stream.server)
            guard client.state.isOver, server.state.isOver else {
                let waiting = stream.ends.map { "refused: \($0.isRefused), in turn: \($0.carriedPart.isWaiting)" }
                throw ModelFailure(description: "stands still, \(waiting): \(client.state) \(server.state)")
            }
            guard client.state.delivered == server.state.written, server.state.delivered == client.state.written else {
                throw ModelFailure(description: "a clean end without all bytes")
            }
        }
    }
}
