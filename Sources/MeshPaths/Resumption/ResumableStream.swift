package import CLinux
package import H2Transport
package import MeshIdentity
package import MeshPolicy
import Platform
package import Streams

/// Told what becomes of a resumable stream. Confined to the stream's loop.
protocol ResumptionOwner: AnyObject {
    /// Its carrier is gone, and the stream is not.
    func resumableDetached(_ stream: ResumableStream, _ reason: StreamError)
    /// Nothing more happens with it.
    func resumableEnded(_ stream: ResumableStream)
}

/// A stream between two nodes that outlives what carries it: a byte stream like every other to whoever has it, and
/// below it one carrier after the other.
///
/// ```
///   client's socket ═ Relay ═ ResumableStream ── CarrierPort ═ Splice ═ H2Stream       one port for each carrier
///                             │ state: numbers │
///                             └ kept: bytes    ┘
/// ```
///
/// Towards its owner it reads from a source and writes into a sink without a copy, as the carrier does. What is sent is
/// kept until the other side has it: in the buffer that it was sent from where there is much of it, else as a copy.
/// What arrives is copied only where nobody takes it. An idle stream keeps no bytes.
package final class ResumableStream: ByteStream, TurnTask {
    /// How often, and why, it went on over something else.
    package struct History: Hashable, Sendable {
        package var count = 0
        package var lastReason: String?

        package init() {}
    }

    let resumptions: Resumptions
    let isClient: Bool
    /// Nil once the stream is over.
    var owner: (any ResumptionOwner)?
    var state = ResumptionState()
    /// Written, and not acknowledged.
    var kept: KeptBytes
    /// Arrived, and not taken.
    var inbound: ByteQueue
    var input = ResumptionFrameReader()
    /// A frame's header that is on its way out.
    var staged = StagedFrame()
    /// Bytes of the frame whose header was sent.
    var frameLeft = 0
    /// How often a carrier has brought anything: an acknowledgement is a sign of life like every other.
    private(set) var heard: UInt64 = 0

    var port: CarrierPort?
    var carrier: ByteStream?
    /// The carrier, where it is joined by ``splice``.
    private(set) var direct: H2Stream?
    /// What it has in common with the others of the carrier's connection, once it has moved much.
    var carried: CarriedStreams<ResumableStream>?
    var carriedPart = CarriedPart()
    private var splice: Splice?
    /// Joins a carrier that has no direct paths.
    private var carrierRelay: Relay?

    // The owner's side.
    var source: ByteStream?
    var sourcePump: Pump?
    var sourceMayRead = false
    var sink: ByteStream?
    var sinkPump: Pump?
    var sinkIsFull = false
    private var readerWaits = true
    private var writerWaits = false
    /// The owner has let go, by `close` or `reset`.
    private(set) var isReleased = false
    /// Reset by its owner while there was no carrier: the other side is told once there is one.
    private var pendingReset: StreamError?

    /// What the next turn has to do, outside of whatever found out.
    var pending = Pending()
    private var isScheduled = false
    /// Nothing more may be kept until something is acknowledged.
    var isOutOfRoom = false
    /// Waits in the list of those that owe an acknowledgement.
    var isOwing = false
    /// Waits in the list of those whose acknowledgement waits for other frames.
    var isWaitingForFrames = false
    /// Waits until the node has memory for it.
    var isStarved = false
    /// At a server: its number, and what proves a resumption; nil: this side is the client.
    var ticket: ResumptionTicket?
    /// Why the last carrier was lost.
    private(set) var lastFailure: String?
    /// Why no other carrier was had since; a refusal by policy, which is what to look at, before all else.
    var noCarrier: StreamError?
    var accounted = 0
    /// Its place among those that are looked at; -1: it has none.
    var watchIndex = -1
    var standstill = ResumptionStandstill()

    /// Of the memory.
    let share: ResumptionDirectory.Share
    /// Who is at the other end, as a certificate has proved.
    package let peer: SPIFFEID?
    let destination: Authority
    /// What carries it, where this side has chosen; nil: the other side has.
    package internal(set) var path: PathID?
    /// What has moved it last, of a stream that the other side has opened: from where, over what, with which token.
    /// nil: it is where it was opened.
    package internal(set) var movedBy: StreamRequest?
    package private(set) var history = History()
    /// Told, on the loop, of each resumption.
    package var onResumption: ((ResumableStream) -> Void)?

    struct Pending {
        var sourceEnd = false
        var sourceFailure = false
        var sinkFailure = false
        var drain = false
        var release = false
        var violation: ResumptionViolation?
        /// What waits at the carrier's port, or at this stream, is to be told.
        var carrierReader = false
        var carrierWriter = false
        var writer = false
    }

    /// - Parameters:
    ///   - carrier: Freshly opened.
    ///   - isClient: This side opens carriers; the other side waits for them.
    init(
        over carrier: any ResumableCarrier,
        to destination: Authority,
        isClient: Bool,
        of owner: any ResumptionOwner,
        in resumptions: Resumptions
    ) {
        self.isClient = isClient
        self.resumptions = resumptions
        self.owner = owner
        self.destination = destination
        peer = carrier.provenPeer
        share = resumptions.share(of: carrier.provenPeer)
        kept = KeptBytes(pool: carrier.loop.buffers)
        inbound = ByteQueue(pool: carrier.loop.buffers)
        super.init(loop: carrier.loop)
        join(carrier)
    }

    deinit { resumptions.directory.giveBack(share) }

    /// Something has come.
    func hear() { heard &+= 1 }

    package override var peerDescription: String {
        carrier?.peerDescription ?? "\(destination) through \(peer?.description ?? "a peer"), whose path is lost"
    }

    /// The connection that carries it; nil while there is none, or where it came by another loop.
    package var transportConnection: H2Connection? { (carrier as? H2Stream)?.transport }

    /// Of the stream of HTTP/2 that carries it; nil while there is none, or where it came by another loop.
    package var ownTrace: TraceParent? {
        (carrier as? H2Stream)?.ownTrace ?? carrier.flatMap { BridgedFacts(of: $0)?.trace }
    }

    /// What was answered to the request that carries it now.
    package var response: ConnectResponse? { carrier?.asCarrier?.answer }

    package var isAttached: Bool { port != nil }
    var isOver: Bool { owner == nil }

    // MARK: ByteStream

    package override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        guard !isReleased, failure == nil else { return refuseRead() }
        let count = inbound.read(into: buffer)
        if count > 0 {
            delivered(count)
            return .bytes(count)
        }
        guard state.isAtEnd else {
            readerWaits = true
            return .wouldBlock
        }
        deliverEnd()
        return .end
    }

    package override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard !state.hasFinished, !isReleased, failure == nil else { return refuseWrite() }
        var room = roomToKeep
        var accepted = 0
        var isShort = false
        for vector in vectors {
            let length = min(vector.iov_len, room)
            if length > 0 {
                kept.append(UnsafeRawBufferPointer(start: vector.iov_base, count: length))
                state.write(length)
            }
            accepted += length
            room -= length
            guard length == vector.iov_len else {
                writerWaits = true
                isShort = true
                break
            }
        }
        account()
        if isShort { noteShortage() }
        cameForRoom()
        if accepted > 0 { wakeCarrierReader() }
        if accepted == 0, writerWaits { return .wouldBlock }
        return .bytes(accepted)
    }

    package override func finish() {
        guard !isReleased, failure == nil, state.finish() else { return }
        wakeCarrierReader()
    }

    package override func reset(_ reason: StreamError) {
        guard !isReleased else { return }
        isReleased = true
        fail(reason)
        letGoOfEnds()
        dropQueues()
        guard !isOver else { return }
        if isAttached {
            dropCarrier(reason)
            conclude()
        } else if isClient {
            // The other side still waits for this stream: it learns of the reset when there is a carrier, or by time.
            pendingReset = reason
        } else {
            // Whoever comes back for it learns that it is gone.
            conclude()
        }
    }

    package override func close() {
        guard !isReleased else { return }
        guard state.hasFinished else {
            return reset(StreamError(.closed, "the stream to \(peerDescription) was closed before it had ended"))
        }
        isReleased = true
        fail(.closedByOwner)
        letGoOfEnds()
        // What was accepted is still sent, and what still comes has no reader.
        guard !isOver else { return dropQueues() }
        discardInbound()
    }

    // MARK: Direct paths

    package override func pull(from source: ByteStream, for pump: Pump) -> Bool {
        guard !isReleased, failure == nil, !state.hasFinished else { return false }
        self.source = source
        sourcePump = pump
        sourceMayRead = true
        wakeCarrierReader()
        return true
    }

    package override func sourceBecameReadable() {
        guard source != nil, !sourceMayRead else { return }
        sourceMayRead = true
        wakeCarrierReader()
    }

    package override func push(to sink: ByteStream, for pump: Pump) -> Bool {
        guard !isReleased, failure == nil else { return false }
        self.sink = sink
        sinkPump = pump
        if !inbound.isEmpty || state.isAtEnd {
            pending.drain = true
            schedule()
        }
        return true
    }

    package override func sinkBecameWritable() {
        sinkIsFull = false
        drain()
    }

    // MARK: Carriers

    /// Goes on over `carrier`, in the place of the one there is or was.
    ///
    /// - Parameters:
    ///   - position: Where the other side says that this one goes on.
    ///   - asked: Where this side has said that the other one goes on; nil: where it is now.
    ///   - path: What the carrier goes over, where this side has chosen.
    ///   - reason: Why the one before was left, for people.
    func attach(
        _ carrier: ByteStream,
        generation: UInt64,
        position: UInt64,
        asked: UInt64? = nil,
        over path: PathID? = nil,
        because reason: String
    ) throws(ResumptionViolation) {
        try state.attach(generation: generation, position: position, asked: asked)
        if let path { self.path = path }
        dropCarrier(nil)
        resumptions.attached(self)
        noCarrier = nil
        history.count += 1
        history.lastReason = reason
        if let pendingReset {
            self.pendingReset = nil
            carrier.reset(pendingReset)
            return conclude()
        }
        join(carrier)
        onResumption?(self)
    }

    private func join(_ carrier: ByteStream) {
        let port = CarrierPort(of: self)
        self.port = port
        self.carrier = carrier
        if let stream = carrier as? H2Stream {
            let splice = Splice(port, stream)
            direct = stream
            self.splice = splice
            if splice.start() {
                // Asked when there is something.
                if source == nil, state.isSilent {
                    port.readerWaits = true
                    stream.sourceIsDry()
                }
                return
            }
            // It is over already: the relay finds out how.
            direct = nil
            self.splice = nil
        }
        let relay = Relay(port, carrier)
        carrierRelay = relay
        relay.start()
    }

    /// - Parameter reason: A reset of the stream, which the other side sees as one; nil: the carrier only.
    func dropCarrier(_ reason: StreamError?) {
        guard let port else { return }
        let (carrier, splice, relay) = (carrier, splice, carrierRelay)
        leave(port)
        let moved = StreamError(.closed, "the stream goes on over another path")
        if reason == nil { carrier?.asCarrier?.letGo(moved) }
        splice?.cut(reason ?? moved)
        relay?.cut(reason ?? moved)
    }

    /// What was half sent or read on it is forgotten.
    private func leave(_ port: CarrierPort) {
        port.leave()
        let wasInTurn = carriedPart.isWaiting
        carried?.leave(self)
        carried = nil
        self.port = nil
        carrier = nil
        direct = nil
        splice = nil
        carrierRelay = nil
        pending.violation = nil
        input = ResumptionFrameReader()
        staged = StagedFrame()
        frameLeft = 0
        // Whoever wrote waited for a connection's streams that this one is no part of any more.
        if wasInTurn { hasRoomAgain() }
    }

    /// The carrier failed, or has ended before both sides had said everything.
    func detached(_ port: CarrierPort, _ reason: StreamError) {
        guard self.port === port, let carrier else { return }
        leave(port)
        if carrier.asCarrier?.wasResetByPeer == true {
            return lose(StreamError(.reset, "the other side reset the stream: \(reason.message)"))
        }
        switch reason.code {
        // What a peer once proved was taken back; this side's own limits.
        case .authentication, .limit: return lose(reason)
        default: break
        }
        state.detach()
        lastFailure = reason.message
        // The other side may not know yet that all of it has arrived; it cannot ask.
        if state.isOver, !isClient { return conclude() }
        resumptions.detached(self)
        guard !isOver else { return }
        owner?.resumableDetached(self, reason)
    }

    func carrierEnded(_ port: CarrierPort) {
        guard self.port === port, state.end == nil else { return }
        pending.violation = ResumptionViolation("ends the carrier before the stream")
        schedule()
    }

    func carrierClosed(_ port: CarrierPort) {
        guard self.port === port else { return }
        guard state.isOver else { return detached(port, StreamError(.truncated, "the carrier has ended")) }
        leave(port)
        conclude()
    }

    /// The stream is over with loss: whoever has it sees a reset.
    package func lose(_ error: StreamError) {
        guard !isOver else { return }
        dropCarrier(error)
        // Nothing was lost: both directions have ended, and this side knows.
        if state.isOver { return conclude() }
        let wasReleased = isReleased
        fail(error)
        conclude()
        dropQueues()
        let (reader, writer) = (sinkPump, sourcePump)
        letGoOfEnds()
        guard !wasReleased else { return }
        if let pump = reader ?? writer {
            pump.failed(error)
            if reader != nil { writer?.failed(error) }
        } else {
            observer?.streamFailed(self)
        }
    }

    private func conclude() {
        guard let owner else { return }
        self.owner = nil
        onResumption = nil
        resumptions.forget(self)
        owner.resumableEnded(self)
        kept.removeAll()
        if isReleased { inbound.removeAll() }
        account()
    }

    private func letGoOfEnds() {
        source = nil
        sourcePump = nil
        sink = nil
        sinkPump = nil
    }

    private func dropQueues() {
        kept.removeAll()
        inbound.removeAll()
        account()
    }

    // MARK: Turns

    func schedule() {
        guard !isScheduled else { return }
        isScheduled = true
        loop.nextTurn(self)
    }

    package func runTurn() {
        isScheduled = false
        let pending = pending
        self.pending = Pending()
        if let violation = pending.violation, let port { violated(port, violation) }
        if pending.drain { drain() }
        if pending.release { carried?.release() }
        tell(pending)
        if pending.sourceEnd, let pump = sourcePump {
            sourcePump = nil
            pump.sourceEnded()
        }
        if pending.sourceFailure, let source, let pump = sourcePump {
            let error = source.failure ?? StreamError(.closed, "\(source.peerDescription) failed")
            self.source = nil
            sourcePump = nil
            pump.failed(error)
        }
        if pending.sinkFailure, let sink, let pump = sinkPump {
            let error = sink.failure ?? StreamError(.closed, "\(sink.peerDescription) failed")
            self.sink = nil
            sinkPump = nil
            pump.failed(error)
        }
    }

    /// A relay that is told may end this stream, or lose its carrier, while it is told.
    private func tell(_ pending: Pending) {
        if pending.carrierReader, let port, port.readerWaits {
            port.readerWaits = false
            if let direct { direct.sourceBecameReadable() } else { port.observer?.streamReadable(port) }
        }
        if pending.carrierWriter, let port, port.writerWaits {
            port.writerWaits = false
            if let direct { direct.sinkBecameWritable() } else { port.observer?.streamWritable(port) }
        }
        if pending.writer, writerWaits, !isReleased {
            writerWaits = false
            observer?.streamWritable(self)
        }
    }

    private func violated(_ port: CarrierPort, _ violation: ResumptionViolation) {
        let error = StreamError(.protocolViolation, "\(peerDescription) \(violation)")
        giveUp(port, "a carrier of a resumable stream broke the protocol", error)
    }

    /// The other side has acknowledged nothing for `time`.
    func standsStill(for time: Duration) {
        guard let port else { return }
        let error = StreamError(.timedOut, "\(peerDescription) has acknowledged nothing for \(time)")
        giveUp(port, "a carrier of a resumable stream was given up", error)
    }

    /// The carrier is left, and the stream waits for another one.
    private func giveUp(_ port: CarrierPort, _ kind: String, _ error: StreamError) {
        resumptions.report(kind, of: self, error)
        let (carrier, splice, relay) = (carrier, splice, carrierRelay)
        detached(port, error)
        carrier?.asCarrier?.letGo(error)
        splice?.cut(error)
        relay?.cut(error)
    }

    // MARK: Waking
    //
    // HTTP/2 notes what it is told and comes back for it. A relay acts at once, and this may be inside of its own write
    // or read: it is told in the next turn.

    /// There is something to send.
    func wakeCarrierReader() {
        guard let port else { return }
        if port.readerWaits {
            guard let direct else {
                pending.carrierReader = true
                return schedule()
            }
            port.readerWaits = false
            direct.sourceBecameReadable()
        } else if port.readerMayWait {
            port.readerMayWait = false
            direct?.hurry()
        }
    }

    /// There is something to send that goes with what else the connection has to send, or by itself a little later.
    func wakeCarrierReaderInTime() {
        guard let direct else { return wakeCarrierReader() }
        guard let port, port.readerWaits else { return }
        port.readerWaits = false
        port.readerMayWait = true
        direct.sourceMayBeRead()
        resumptions.hurryLater(self, afterLong: state.owesLastWordOnly)
    }

    /// Other frames have had their time.
    func sendNow() { if port?.readerMayWait == true { wakeCarrierReader() } }

    /// What the carrier brings can be taken again.
    func wakeCarrierWriter() {
        guard let port, port.writerWaits else { return }
        guard let direct else {
            pending.carrierWriter = true
            return schedule()
        }
        port.writerWaits = false
        direct.sinkBecameWritable()
    }

    /// The reader of the owner's side, who has no sink.
    func wakeReader() {
        guard sink == nil, readerWaits, !isReleased else { return }
        readerWaits = false
        observer?.streamReadable(self)
    }

    /// Something may be kept again.
    func wakeWriters() {
        guard ownRoom > 0 else { return }
        isOutOfRoom = false
        wakeCarrierReader()
        guard writerWaits, !isReleased else { return }
        pending.writer = true
        schedule()
    }
}
