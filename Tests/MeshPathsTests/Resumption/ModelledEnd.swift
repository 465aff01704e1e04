import Glibc
import Platform
import Streams

@testable import MeshPaths

/// What one end of a stream sends, as a function of where it stands in the stream.
enum ModelledBytes {
    private static let period = 1_000_003
    private static let table: [UInt8] = {
        var state: UInt64 = 7
        let block = (0..<period).map { _ in
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return UInt8(truncatingIfNeeded: state >> 56)
        }
        return block + block
    }()

    /// - Parameter count: 1,000,003 at most.
    static func of(side: Int, stream: Int, from position: UInt64, _ count: Int) -> ArraySlice<UInt8> {
        let start = Int((position &+ UInt64(side &* 7_919 &+ stream &* 104_729)) % UInt64(period))
        return table[start..<start + count]
    }
}

/// What several streams share until it is lost, with what each side of it keeps of them.
final class ModelledConnection {
    let shared: [CarriedStreams<ModelledEnd>]
    var carriers: [ModelledCarrier] = []
    var isCut = false

    /// - Parameter limit: Of what all of its streams keep together; nil: as it is found out.
    init(on loop: EventLoop, limit: Int?) {
        shared = (0..<2).map { _ in CarriedStreams(on: loop, limit: limit) }
    }

    /// What the loop does in its next turn after a stream has left.
    func turn() { for side in shared { side.release() } }

    /// What it does while streams wait.
    func look() { for side in shared { side.look() } }
}

/// A carrier: bytes on their way, both ways.
final class ModelledCarrier {
    unowned let connection: ModelledConnection
    var toServer: ArraySlice<UInt8> = []
    var toClient: ArraySlice<UInt8> = []
    /// Nothing more gets in; what is on its way may still arrive.
    var isCut = false

    init(of connection: ModelledConnection) {
        self.connection = connection
        connection.carriers.append(self)
    }
}

struct ModelFailure: Error, CustomStringConvertible {
    let description: String
}

/// One end of a stream: the numbers and the turns under test, a writer that goes on when it is told to, and a reader
/// that knows what must come. What stands between them is done here as `ResumableStream` does it.
final class ModelledEnd: CarriedStream {
    let side: Int
    let number: Int
    var state: ResumptionState
    private var input = ResumptionFrameReader()
    private var output: ArraySlice<UInt8> = []
    private var frameLeft = 0
    private(set) var carrier: ModelledCarrier?
    /// The connection is kept for as long as it has a stream.
    private var connection: ModelledConnection?
    private var carried: CarriedStreams<ModelledEnd>?
    var carriedPart = CarriedPart()
    /// Arrived and not read.
    private(set) var inbound = 0
    /// The writer was refused, and waits until it is told.
    private(set) var isRefused = false
    private var isOutOfRoom = false

    /// - Parameters:
    ///   - side: 0 of the client, 1 of the server.
    ///   - number: Of the stream.
    init(_ side: Int, of number: Int, window: Int) {
        self.side = side
        self.number = number
        state = ResumptionState(window: window)
    }

    var isFinished: Bool { state.hasFinished }

    // MARK: Carriers

    func join(_ carrier: ModelledCarrier) {
        self.carrier = carrier
        connection = carrier.connection
    }

    func leave() {
        let wasInTurn = carriedPart.isWaiting
        carried?.leave(self)
        carried = nil
        carrier = nil
        connection = nil
        input = ResumptionFrameReader()
        output = []
        frameLeft = 0
        state.detach()
        if wasInTurn { hasRoomAgain() }
    }

    private func sharing() -> CarriedStreams<ModelledEnd>? {
        if carried == nil { carried = connection?.shared[side] }
        return carried
    }

    // MARK: CarriedStream

    var keptCount: Int { Int(state.written - state.acknowledged) }
    var acknowledgedPosition: UInt64 { state.acknowledged }
    var promptStep: Int? { CarriedStreams<ModelledEnd>.step }

    func hasRoomAgain() { if state.room > 0 { wakeWriter() } else { noteShortage() } }

    func acknowledgeNow() { if state.owesAcknowledgement { state.hurryAcknowledgement() } }

    // MARK: Writing

    /// - Returns: How much of it was taken.
    @discardableResult func write(_ count: Int) -> Int {
        guard !isRefused, !state.hasFinished else { return 0 }
        let accepted = min(count, roomToKeep)
        state.write(accepted)
        account()
        if accepted < count { noteShortage() }
        come()
        return accepted
    }

    /// Has had its turn, with or without anything to write.
    private func come() { if let carried, carried.came(self) { carried.release() } }

    private var roomToKeep: Int { min(state.room, carried?.room(for: self) ?? .max) }

    private func noteShortage() {
        isRefused = true
        if let carried, isWorthReading(state.room), !isWorthReading(roomToKeep) { return carried.wait(self) }
        isOutOfRoom = true
    }

    private func isWorthReading(_ room: Int) -> Bool {
        ResumableStream.isWorthReading(room, keeping: keptCount, window: state.window)
    }

    private func wakeWriter() {
        isOutOfRoom = false
        isRefused = false
    }

    private func account() {
        if keptCount >= CarriedStreams<ModelledEnd>.smallest || carried != nil { sharing()?.count(self) }
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
                bytes += ModelledBytes.of(side: side, stream: number, from: state.sent, count)
                state.send(count)
                frameLeft -= count
            } else if state.isAcknowledgementDue || state.unsent > 0 && state.owesAcknowledgement {
                carried?.acknowledged(self)
                stage(.acknowledgement, state.announce())
            } else if state.unsent > 0 {
                frameLeft = min(state.unsent, 1_000_000)
                output = withHeader { ResumptionFrame.writeData(frameLeft, to: $0) }.prefix(4)
            } else if state.owesEnd {
                state.sendEnd()
                stage(.end, state.written)
            } else {
                break
            }
        }
        account()
        come()
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

    // MARK: Reading

    /// Takes what the carrier brings.
    func receive(_ limit: Int) throws {
        guard let carrier else { return }
        let piece = Array((side == 0 ? carrier.toClient : carrier.toServer).prefix(limit))
        if side == 0 {
            carrier.toClient = carrier.toClient.dropFirst(piece.count)
        } else {
            carrier.toServer = carrier.toServer.dropFirst(piece.count)
        }
        try take(piece)
    }

    func take(_ bytes: [UInt8]) throws {
        try bytes.withUnsafeBytes { bytes in
            var rest = bytes
            while !rest.isEmpty {
                guard input.dataLeft > 0 else {
                    try takeHeader(&rest)
                    continue
                }
                let count = min(input.dataLeft, rest.count)
                let before = state.arrived
                let new = try state.receive(count)
                let expected = ModelledBytes.of(side: 1 - side, stream: number, from: before, new)
                let come = UnsafeRawBufferPointer(rebasing: rest[count - new..<count])
                guard expected.withUnsafeBytes({ Self.areEqual(come, $0) }) else {
                    throw ModelFailure(description: "other bytes behind \(before) of \(1 - side)")
                }
                inbound += new
                input.took(count)
                rest = UnsafeRawBufferPointer(rebasing: rest[count...])
            }
        }
        account()
        acknowledgeSoon()
        carried?.release()
    }

    private static func areEqual(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Bool {
        guard let first = left.baseAddress, let second = right.baseAddress, left.count > 0 else { return true }
        return memcmp(first, second, left.count) == 0
    }

    private func takeHeader(_ rest: inout UnsafeRawBufferPointer) throws {
        switch try input.read(&rest) {
        case .acknowledgement(let position):
            let count = try state.acknowledge(position)
            guard state.acknowledged <= state.sent else {
                throw ModelFailure(description: "\(position) is acknowledged, and was not sent on this carrier")
            }
            guard count > 0 else { return }
            carried?.moved(self)
            if isOutOfRoom, state.room > 0 { wakeWriter() }
        case .end(let position): try state.receiveEnd(at: position)
        case .data, nil: break
        }
    }

    func read(_ limit: Int) {
        let count = min(limit, inbound)
        inbound -= count
        state.deliver(count)
        if state.isAtEnd, !state.isEndDelivered { state.deliverEnd() }
        acknowledgeSoon()
    }

    private func acknowledgeSoon() {
        guard state.owesAcknowledgement, !state.isAcknowledgementUrgent,
            state.owed >= CarriedStreams<ModelledEnd>.smallest || carried != nil,
            let carried = sharing(), carried.owes(self, state.owed)
        else { return }
        carried.acknowledgeAll()
    }

    /// What changes where anything does.
    var progress: [UInt64] {
        [
            state.written, state.sent, state.acknowledged, state.arrived, state.delivered, UInt64(inbound),
            state.hasSentEnd ? 1 : 0, state.isEndDelivered ? 1 : 0, state.isEndAcknowledged ? 1 : 0,
        ]
    }
}
