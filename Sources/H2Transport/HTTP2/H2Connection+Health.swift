import Glibc
import Platform
package import Streams

// Whether the peer is there, whether it answers, how old the connection is, and what it reports of itself.
extension H2Connection {
    // MARK: PING

    /// Measures the round-trip time (RFC 9113 §6.7). `completion` is called once, on the loop; with a failure when the
    /// connection ends first. Without an answer the keep-alive ends it.
    package func ping(completion: @escaping (Result<Duration, StreamError>) -> Void) {
        sendPing(id: pings.nextID(), acceptsAnyByte: false, timer: nil, completion: completion)
    }

    /// Asks whether the peer is there: true as soon as any byte arrives from it, false when none has within `timeout`.
    /// The connection goes on either way; whoever asked decides.
    package func probe(timeout: Duration, completion: @escaping (Bool) -> Void) {
        let id = pings.nextID()
        let timer = LoopTimer(on: loop) { [weak self] in
            if let entry = self?.pings.take(id) {
                entry.completion(.failure(StreamError(.timedOut, "no answer to PING within \(timeout)")))
            }
        }
        timer.schedule(after: timeout)
        sendPing(id: id, acceptsAnyByte: true, timer: timer) { result in
            if case .success = result { completion(true) } else { completion(false) }
        }
    }

    /// Whether an answer to ``probe(timeout:completion:)`` is awaited.
    package var isBeingProbed: Bool { pings.hasProbe }

    private func sendPing(
        id: UInt64,
        acceptsAnyByte: Bool,
        timer: LoopTimer?,
        completion: @escaping (Result<Duration, StreamError>) -> Void
    ) {
        guard !isClosed, session != nil else {
            timer?.cancel()
            let error = StreamError(.closed, "the connection to \(peerDescription) is closed")
            loop.later { completion(.failure(error)) }
            return
        }
        pings.append(
            PingQueue.Entry(
                id: id,
                sentAt: EventLoop.monotonicTime(),
                acceptsAnyByte: acceptsAnyByte,
                timer: timer,
                completion: completion
            )
        )
        session?.ping(id)
        markDirty()
    }

    func receivedPong(_ id: UInt64) {
        let now = EventLoop.monotonicTime()
        if let entry = pings.take(id) {
            entry.completion(.success(roundTrip.answered(after: now &- entry.sentAt)))
        } else if let sentAt = pings.takeAnswered(id) {
            roundTrip.saw(now &- sentAt)
        } else {
            // An answer that nobody asked for.
            countControlFrame()
        }
    }

    /// Bytes have arrived: everybody who only wanted to know that is told.
    func answerProbes() {
        while let entry = pings.takeProbe() {
            entry.completion(.success(.nanoseconds(Int64(clamping: EventLoop.monotonicTime() &- entry.sentAt))))
        }
    }

    // MARK: Doubt

    /// The peer has not answered in time what it was asked `since`: nothing new is begun here until something comes
    /// from it. What is open goes on until TCP or the keep-alive gives up: a pause is no reason to lose bytes.
    func doubt(_ reason: StreamError, since: UInt64) {
        guard !isClosed, doubt == nil else { return }
        doubt = reason
        doubtedAt = since
    }

    /// Requests that the peer has not answered.
    var hasUnansweredRequests: Bool { streams.values.contains { $0.phase == .requested } }

    /// None of their bytes has been sent, so that they may be asked again elsewhere.
    package func giveUpRequests(_ reason: StreamError) {
        for stream in streams.values where stream.phase == .requested {
            failRequest(stream, ConnectFailure(reason, isRetryable: true))
        }
    }

    /// Something has come from a peer in doubt.
    func endDoubt() {
        doubt = nil
        slowestAnswer = .nanoseconds(Int64(clamping: loop.now &- doubtedAt))
        delegate?.connectionHasCapacity(self)
    }

    // MARK: Keep-alive

    func startKeepAlive() {
        let timer = LoopTimer(on: loop) { [weak self] in self?.keepAliveIsDue() }
        timers.keepAlive = timer
        timer.schedule(after: configuration.keepAlive.interval)
    }

    private func keepAliveIsDue() {
        guard !isClosed else { return }
        switch liveness.look(lastReceived: lastReceived, now: loop.now) {
        case .wait(let time): timers.keepAlive?.schedule(after: time)
        case .ping(let time):
            ping { _ in }
            timers.keepAlive?.schedule(after: time)
        case .dead:
            let time = configuration.keepAlive.timeout
            end(StreamError(.timedOut, "no answer to PING from \(peerDescription) within \(time)"))
        }
    }

    // MARK: Requests without an answer

    func expectAnswer(to stream: H2Stream) {
        deadlines.append(stream.id, now: stream.requestedAt) { streams[$0]?.phase == .requested }
        let timer = timers.request ?? LoopTimer(on: loop) { [weak self] in self?.expireRequests() }
        timers.request = timer
        if !timer.isScheduled { timer.schedule(after: configuration.requestTimeout) }
    }

    private func expireRequests() {
        while let next = deadlines.next(now: loop.now, isWaiting: { streams[$0]?.phase == .requested }) {
            switch next {
            case .wait(let time):
                timers.request?.schedule(after: time)
                return
            case .expired(let id):
                guard let stream = streams[id] else { return }
                let authority = Printable.escape(stream.requestHead.authority)
                let limit = configuration.requestTimeout
                let message = "\(peerDescription) did not answer the request for \(authority) within \(limit)"
                failRequest(stream, ConnectFailure(StreamError(.timedOut, message)))
            }
        }
    }

    // MARK: Age

    /// When the first of the two certificates expires that the connection was made with, in seconds since 1970; nil
    /// where there are none. From then on the connection takes no new streams; those that are open go on, for
    /// ``H2Configuration/Age/drainTimeout``.
    ///
    /// That policy allows a stream was decided when it was opened, and is decided again whenever policy changes: an
    /// expired certificate is a reason not to believe in anything new, none to lose bytes.
    package var certificatesExpireAt: Int64? {
        get { age.expiry }
        set {
            age.expiry = newValue
            scheduleAging()
        }
    }

    func scheduleAging() {
        guard !isClosed, let delay = age.nextLook(now: loop.now, wallClock: Self.secondsSince1970) else { return }
        let timer = timers.age ?? LoopTimer(on: loop) { [weak self] in self?.checkAge() }
        timers.age = timer
        timer.schedule(after: delay)
    }

    private func checkAge() {
        guard !isClosed else { return }
        switch age.look(now: loop.now, wallClock: Self.secondsSince1970, &counters) {
        case .young: break
        case .expired: return retire()
        case .tooOld: if let delegate { delegate.connectionIsTooOld(self) } else { retire() }
        }
        scheduleAging()
    }

    private static var secondsSince1970: Int64 { WallClock.system.seconds }

    // MARK: Metrics

    func startMetrics() {
        guard exported.isEnabled else { return }
        configuration.metrics.instruments(role).connectionOpened()
        timers.metrics = LoopTimer(on: loop) { [weak self] in
            self?.exported.isDue()
            self?.exportMetrics()
        }
    }

    /// Something was received. An idle connection sets no timer.
    func scheduleMetrics() { timers.metrics?.schedule(after: MetricsExport.interval) }

    func stopMetrics() {
        guard exported.isEnabled else { return }
        timers.metrics?.cancel()
        _ = exported.schedule()
        exportMetrics()
        configuration.metrics.instruments(role).connectionClosed()
    }

    private func exportMetrics() {
        let levels = MetricsExport.Levels(
            streams: streams.count,
            queuedBytes: isClosed ? 0 : queuedBytes,
            roundTripTime: roundTripTime
        )
        exported.export(counters, levels, to: configuration.metrics.instruments(role))
    }

    func stopTimers() {
        timers.keepAlive?.cancel()
        timers.request?.cancel()
        timers.drain?.cancel()
        timers.age?.cancel()
        unreadTimer?.cancel()
    }
}
