import Platform
import Streams

// Opening tunnels, on both sides.
extension H2Connection {
    /// Client: asks for a tunnel. `completion` is called once, on the loop and never from inside this call, with the
    /// open stream when the peer has answered 2xx.
    ///
    /// - Returns: The stream that is being opened; its only use before that is `reset`, which gives up without a call
    ///   of `completion`. Nil when nothing was sent.
    @discardableResult
    package func openStream(
        _ request: ConnectRequest,
        completion: @escaping (Result<H2Stream, ConnectFailure>) -> Void
    ) -> H2Stream? {
        openStream(RequestHead(request), completion: completion)
    }

    /// The same, for the head of a request for a tunnel.
    @discardableResult
    func openStream(
        _ head: RequestHead,
        completion: @escaping (Result<H2Stream, ConnectFailure>) -> Void
    ) -> H2Stream? {
        open(head, as: .tunnel, ends: false, completion)
    }

    /// Client: asks for anything. The request's body is what is written to the stream from now on, up to its end.
    /// `completion` is called once, as above, with whatever the peer answers; its body is read from the stream, and
    /// trailers come before the end.
    ///
    /// - Parameter ends: The request has no body: its head is all of it.
    /// - Returns: The stream. Nil when nothing was sent.
    package func openExchange(
        _ head: RequestHead,
        ends: Bool = false,
        completion: @escaping (Result<H2Stream, ConnectFailure>) -> Void
    ) -> H2Stream? {
        open(head, as: .exchange, ends: ends, completion)
    }

    private func open(
        _ head: RequestHead,
        as kind: H2Stream.Kind,
        ends: Bool,
        _ completion: @escaping (Result<H2Stream, ConnectFailure>) -> Void
    ) -> H2Stream? {
        precondition(!isServer, "only an HTTP/2 client opens streams")
        func refuse(_ failure: ConnectFailure) -> H2Stream? {
            loop.later { completion(.failure(failure)) }
            return nil
        }
        guard !isClosed, !isDraining, session?.allowsRequests == true else {
            let message = "the connection to \(peerDescription) takes no more streams"
            return refuse(ConnectFailure(StreamError(.draining, message), isRetryable: true))
        }
        guard availableStreams > 0 else {
            let message = "\(peerDescription) allows no more than \(streams.count) streams on one connection"
            return refuse(ConnectFailure(StreamError(.limit, message), isRetryable: true))
        }
        let id = session?.nextStreamID ?? 0
        block.set(head)
        if kind == .tunnel, let trace = traceToSend(with: id), head.fields["traceparent"] == nil { block.add(trace) }
        if let field = block.invalidField() {
            let message = "header field '\(Printable.escape(field))' has a name or a value that HTTP/2 does not allow"
            return refuse(ConnectFailure(StreamError(.badRequest, message)))
        }
        let stream = H2Stream(id: id, head, kind: kind, connection: self)
        if ends { stream.endsAtOnce() }
        if let error = session?.submitRequest(block, for: stream, ends: ends) {
            // Stream identifiers are used up after 2³⁰ requests (RFC 9113 §5.1.1): another connection has new ones.
            _ = life.refusedMoreStreams()
            return refuse(ConnectFailure(StreamError(.draining, "HTTP/2 request: \(error)"), isRetryable: true))
        }
        stream.completion = completion
        streams[stream.id] = stream
        expectAnswer(to: stream)
        markDirty()
        return stream
    }

    /// Ends a request that has no tunnel.
    func failRequest(_ stream: H2Stream, _ failure: ConnectFailure) {
        guard stream.phase == .requested, let completion = stream.completion else { return }
        counters.requestsRefused += 1
        stream.completion = nil
        // The peer may have answered meanwhile: a stream that was to go on is not to end by that.
        stream.abandon(failure.error, stream.requestHead.resumesStream ? .streamClosed : .cancel)
        completion(.failure(failure))
    }

    // MARK: Heads of messages

    /// Called by nghttp2.
    func receivedRequest(_ head: MessageHead, id: Int32, endsStream: Bool) {
        let kind: H2Stream.Kind = service == .tunnels ? .tunnel : .exchange
        let request = head.request
        if request.fields.isEmpty { lastRequest = request }
        let stream = H2Stream(id: id, request, kind: kind, connection: self)
        stream.head = head
        streams[id] = stream
        session?.setUserData(stream)
        heads.record(stream)
        if endsStream { receivedEnd(stream) }
    }

    /// Before the bytes of the same batch are delivered, their streams get their owners.
    func dispatchHeads() {
        guard heads.begin() else { return }
        while !isClosed, let stream = heads.popFirst() {
            if !stream.interims.isEmpty { dispatchInterims(stream) }
            guard let head = stream.head else { continue }
            stream.head = nil
            if isServer {
                dispatchRequest(stream, head)
            } else {
                dispatchResponse(stream, head)
            }
        }
        heads.finish()
    }

    private func dispatchInterims(_ stream: H2Stream) {
        let interims = stream.interims
        stream.interims = []
        for head in interims where !head.isTooLarge && !head.isMalformed && stream.phase == .requested {
            stream.onInterim?(head.status, head.fields)
        }
    }

    private func dispatchResponse(_ stream: H2Stream, _ head: MessageHead) {
        guard stream.phase == .requested else { return }
        guard !head.isMalformed else { return brokeRule(stream) }
        let response = ConnectResponse(status: head.status, headers: head.fields)
        if head.isTooLarge { counters.headersTooLarge += 1 }
        guard response.isSuccess || stream.kind == .exchange, !head.isTooLarge, let completion = stream.completion
        else {
            let failure =
                head.isTooLarge
                ? ConnectFailure(StreamError(.limit, "\(peerDescription) answered with too large a header"))
                : ConnectFailure(
                    response: response,
                    body: startOfBody(of: stream),
                    authority: stream.requestHead.authority,
                    peer: peerDescription
                )
            return failRequest(stream, failure)
        }
        stream.completion = nil
        stream.response = response
        counters.streamsOpened += 1
        allowance.answered(announced: session?.peerStreamLimit ?? 0)
        stream.open()
        completion(.success(stream))
    }

    /// What of a refusal's body came with it: Envoy's only explanation.
    private func startOfBody(of stream: H2Stream) -> String {
        String(decoding: batch.chunks.first(of: stream.receiving.chunks).prefix(256), as: UTF8.self)
    }

    private func dispatchRequest(_ stream: H2Stream, _ head: MessageHead) {
        guard !head.isTooLarge else {
            counters.headersTooLarge += 1
            // Decoding it was work for nothing, as with a stream that breaks the rules.
            chargeProvokedWork()
            return reject(stream, ConnectRejection(status: 431))
        }
        guard !stream.requestHead.contradictsHost, !head.isMalformed else { return brokeRule(stream) }
        if service == .exchanges {
            guard let delegate else { return refuseBeyondLimit(stream) }
            stream.phase = .open
            counters.streamsOpened += 1
            return delegate.connection(self, received: stream)
        }
        guard stream.requestHead.opensTunnel else {
            let details = "only CONNECT and POST open a tunnel"
            return reject(
                stream,
                ConnectRejection(status: 405, reason: ProxyStatus(error: "http_request_error", details: details))
            )
        }
        let request = stream.request
        let destination: Authority
        do throws(StreamError) {
            destination = try self.destination(of: request)
        } catch {
            return reject(stream, ConnectRejection(error))
        }
        guard requests.count < configuration.limits.pendingRequests, let delegate else {
            return refuseBeyondLimit(stream)
        }
        let pending = PendingConnect(request, stream: stream, destination: destination, peer: peer)
        stream.pending = pending
        guard requests.add(pending, to: destination, limit: configuration.limits.pendingPerDestination) else {
            pending.waits = true
            return
        }
        delegate.connection(self, received: pending)
    }

    /// Most requests of a peer ask for what the one before has asked for: the same text is not read again.
    private func destination(of request: ConnectRequest) throws(StreamError) -> Authority {
        guard request.tunnelDestination == nil else { return try request.destination() }
        if let last = lastDestination, last.text == request.authority { return last.destination }
        let destination = try request.destination()
        lastDestination = (request.authority, destination)
        return destination
    }

    /// Requests whose destination is being dialled, or who wait for that.
    package var pendingRequests: Int { requests.count }

    /// A request has its answer, or nobody works on it any more.
    func requestEnded(_ destination: Authority) {
        // Not from inside of whatever let it go.
        if requests.end(to: destination) && !isClosed { addEvent(.requestsReady) }
    }

    func handOnRequests() {
        while let pending = requests.next() {
            pending.waits = false
            delegate?.connection(self, received: pending)
        }
    }

    private func refuseBeyondLimit(_ stream: H2Stream) {
        counters.requestsOverLimit += 1
        refuseUnseen(stream)
    }

    /// The client may ask again, here or on another connection (RFC 9113 §8.7).
    func refuseUnseen(_ stream: H2Stream) {
        counters.requestsRefused += 1
        stream.refuse()
        submitReset(stream, .refusedStream)
        stream.wasReset = true
        if let excess = flood.refusedRequest(now: loop.now) { cutOff(excess) }
    }

    // MARK: Answers

    func accept(_ stream: H2Stream, _ response: ConnectResponse) {
        guard !isClosed, session != nil else { return }
        block.set(response)
        guard session?.submitResponse(block, openingBodyOf: stream) == true, block.invalidField() == nil else {
            return stream.reset(StreamError(.protocolViolation, "the answer has a header field that is not allowed"))
        }
        stream.response = response
        counters.streamsOpened += 1
        stream.open()
        markDirty()
    }

    /// Answers an exchange.
    ///
    /// - Parameter ends: The answer has no body: its head is all of it.
    /// - Returns: Whether the fields may be sent.
    func respond(to stream: H2Stream, _ response: ConnectResponse, ends: Bool) -> Bool {
        guard !isClosed, session != nil else { return true }
        block.set(response)
        guard block.invalidField() == nil else { return false }
        if response.status < 200 {
            session?.submitInterim(block, on: stream.id)
        } else {
            stream.response = response
            if ends { stream.endsAtOnce() }
            let isTaken =
                ends
                ? session?.submitResponse(block, ending: stream.id)
                : session?.submitResponse(block, openingBodyOf: stream)
            guard isTaken == true else { return false }
            stream.open()
        }
        markDirty()
        return true
    }

    func reject(_ stream: H2Stream, _ rejection: ConnectRejection) {
        counters.requestsRefused += 1
        stream.refuse()
        guard !isClosed, session != nil else { return }
        var headers = HeaderFields()
        if let reason = rejection.reason { headers["proxy-status"] = reason.fieldValue }
        if let challenge = rejection.challenge { headers["www-authenticate"] = challenge }
        let response = ConnectResponse(status: rejection.status, headers: headers)
        stream.response = response
        block.set(response)
        if session?.submitResponse(block, ending: stream.id) != true {
            submitReset(stream, .internalError)
        }
        markDirty()
    }

    /// Sends RST_STREAM, which cancels whatever else the stream would still have sent.
    func submitReset(_ stream: H2Stream, _ code: HTTP2ErrorCode) {
        guard session != nil, streams[stream.id] != nil else { return }
        if session?.reset(stream.id, code) == true { flood.submittedReset() }
        markDirty()
    }

    // MARK: Ends of streams

    /// Tells a client by NO_ERROR that nobody reads what it still sends (RFC 9113 §8.1), where it has not ended by
    /// itself meanwhile. Not at once: a client that is writing may take the reset for the end of all, and lose an
    /// answer that it has but has not looked at. What comes until then is dropped.
    func stopLater(_ stream: H2Stream) {
        unread.append(stream.id, now: loop.now, isWaiting: isUnread)
        let timer = unreadTimer ?? LoopTimer(on: loop) { [weak self] in self?.stopUnread() }
        unreadTimer = timer
        if !timer.isScheduled { stopUnread() }
    }

    private func isUnread(_ id: Int32) -> Bool {
        guard let stream = streams[id] else { return false }
        return !stream.wasReset && stream.receiving.state == .open
    }

    private func stopUnread() {
        while let next = unread.next(now: loop.now, isWaiting: isUnread) {
            switch next {
            case .wait(let time):
                unreadTimer?.schedule(after: time)
                return
            case .expired(let id):
                guard let stream = streams[id] else { return }
                stream.wasReset = true
                submitReset(stream, .noError)
            }
        }
    }

    func wasReset(_ stream: H2Stream, _ code: HTTP2ErrorCode) {
        stream.receivedReset = code.rawValue
        stream.pending?.cancel()
        if stream.phase == .requested && !isServer {
            let isRefusal = code == .refusedStream
            if isRefusal { allowance.refused(open: streams.count, now: loop.now) }
            let message =
                "\(peerDescription) reset the request for \(Printable.escape(stream.requestHead.authority)) (\(code))"
            var failure = ConnectFailure(StreamError(isRefusal ? .draining : .reset, message), isRetryable: isRefusal)
            failure.isRefusal = isRefusal
            return failRequest(stream, failure)
        }
        stream.received(reset: code)
    }

    /// nghttp2 has forgotten the stream: both directions ended, or it was reset by either side, or GOAWAY left it out.
    func closed(_ stream: H2Stream, _ code: HTTP2ErrorCode) {
        if !stream.wasReset {
            stream.pending?.cancel()
            if stream.phase == .requested && !isServer {
                // Also where GOAWAY came before the request could be sent: nghttp2 ends it with this code.
                let isRetryable = code == .refusedStream
                let message =
                    "\(peerDescription) did not take the request for \(Printable.escape(stream.requestHead.authority)) (\(code))"
                failRequest(
                    stream,
                    ConnectFailure(
                        StreamError(isRetryable ? .draining : .protocolViolation, message),
                        isRetryable: isRetryable
                    )
                )
            } else if code != .noError {
                stream.wasReset = true
                stream.lost(
                    StreamError(.protocolViolation, "the stream was reset because of what the peer sent (\(code))")
                )
            }
        }
        stream.detach()
        if !isServer { delegate?.connectionHasCapacity(self) }
        if streams.isEmpty { becameIdle() }
    }
}

extension StreamError {
    /// Says something about one connection only: the same request may succeed on another. Not so where the peer is
    /// somebody else, refuses this side's certificate, or does not speak HTTP/2.
    var isOfOneConnection: Bool {
        switch code {
        case .closed, .draining, .reset, .truncated, .timedOut: true
        default: false
        }
    }
}
