import CLinux
import H2Transport
import Streams

// What goes over the carrier: frames out of what the owner gives, and what the owner gets out of frames.
extension ResumableStream {
    /// Where less room is left in the carrier's buffer, bytes are kept first and sent from there.
    private static let shortest = 1024
    /// The source is not asked for less: frames would become small where the room grows by crumbs.
    private static let leastRoom = 16384
    /// More than that is not copied to be kept.
    private static let longestCopy = 8192

    /// How much may be kept now.
    var roomToKeep: Int { min(ownRoom, carried?.room(for: self) ?? .max) }
    /// Likewise, whatever else the connection carries.
    var ownRoom: Int { min(state.room, memoryToKeep) }
    private var memoryToKeep: Int { resumptions.directory.room(in: share, holding: kept.count) }

    func noteShortage() {
        if let carried, isWorthReading(ownRoom), !isWorthReading(roomToKeep) { return carried.wait(self) }
        isOutOfRoom = true
        // An acknowledgement gives room in the window, and nothing tells of memory.
        if memoryToKeep < state.room { resumptions.starve(self) }
        // What acknowledges may lie behind bytes that nobody takes.
        if port?.writerWaits == true {
            pending.drain = true
            schedule()
        }
    }

    private func isWorthReading(_ room: Int) -> Bool {
        Self.isWorthReading(room, keeping: kept.count, window: state.window)
    }

    /// Whether the source is asked for as little as there is room for. All that a stream has left where the memory is
    /// used up is worth it: less than what each may keep is not acknowledged soon.
    static func isWorthReading(_ room: Int, keeping count: Int, window: Int) -> Bool {
        room >= min(leastRoom, window) || room > 0 && room + count == ResumptionDirectory.least
    }

    /// Its turn for what the connection's streams keep together was used, or is over.
    func cameForRoom() {
        guard let carried, carried.came(self) else { return }
        pending.release = true
        schedule()
    }

    /// Memory that is held counts for the whole node.
    func account() {
        if !kept.isEmpty, watchIndex < 0 { resumptions.watch(self) }
        if kept.count >= CarriedStreams<ResumableStream>.smallest || carried != nil { carriedStreams()?.count(self) }
        let held = kept.capacity + inbound.capacity
        guard held != accounted else { return }
        resumptions.directory.account(held - accounted, in: share)
        accounted = held
    }

    // MARK: Sending

    /// The client says the last word, the acknowledgement of the server's end, and forgets the stream when both have
    /// ended the carrier. So the server does not before it has heard that word: it could not ask for it.
    private var mayEndCarrier: Bool { state.mayEndCarrier && (isClient || state.isEndAcknowledged) }

    /// Fills the carrier's buffer. Runs inside of HTTP/2's engine: calls nothing but reads of the source.
    func fill(_ space: UnsafeMutableRawBufferPointer) -> ReadResult {
        var count = 0
        var isDry = false
        port?.readerMayWait = false
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
                count += write(.acknowledgement, announce(), to: rest)
            } else if state.unsent > 0 {
                frameLeft = min(state.unsent, ResumptionFrame.longestData)
                staged.stage(data: frameLeft)
            } else if state.owesEnd {
                state.sendEnd()
                count += write(.end, state.written, to: rest)
            } else if let source, sourceMayRead {
                guard let read = self.read(source, into: rest) else {
                    isDry = true
                    break
                }
                count += read
            } else {
                isDry = true
                break
            }
        }
        account()
        cameForRoom()
        if count > 0 {
            // It would ask again.
            if isDry, let direct, !mayEndCarrier {
                port?.readerWaits = true
                direct.sourceIsDry()
            }
            return .bytes(count)
        }
        if mayEndCarrier { return .end }
        port?.readerWaits = true
        return .wouldBlock
    }

    /// A frame of twelve bytes, in place where there is room. Returns how much of it is there.
    private func write(
        _ kind: ResumptionFrame.Kind,
        _ position: UInt64,
        to space: UnsafeMutableRawBufferPointer
    ) -> Int {
        guard space.count >= ResumptionFrame.controlSize else {
            staged.stage(kind, position)
            return 0
        }
        ResumptionFrame.write(kind, position, to: space)
        return ResumptionFrame.controlSize
    }

    private func announce() -> UInt64 {
        carried?.acknowledged(self)
        return state.announce()
    }

    /// Reads what the source has. Returns what of it is in `space`, as a frame; nil: there is nothing now.
    private func read(_ source: ByteStream, into space: UnsafeMutableRawBufferPointer) -> Int? {
        let room = roomToKeep
        guard isWorthReading(room) else {
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
        if acknowledges { ResumptionFrame.write(.acknowledgement, announce(), to: space) }
        ResumptionFrame.writeData(
            count,
            to: UnsafeMutableRawBufferPointer(rebasing: space[(header - ResumptionFrame.headerSize)...])
        )
        keep(UnsafeRawBufferPointer(rebasing: bytes[..<count]))
        state.write(count)
        state.send(count)
        return header + count
    }

    /// Bytes that are about to be sent from where they are.
    private func keep(_ bytes: UnsafeRawBufferPointer) {
        // A buffer stays for as long as any byte in it is kept: where memory is short, bytes are copied.
        guard bytes.count > Self.longestCopy, resumptions.directory.isRoomy, let buffer = direct?.stagingBuffer,
            buffer.holds(bytes)
        else { return kept.append(bytes) }
        kept.append(bytes, in: buffer)
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

    private static let longestTake = 256 << 10
    private static let shortestTake = 4096

    /// What waits here for its reader has left HTTP/2's accounts: it is bounded here.
    private var hasMemoryToTake: Bool { roomToTake > 0 }
    private var roomToTake: Int { resumptions.directory.room(in: share, holding: inbound.count) }
    /// Of what the carrier brings at once: a reader who is there takes it, and one who is not leaves no more than that.
    private var mostToTake: Int { min(Self.longestTake, max(Self.shortestTake, roomToTake)) }

    /// Takes what the carrier brings.
    func take(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        // Bytes that nobody takes wait in the carrier, which counts them; but not where an acknowledgement may lie
        // behind them that this side needs to go on.
        let mayTake = inbound.isEmpty ? !sinkIsFull || isOutOfRoom || hasMemoryToTake : isOutOfRoom && hasMemoryToTake
        guard pending.violation == nil, mayTake else {
            port?.writerWaits = true
            return .wouldBlock
        }
        hear()
        var offered = 0
        for vector in vectors { offered += vector.iov_len }
        let count = min(offered, mostToTake)
        if count < offered {
            port?.writerWaits = true
            pending.drain = true
            schedule()
        }
        do throws(ResumptionViolation) {
            try takeFrames(vectors, count)
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
        carried?.release()
        return .bytes(count)
    }

    /// Takes frames out of the first `count` bytes, up to the first that is against the rules; what came before it has
    /// arrived.
    private func takeFrames(_ vectors: UnsafeBufferPointer<iovec>, _ count: Int) throws(ResumptionViolation) {
        var left = count
        var violation: ResumptionViolation?
        withUnsafeTemporaryAllocation(of: iovec.self, capacity: 64) { pieces in
            var used = 0
            do throws(ResumptionViolation) {
                for vector in vectors where left > 0 {
                    var rest = UnsafeRawBufferPointer(start: vector.iov_base, count: min(vector.iov_len, left))
                    left -= rest.count
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
        if mayEndCarrier { wakeCarrierReader() }
        guard count > 0 else { return }
        kept.consume(count)
        carried?.moved(self)
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

    func askedInVain(_ error: StreamError) {
        state.askedInVain()
        acknowledgeSoon()
        if noCarrier?.code != .denied { noCarrier = error }
    }

    /// It has waited in vain.
    func giveUp(after timeout: Duration) {
        let reason = "\(lastFailure ?? "the path was lost"); nothing else carried the stream within \(timeout)"
        guard let noCarrier else { return lose(StreamError(.reset, reason)) }
        lose(StreamError(noCarrier.code == .denied ? .denied : .reset, "\(reason): \(noCarrier.message)"))
    }

    /// It has waited long enough for bytes to go with.
    func acknowledgeNow() {
        guard state.owesAcknowledgement else { return }
        state.hurryAcknowledgement()
        wakeCarrierReader()
    }

    private func acknowledgeSoon() {
        guard state.owesAcknowledgement else { return }
        if !state.isAcknowledgementUrgent, state.owed >= CarriedStreams<ResumableStream>.smallest || carried != nil,
            let carried = carriedStreams(), carried.owes(self, state.owed)
        {
            carried.acknowledgeAll()
        }
        if !state.isAcknowledgementDue {
            resumptions.owe(self)
        } else if state.isAcknowledgementUrgent {
            wakeCarrierReader()
        } else {
            wakeCarrierReaderInTime()
        }
    }

    /// What waits goes to the sink, and the end behind it; a reader without one is told.
    func drain() {
        if isReleased { return discardInbound() }
        guard sink != nil else {
            if port?.writerWaits == true, isOutOfRoom || inbound.isEmpty { wakeCarrierWriter() }
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
