import CNGHTTP2
import Platform
public import Streams

// Keeping the connection alive, and ending it.
extension H2Connection {
    // MARK: PING

    /// Measures the round-trip time (RFC 9113 §6.7). `completion` is called once, on the loop; with a failure when the
    /// connection ends first. Without an answer the keep-alive ends it.
    public func ping(completion: @escaping (Result<Duration, StreamError>) -> Void) {
        sendPing(acceptsAnyByte: false, timer: nil, completion: completion)
    }

    /// Asks whether the peer is there: true as soon as any byte arrives from it, false when none has within `timeout`. The
    /// connection goes on either way; whoever asked decides.
    public func probe(timeout: Duration, completion: @escaping (Bool) -> Void) {
        var timer: LoopTimer?
        let id = pings.nextID()
        timer = LoopTimer(on: loop) { [weak self] in
            if let entry = self?.pings.take(id) {
                entry.completion(.failure(StreamError(.timedOut, "no answer to PING within \(timeout)")))
            }
        }
        timer?.schedule(after: timeout)
        sendPing(id: id, acceptsAnyByte: true, timer: timer) { result in
            if case .success = result { completion(true) } else { completion(false) }
        }
    }

    private func sendPing(
        id: UInt64? = nil,
        acceptsAnyByte: Bool,
        timer: LoopTimer?,
        completion: @escaping (Result<Duration, StreamError>) -> Void
    ) {
        let id = id ?? pings.nextID()
        guard !isClosed, let nghttp2 else {
            timer?.cancel()
            let error = StreamError(.closed, "the connection to \(peerDescription) is closed")
            LoopCall(on: loop) { completion(.failure(error)) }
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
        _ = withUnsafeBytes(of: id) { bytes in
            nghttp2_submit_ping(
                nghttp2,
                UInt8(NGHTTP2_FLAG_NONE.rawValue),
                bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
            )
        }
        markDirty()
    }

    func receivedPong(_ id: UInt64) {
        // An answer that nobody asked for.
        guard let entry = pings.take(id) else { return countControlFrame() }
        let nanoseconds = EventLoop.monotonicTime() &- entry.sentAt
        sawRoundTrip(nanoseconds)
        let time = Duration.nanoseconds(Int64(clamping: nanoseconds))
        roundTripTime = time
        entry.completion(.success(time))
    }

    /// Bytes have arrived: everybody who only wanted to know that is told.
    func answerProbes() {
        while let entry = pings.takeProbe() {
            entry.completion(.success(.nanoseconds(Int64(clamping: EventLoop.monotonicTime() &- entry.sentAt))))
        }
    }

    // MARK: Keep-alive

    func startKeepAlive() {
        let timer = LoopTimer(on: loop) { [weak self] in self?.keepAliveIsDue() }
        keepAliveTimer = timer
        timer.schedule(after: configuration.keepAlive.interval)
    }

    private func keepAliveIsDue() {
        guard !isClosed else { return }
        let silence = Duration.nanoseconds(Int64(clamping: loop.now &- lastReceived))
        if let sentAt = keepAlivePing, sentAt >= lastReceived {
            let waited = Duration.nanoseconds(Int64(clamping: loop.now &- sentAt))
            if waited >= configuration.keepAlive.timeout {
                return end(
                    StreamError(
                        .timedOut,
                        "no answer to PING from \(peerDescription) within \(configuration.keepAlive.timeout)"
                    )
                )
            }
            keepAliveTimer?.schedule(after: configuration.keepAlive.timeout - waited)
        } else if silence >= configuration.keepAlive.interval {
            keepAlivePing = loop.now
            ping { _ in }
            keepAliveTimer?.schedule(after: configuration.keepAlive.timeout)
        } else {
            keepAlivePing = nil
            keepAliveTimer?.schedule(after: configuration.keepAlive.interval - silence)
        }
    }

    // MARK: Requests without an answer

    func expectAnswer(to stream: H2Stream) {
        forgetAnsweredRequests()
        requests.append((stream.id, stream.requestedAt))
        if requestTimer == nil { requestTimer = LoopTimer(on: loop) { [weak self] in self?.expireRequests() } }
        if requestTimer?.isScheduled == false { requestTimer?.schedule(after: configuration.requestTimeout) }
    }

    /// Keeps the list as short as what is really awaited, as far as its oldest entry allows.
    private func forgetAnsweredRequests() {
        while firstRequest < requests.count, streams[requests[firstRequest].id]?.phase != .requested {
            firstRequest += 1
        }
        if firstRequest == requests.count || firstRequest >= 1024 {
            requests.removeFirst(firstRequest)
            firstRequest = 0
        }
    }

    /// All requests have the same time, so the oldest are first.
    private func expireRequests() {
        let limit = configuration.requestTimeout
        forgetAnsweredRequests()
        while firstRequest < requests.count {
            let (id, sentAt) = requests[firstRequest]
            let left = limit - .nanoseconds(Int64(clamping: loop.now &- sentAt))
            guard left <= .zero else {
                requestTimer?.schedule(after: left)
                return
            }
            guard let stream = streams[id] else { return }
            let authority = printable(stream.request.authority)
            let message = "\(peerDescription) did not answer the request for \(authority) within \(limit)"
            failRequest(stream, ConnectFailure(StreamError(.timedOut, message)))
            forgetAnsweredRequests()
        }
    }

    // MARK: Going away

    func receivedGoAway() {
        guard !isDraining else { return }
        isDraining = true
        delegate?.connectionIsDraining(self)
        if streams.isEmpty { becameIdle() }
    }

    /// Takes no more streams and closes when those that are open have ended, or after `deadline` at the latest. In two steps,
    /// so that no request on its way is lost (RFC 9113 §6.8): first a GOAWAY that refuses nothing, and the final one after a
    /// round trip.
    ///
    /// Called again, it can only shorten the time.
    ///
    /// - Parameters:
    ///   - deadline: nil: streams may go on for as long as they last.
    ///   - completion: Called once on the loop, when the connection is gone.
    public func drain(deadline: Duration?, completion: (() -> Void)? = nil) {
        guard !isClosed, let nghttp2 else {
            if let completion { LoopCall(on: loop, completion) }
            return
        }
        if let completion {
            let before = drainCompletion
            drainCompletion = {
                before?()
                completion()
            }
        }
        if let deadline { limitDraining(to: deadline) }
        guard !isDrainStarted else { return }
        isDrainStarted = true
        if isServer {
            _ = nghttp2_submit_shutdown_notice(nghttp2)
            ping { [weak self] _ in self?.sendFinalGoAway() }
        } else {
            isDraining = true
            sendFinalGoAway()
        }
        markDirty()
    }

    private func limitDraining(to deadline: Duration) {
        let time = loop.now &+ deadline.nanoseconds
        guard time < drainDeadline else { return }
        drainDeadline = time
        let timer =
            drainTimer
            ?? LoopTimer(on: loop) { [weak self] in
                self?.end(StreamError(.draining, "streams were still open when the time to drain was over"))
            }
        drainTimer = timer
        timer.schedule(after: deadline)
    }

    private func sendFinalGoAway() {
        guard !isClosed, let nghttp2 else { return }
        isDraining = true
        let last = nghttp2_session_get_last_proc_stream_id(nghttp2)
        _ = nghttp2_submit_goaway(
            nghttp2,
            UInt8(NGHTTP2_FLAG_NONE.rawValue),
            last,
            HTTP2ErrorCode.noError.rawValue,
            nil,
            0
        )
        markDirty()
        if streams.isEmpty { becameIdle() }
    }

    /// Ends the connection: at once where there are streams, which fail; with a GOAWAY where there are none.
    public func close() {
        guard !isClosed else { return }
        guard streams.isEmpty, let nghttp2 else {
            return end(StreamError(.closed, "the connection to \(peerDescription) was closed by this side"))
        }
        isDraining = true
        let last = nghttp2_session_get_last_proc_stream_id(nghttp2)
        _ = nghttp2_submit_goaway(
            nghttp2,
            UInt8(NGHTTP2_FLAG_NONE.rawValue),
            last,
            HTTP2ErrorCode.noError.rawValue,
            nil,
            0
        )
        closesWhenFlushed = true
        markDirty()
    }

    /// Cuts the connection at once: the peer sees an abort, the streams fail with `reason`.
    public func abort(_ reason: StreamError) { end(reason) }

    /// The last stream has ended.
    func becameIdle() {
        guard isDraining, !isClosed else { return }
        closesWhenFlushed = true
        markDirty()
    }

    /// Everything has been sent, GOAWAY included.
    func finishClosing() {
        guard let nghttp2, nghttp2_session_want_write(nghttp2) == 0 else { return }
        end(closeReason ?? brokenByPeer(), abortsLower: false)
    }

    /// What to say when nghttp2 gave the connection up: it has told the peer by GOAWAY.
    private func brokenByPeer() -> StreamError? {
        guard inputHasEnded, !isDraining || !streams.isEmpty else { return nil }
        return StreamError(
            .protocolViolation,
            "\(peerDescription) broke the rules of HTTP/2; the connection was closed"
        )
    }

    func stopTimers() {
        keepAliveTimer?.cancel()
        requestTimer?.cancel()
        drainTimer?.cancel()
        ageTimer?.cancel()
    }
}
