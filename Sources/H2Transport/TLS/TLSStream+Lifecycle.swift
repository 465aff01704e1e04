internal import MeshIdentity
package import Streams

// How a TLS stream begins, fails and ends. Everything that happens while the owner is calling is told later, by
// `runTurn`.

extension TLSStream {
    // MARK: Handshake

    func continueHandshake() {
        while phase == .handshaking {
            let step = engine.handshake()
            if case .failed(let error) = step { return refuse(error) }
            guard flush() else { return die(lowerFailure()) }
            if case .done = step { return handshakeDone() }
            switch fill() {
            case .bytes: break
            case .wouldBlock: return
            case .end:
                return die(
                    StreamError(
                        .reset,
                        "\(peerDescription) closed the connection during the TLS handshake; does it speak TLS on that port?"
                    )
                )
            case .failed: return die(lowerFailure())
            }
        }
    }

    private func handshakeDone() {
        timer?.cancel()
        timer = nil
        do {
            let peer = try engine.peer()
            self.peer = peer
            phase = .open
            engine.releaseRecordBuffers()
            answerHandshake(.success(peer))
        } catch {
            return die(error)
        }
        if ends.writing != .open { sendCloseNotify() }
        // Reads and writes that came too early.
        if ends.readerWaits { schedule(.readable) }
        if ends.writerWaits { schedule(.writable) }
    }

    func answerHandshake(_ result: Result<TLSPeer, StreamError>) {
        guard completion != nil, handshakeResult == nil else { return }
        handshakeResult = result
        schedule(.handshake)
    }

    func timeLimitReached() {
        switch phase {
        case .handshaking:
            die(
                StreamError(
                    .timedOut,
                    "no TLS handshake with \(peerDescription) within \(options.handshakeTimeout); does it speak TLS on that port?"
                )
            )
        case .departing where waitsForLower && engine.output.isEmpty:
            // Everything was said, and the peer knows by the close_notify.
            lowerHasEnded = true
            continueDeparture()
        case .departing:
            lower.reset(StreamError(.timedOut, "\(peerDescription) did not take the last bytes in time"))
            release()
        case .open:
            guard hasUsedBuffers else {
                timer = nil
                return engine.releaseRecordBuffers()
            }
            hasUsedBuffers = false
            timer?.schedule(after: Self.bufferTime)
        case .idle, .over: break
        }
    }

    func startTimer(_ time: Duration) {
        timer?.cancel()
        let timer = LoopTimer(on: loop) { [weak self] in self?.timeLimitReached() }
        timer.schedule(after: time)
        self.timer = timer
    }

    /// OpenSSL's record buffers are about to be used.
    func useBuffers() {
        hasUsedBuffers = true
        if timer == nil { startTimer(Self.bufferTime) }
    }

    /// How long they stay without a record.
    private static var bufferTime: Duration { .seconds(1) }

    // MARK: Half-close

    /// The peer's close_notify has been read.
    func peerFinished() {
        ends.receiveEnd()
        // What follows it is ignored (RFC 8446 §6.1); the lower stream's end should still be seen.
        _ = discardInput()
        if endsLowerWithBoth { finishLowerIfFlushed() }
    }

    private var waitsForLower: Bool { endsLowerWithBoth && isServer && failure == nil && !lowerHasEnded }

    func sendCloseNotify() {
        engine.closeNotify()
        guard flush() else {
            die(lowerFailure())
            return schedule(.failed)
        }
        finishLowerIfFlushed()
    }

    func finishLowerIfFlushed() {
        guard ends.writing == .finishing, phase == .open || phase == .departing, engine.output.isEmpty else { return }
        if endsLowerWithBoth, phase == .open, ends.reading == .open { return }
        if waitsForLower { return }
        ends.sentEnd()
        lower.finish()
    }

    /// Reads and drops what comes. True: nothing more will, or it is too much to wait for.
    private func discardInput() -> Bool {
        let scratch = loop.buffers.take(.medium)
        defer { loop.buffers.give(scratch) }
        for _ in 0..<16 {
            guard canReadLower else { return false }
            switch lower.read(into: scratch.writable) {
            case .bytes(let count):
                guard phase == .departing else { break }
                discarded += count
                if discarded > Self.discardLimit { return true }
            case .wouldBlock: canReadLower = false
            case .end, .failed:
                lowerHasEnded = true
                return true
            }
        }
        return true
    }

    /// More than a peer that means it has on its way when it is refused; who goes on reads a reset.
    private static var discardLimit: Int { 4 << 20 }

    // MARK: Failure

    /// Why the lower stream failed us. A peer that refuses our certificate says so and closes; when our next write
    /// fails because of that, the reason is the alert that is still to be read.
    func lowerFailure() -> StreamError {
        if phase == .open, ends.reading == .open {
            // What came before the end can be read, though nobody was told that it is there.
            canReadLower = true
            if engine.needsInput { _ = fill() }
            if let alert = engine.pendingAlert() { return alert }
        }
        return lower.failure ?? StreamError(.reset, "the connection to \(peerDescription) failed")
    }

    /// Both directions are over: the transport failed, bytes are missing, or time is up.
    func die(_ error: StreamError) {
        guard phase != .over, phase != .departing else { return }
        fail(error)
        answerHandshake(.failure(error))
        lower.reset(error)
        release()
    }

    /// The TLS engine has failed, and has put an alert for the peer into its output unless the peer's own alert was
    /// why.
    func refuse(_ error: StreamError) {
        guard !engine.failedByAlert, flush() else { return die(error) }
        fail(error)
        answerHandshake(.failure(error))
        engine.releaseInput()
        _ = ends.finish()
        discardsInput = true
        depart(within: options.refusalTimeout)
    }

    /// Ends the stream from this side, and tells its observer.
    package func cut(_ reason: StreamError) {
        let wasOpen = phase == .open
        die(reason)
        if wasOpen { observer?.streamFailed(self) }
    }

    // MARK: Leaving

    /// Delivers what is in the output, ends the lower stream, and then lets go of it, without the owner.
    func depart(within limit: Duration) {
        phase = .departing
        loop.departing += 1
        retained = self
        startTimer(limit)
        continueDeparture()
    }

    private func continueDeparture() {
        guard flush() else {
            lower.close()
            return release()
        }
        if waitsForLower, !discardInput() { return }
        finishLowerIfFlushed()
        guard ends.writing == .finished else { return }
        if discardsInput, !lowerHasEnded, !discardInput() { return }
        lower.close()
        release()
    }

    /// Gives back everything but what the deferred notices need.
    func release() {
        if phase == .departing { loop.departing -= 1 }
        phase = .over
        ends.release()
        timer?.cancel()
        timer = nil
        lower.observer = nil
        engine.releaseBuffers()
        if completion == nil { retained = nil }
    }

    // MARK: Deferred notices

    func schedule(_ notice: Notices) {
        deferred.insert(notice)
        guard !isScheduled else { return }
        isScheduled = true
        loop.nextTurn(self)
    }

    private func notifyReadable() {
        if phase == .open && ends.wakeReader() { observer?.streamReadable(self) }
    }

    private func notifyWritable() {
        if phase == .open && engine.output.isEmpty && ends.wakeWriter() { observer?.streamWritable(self) }
    }
}

extension TLSStream: TurnTask {
    package func runTurn() {
        isScheduled = false
        let notices = deferred
        deferred = []
        if notices.contains(.handshake), let completion, let handshakeResult {
            self.completion = nil
            if phase != .departing { retained = nil }
            completion(handshakeResult)
        }
        if notices.contains(.failed) { observer?.streamFailed(self) }
        if notices.contains(.readable) { notifyReadable() }
        if notices.contains(.writable) { notifyWritable() }
    }
}

/// What the lower stream has to say. For it alone to call.
extension TLSStream: StreamObserver {
    package func streamReadable(_ stream: ByteStream) {
        canReadLower = true
        switch phase {
        case .handshaking: continueHandshake()
        case .open where ends.reading != .open:
            _ = discardInput()
            if endsLowerWithBoth { finishLowerIfFlushed() }
        case .open: notifyReadable()
        case .departing: continueDeparture()
        case .idle, .over: break
        }
    }

    package func streamWritable(_ stream: ByteStream) {
        canWriteLower = true
        guard phase != .departing else { return continueDeparture() }
        guard flush() else { return lowerDied() }
        guard engine.output.isEmpty else { return }
        finishLowerIfFlushed()
        if readNeedsOutput {
            readNeedsOutput = false
            notifyReadable()
        }
        notifyWritable()
    }

    package func streamFailed(_ stream: ByteStream) {
        switch phase {
        case .departing:
            lower.close()
            release()
        // Everything has been said and heard.
        case .open where ends.areOver: break
        case .handshaking:
            // The peer's reason may be among what came before the end.
            canReadLower = true
            continueHandshake()
        case .idle, .open: lowerDied()
        case .over: break
        }
    }

    private func lowerDied() {
        let wasOpen = phase == .open
        die(lowerFailure())
        if wasOpen { observer?.streamFailed(self) }
    }
}
