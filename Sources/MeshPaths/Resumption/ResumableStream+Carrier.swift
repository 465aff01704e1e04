import CLinux
import Streams

// What goes over the carrier: frames out of what the owner gives, and what the owner gets out of frames.
extension ResumableStream {
    /// Where less room is left in the carrier's buffer, bytes are kept first and sent from there.
    private static let shortest = 1024
    /// The source is not asked for less: frames would become small where the room grows by crumbs.
    private static let leastRoom = 16384

    /// How much may be kept now.
    var roomToKeep: Int { min(state.room, memoryToKeep) }
    private var memoryToKeep: Int { resumptions.directory.room(for: peer, holding: kept.count) }

    func noteShortage() {
        isOutOfRoom = true
        // An acknowledgement gives room in the window, and nothing tells of memory.
        if memoryToKeep < state.room { resumptions.starve(self) }
        // What acknowledges may lie behind bytes that nobody takes.
        if port?.writerWaits == true {
            pending.drain = true
            schedule()
        }
    }

    /// Memory that is held counts for the whole node.
    func account() {
        if !kept.isEmpty, watchIndex < 0 { resumptions.watch(self) }
        let held = kept.capacity + inbound.capacity
        guard held != accounted else { return }
        resumptions.directory.account(held - accounted, of: peer)
        accounted = held
    }

    // MARK: Sending

    /// Fills the carrier's buffer. Runs inside of HTTP/2's engine: calls nothing but reads of the source.
    func fill(_ space: UnsafeMutableRawBufferPointer) -> ReadResult {
        var count = 0
        while count < space.count {
            let rest = UnsafeMutableRawBufferPointer(rebasing: space[count...])
            if !staged.isEmpty {
                count += staged.read(into: rest)
            } else if frameLeft > 0 {
                let piece = UnsafeMutableRawBufferPointer(rebasing: rest[..<min(frameLeft, rest.count)])
                let copied = kept.copy(from: state.sentAndKept, into: piece)
                state.send(copied)
                frameLeft -= copied
                count += copied
            } else if state.isAcknowledgementDue || state.unsent > 0 && state.owesAcknowledgement {
                staged.stage(.acknowledgement, state.announce())
            } else if state.unsent > 0 {
                frameLeft = min(state.unsent, ResumptionFrame.longestData)
                staged.stage(data: frameLeft)
            } else if state.owesEnd {
                state.sendEnd()
                staged.stage(.end, state.written)
            } else if let source, sourceMayRead {
                guard let read = self.read(source, into: rest) else { break }
                count += read
            } else {
                break
            }
        }
        account()
        if count > 0 { return .bytes(count) }
        if state.mayEndCarrier { return .end }
        port?.readerWaits = true
        return .wouldBlock
    }

    /// Reads what the source has. Returns what of it is in `space`, as a frame; nil: there is nothing now.
    private func read(_ source: ByteStream, into space: UnsafeMutableRawBufferPointer) -> Int? {
        let room = roomToKeep
        guard room >= min(Self.leastRoom, state.window) else {
            noteShortage()
            return nil
        }
        guard space.count >= Self.shortest else {
            let result = source.read(into: slice(kept.reserve(expecting: Self.shortest), room))
            guard let count = read(result) else {
                kept.commit(0)
                return nil
            }
            kept.commit(count)
            state.write(count)
            return 0
        }
        let acknowledges = state.owesAcknowledgement
        let header = ResumptionFrame.headerSize + (acknowledges ? ResumptionFrame.controlSize : 0)
        let bytes = slice(UnsafeMutableRawBufferPointer(rebasing: space[header...]), room)
        guard let count = read(source.read(into: bytes)) else { return nil }
        guard count > 0 else { return 0 }
        if acknowledges { ResumptionFrame.write(.acknowledgement, state.announce(), to: space) }
        ResumptionFrame.writeData(
            count,
            to: UnsafeMutableRawBufferPointer(rebasing: space[(header - ResumptionFrame.headerSize)...])
        )
        kept.append(UnsafeRawBufferPointer(rebasing: bytes[..<count]))
        state.write(count)
        state.send(count)
        return header + count
    }

    private func slice(_ space: UnsafeMutableRawBufferPointer, _ room: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(rebasing: space[..<min(space.count, room, ResumptionFrame.longestData)])
    }

    /// What came of a read: 0 at the end; nil: nothing now.
    private func read(_ result: ReadResult) -> Int? {
        switch result {
        case .bytes(let count):
            sourcePump?.moved(count)
            return count
        case .wouldBlock:
            sourceMayRead = false
            return nil
        case .end:
            source = nil
            _ = state.finish()
            pending.sourceEnd = true
            schedule()
            return 0
        case .failed:
            sourceMayRead = false
            pending.sourceFailure = true
            schedule()
            return nil
        }
    }

    // MARK: Receiving

    private var hasMemoryToTake: Bool { resumptions.directory.room(for: peer, holding: inbound.count) > 0 }

    /// Takes what the carrier brings.
    func take(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        // Bytes that nobody takes wait in the carrier, which counts them; but not where an acknowledgement may lie
        // behind them that this side needs to go on.
        guard pending.violation == nil, inbound.isEmpty || isOutOfRoom && hasMemoryToTake else {
            port?.writerWaits = true
            return .wouldBlock
        }
        var count = 0
        for vector in vectors { count += vector.iov_len }
        do throws(ResumptionViolation) {
            try takeFrames(vectors)
        } catch {
            pending.violation = error
            schedule()
        }
        account()
        if state.end != nil, state.isAtEnd, !state.isEndDelivered {
            pending.drain = true
            schedule()
        }
        acknowledgeSoon()
        return .bytes(count)
    }

    /// Takes frames up to the first that is against the rules; what came before it has arrived.
    private func takeFrames(_ vectors: UnsafeBufferPointer<iovec>) throws(ResumptionViolation) {
        var violation: ResumptionViolation?
        withUnsafeTemporaryAllocation(of: iovec.self, capacity: 64) { pieces in
            var used = 0
            do throws(ResumptionViolation) {
                for vector in vectors {
                    var rest = UnsafeRawBufferPointer(start: vector.iov_base, count: vector.iov_len)
                    while !rest.isEmpty {
                        guard input.dataLeft > 0 else {
                            try takeHeader(&rest)
                            continue
                        }
                        if used == pieces.count {
                            hand(UnsafeBufferPointer(pieces))
                            used = 0
                        }
                        let length = min(rest.count, input.dataLeft)
                        let old = length - (try state.receive(length))
                        input.took(length)
                        if old < length {
                            let start = UnsafeMutableRawPointer(mutating: rest.baseAddress).map { $0 + old }
                            pieces[used] = iovec(iov_base: start, iov_len: length - old)
                            used += 1
                        }
                        rest = UnsafeRawBufferPointer(rebasing: rest[length...])
                    }
                }
            } catch {
                violation = error
            }
            hand(UnsafeBufferPointer(rebasing: pieces[..<used]))
        }
        if let violation { throw violation }
    }

    private func takeHeader(_ rest: inout UnsafeRawBufferPointer) throws(ResumptionViolation) {
        switch try input.read(&rest) {
        case .acknowledgement(let position): try acknowledged(position)
        case .end(let position): try state.receiveEnd(at: position)
        case .data, nil: break
        }
    }

    private func acknowledged(_ position: UInt64) throws(ResumptionViolation) {
        let count = try state.acknowledge(position)
        guard count > 0 else { return }
        kept.consume(count)
        if isOutOfRoom { wakeWriters() }
    }

    /// Bytes of the stream, in order: to the sink, or to be kept.
    private func hand(_ pieces: UnsafeBufferPointer<iovec>) {
        guard !pieces.isEmpty else { return }
        var count = 0
        for piece in pieces { count += piece.iov_len }
        guard !isReleased else { return state.deliver(count) }
        var taken = 0
        if let sink, !sinkIsFull, inbound.isEmpty {
            switch sink.write(pieces) {
            case .bytes(let length): taken = length
            case .wouldBlock: break
            case .failed:
                pending.sinkFailure = true
                schedule()
            }
            if taken < count { sinkIsFull = true }
            if taken > 0 {
                state.deliver(taken)
                sinkPump?.moved(taken)
            }
        }
        guard taken < count else { return }
        for piece in pieces {
            guard taken < piece.iov_len else {
                taken -= piece.iov_len
                continue
            }
            let bytes = UnsafeRawBufferPointer(start: piece.iov_base, count: piece.iov_len)
            inbound.append(UnsafeRawBufferPointer(rebasing: bytes[taken...]))
            taken = 0
        }
        if sink == nil {
            pending.drain = true
            schedule()
        }
    }

    /// The owner has taken `count` bytes of those that waited.
    func delivered(_ count: Int) {
        state.deliver(count)
        account()
        acknowledgeSoon()
        if inbound.isEmpty { wakeCarrierWriter() }
    }

    func deliverEnd() {
        guard !state.isEndDelivered else { return }
        state.deliverEnd()
        acknowledgeSoon()
        // Nothing may be left to say but that the carrier can end.
        wakeCarrierReader()
    }

    func ask() -> UInt64 { state.ask() }

    func askedInVain() {
        state.askedInVain()
        acknowledgeSoon()
    }

    /// It has waited long enough for bytes to go with.
    func acknowledgeNow() {
        guard state.owesAcknowledgement else { return }
        state.hurryAcknowledgement()
        wakeCarrierReader()
    }

    private func acknowledgeSoon() {
        if state.isAcknowledgementDue {
            wakeCarrierReader()
        } else if state.owesAcknowledgement {
            resumptions.owe(self)
        }
    }

    /// What waits goes to the sink, and the end behind it; a reader without one is told.
    func drain() {
        if isReleased { return discardInbound() }
        guard sink != nil else {
            if port?.writerWaits == true, isOutOfRoom { wakeCarrierWriter() }
            if !inbound.isEmpty || state.isAtEnd && !state.isEndDelivered { wakeReader() }
            return
        }
        while let sink, !sinkIsFull, !inbound.isEmpty {
            var offered = 0
            let result = inbound.withVectors { vectors in
                for vector in vectors { offered += vector.iov_len }
                return sink.write(vectors)
            }
            switch result {
            case .bytes(let count):
                inbound.consume(count)
                sinkPump?.moved(count)
                sinkIsFull = count < offered
                delivered(count)
            case .wouldBlock: sinkIsFull = true
            case .failed:
                pending.sinkFailure = true
                return schedule()
            }
        }
        if isOutOfRoom || inbound.isEmpty { wakeCarrierWriter() }
        guard let sink, inbound.isEmpty, state.isAtEnd, !state.isEndDelivered else { return }
        self.sink = nil
        let pump = sinkPump
        sinkPump = nil
        sink.finish()
        deliverEnd()
        pump?.sourceEnded()
    }

    /// Nobody reads any more.
    func discardInbound() {
        let count = inbound.count
        inbound.removeAll()
        state.deliver(count)
        account()
        if state.isAtEnd { deliverEnd() }
        acknowledgeSoon()
        wakeCarrierWriter()
    }
}

/// A header, or a frame of twelve bytes, that leaves in as many pieces as the carrier likes.
struct StagedFrame {
    private var first: UInt64 = 0
    private var second: UInt32 = 0
    private var next = 0
    private var count = 0

    var isEmpty: Bool { next == count }

    mutating func stage(data length: Int) {
        withBytes { ResumptionFrame.writeData(length, to: $0) }
        (next, count) = (0, ResumptionFrame.headerSize)
    }

    mutating func stage(_ kind: ResumptionFrame.Kind, _ position: UInt64) {
        withBytes { ResumptionFrame.write(kind, position, to: $0) }
        (next, count) = (0, ResumptionFrame.controlSize)
    }

    mutating func read(into space: UnsafeMutableRawBufferPointer) -> Int {
        let length = min(space.count, count - next)
        let start = next
        withBytes { space.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[start..<start + length])) }
        next += length
        return length
    }

    private mutating func withBytes(_ body: (UnsafeMutableRawBufferPointer) -> Void) {
        withUnsafeTemporaryAllocation(byteCount: ResumptionFrame.controlSize, alignment: 8) { space in
            space.storeBytes(of: first, as: UInt64.self)
            space.storeBytes(of: second, toByteOffset: 8, as: UInt32.self)
            body(space)
            first = space.load(as: UInt64.self)
            second = space.load(fromByteOffset: 8, as: UInt32.self)
        }
    }
}
