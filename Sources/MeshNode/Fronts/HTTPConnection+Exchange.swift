import CLinux
import H2Transport
import HTTP1
import Logging
import Streams

// A request on its way to its server, and the response: what `HTTPServerStream` asks for.
extension HTTPConnection {
    /// Whether the exchange has more to read from the client.
    var wantsRequestBytes: Bool {
        guard let exchange else { return false }
        return exchange.isUpgraded || !exchange.isRequestRead
    }

    func readRequests(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        guard state == .exchange, exchange != nil else { return .wouldBlock }
        while let exchange {
            if !exchange.toServer.isEmpty {
                let count = min(exchange.toServer.count, buffer.count)
                exchange.toServer.withUnsafeBytes { buffer.copyMemory(from: .init(rebasing: $0[..<count])) }
                self.exchange?.toServer.removeSubrange(..<count)
                self.exchange?.hasBegun = true
                noteIfSent()
                return .bytes(count)
            }
            if exchange.isUpgraded { return readUpgraded(into: buffer) }
            guard !exchange.isRequestRead else { return .wouldBlock }
            if consumed == input.count, exchange.plainRequestBytes > 0 {
                let room = UnsafeMutableRawBufferPointer(
                    rebasing: buffer[..<min(buffer.count, exchange.plainRequestBytes)]
                )
                let result = client.read(into: room)
                if case .bytes(let count) = result {
                    self.exchange?.skipRequest(count)
                    noteIfSent()
                }
                return checked(result)
            }
            do throws(HTTPError) {
                try self.exchange?.readRequest(input, &consumed)
            } catch {
                if exchange.hasAnswerBegun {
                    end(resetting: StreamError(.badRequest, error.message))
                } else {
                    answerBroken(error)
                }
                return .failed
            }
            guard let now = self.exchange, now.toServer.isEmpty, !now.isRequestRead else { continue }
            switch readMore() {
            case .bytes: clock.clientHasSent()
            case let result: return checked(result)
            }
        }
        return .failed
    }

    /// A client that ends before its request does has not made it.
    private func checked(_ result: ReadResult) -> ReadResult {
        switch result {
        case .bytes:
            clock.clientHasSent()
            return result
        case .wouldBlock:
            clock.clientHasNothing()
            return result
        case .end: end(resetting: StreamError(.truncated, "the HTTP client ended before its request did"))
        case .failed: end(resetting: client.failure ?? .closed(client))
        }
        return .failed
    }

    private func readUpgraded(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        if consumed < input.count {
            let count = min(input.count - consumed, buffer.count)
            input[consumed..<consumed + count].withUnsafeBytes { buffer.copyMemory(from: $0) }
            consumed += count
            return .bytes(count)
        }
        let result = client.read(into: buffer)
        if result == .failed { end(resetting: client.failure ?? .closed(client)) }
        return result
    }

    func writeResponses(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        // Also where the answer before is still on its way to the client: held back, it would pass for the next one.
        guard state == .exchange, let exchange, !exchange.isAnswered else { return writeUnasked() }
        guard exchange.hasBegun else {
            serverBroke(StreamError(.protocolViolation, "the server answers before it has the request"))
            return .failed
        }
        guard !hasOutput else { return .wouldBlock }
        let plain = exchange.isUpgraded ? Int.max : exchange.plainAnswerBytes
        let offered = vectors.reduce(0) { $0 + $1.iov_len }
        if plain >= offered {
            let result = client.write(vectors)
            switch result {
            case .bytes(let count):
                clock.clientHasTaken()
                if count < offered { clock.clientIsFull() }
                if !exchange.isUpgraded {
                    self.exchange?.skipAnswer(count)
                    goOnIfAnswered()
                }
            case .wouldBlock: clock.clientIsFull()
            case .failed: end(resetting: client.failure ?? .closed(client))
            }
            return result
        }
        do throws(HTTPError) {
            for vector in vectors {
                try self.exchange?.receive(UnsafeRawBufferPointer(start: vector.iov_base, count: vector.iov_len))
            }
        } catch {
            carrier.peerLog.log(
                .warning,
                "bad response",
                of: "\(exchange.destination)",
                label: "to",
                ["reason": "\(error)"]
            )
            serverBroke(StreamError(.protocolViolation, "the server's response cannot be read: \(error)"))
            return .failed
        }
        // What the client has said early is the new protocol's.
        if self.exchange?.isUpgraded == true { server?.stream.wake() }
        passOn()
        return state == .over ? .failed : .bytes(offered)
    }

    /// A server that speaks when it is not asked is not asked again.
    private func writeUnasked() -> WriteResult {
        guard let server else { return .failed }
        if exchange == nil || exchange?.isAnswered == true {
            server.stream.abort(StreamError(.protocolViolation, "the server sends what nobody has asked for"))
            self.server = nil
        }
        return .failed
    }

    /// What the exchange has for the client goes out.
    private func passOn() {
        guard let bytes = exchange?.toClient, !bytes.isEmpty else { return goOnIfAnswered() }
        exchange?.toClient = []
        clock.clientHasTaken()
        write(bytes)
        goOnIfAnswered()
    }

    private func goOnIfAnswered() {
        // Not from inside of the server's stream, which may go with it.
        if isLive, exchange?.isAnswered == true { loop.nextTurn(self) }
    }

    /// The client has taken everything.
    func goOn() {
        guard state == .exchange, let exchange, !hasOutput else { return }
        guard exchange.isAnswered else { return server?.stream.wake() ?? () }
        if !exchange.keepsServer { dismissServer() }
        if exchange.closesClient || !exchange.isRequestRead {
            dropExchange()
            return close()
        }
        // What its relay still holds of it was not asked for, and is found before the next request is read.
        server?.stream.wake()
        nextRequest()
    }

    /// The exchange is answered, and its server has no other. One that has a part of the request only must not take it
    /// for the whole.
    private func dismissServer() {
        guard let server else { return }
        self.server = nil
        if exchange?.isRequestSent == false {
            server.stream.abort(StreamError(.closed, "the server answered before the request was over"))
        } else {
            server.stream.letGo()
        }
    }

    // MARK: Time

    /// For an exchange that begins, or begins again.
    func startClock() {
        clock.start()
        guard let stall = timeouts.stall else { return }
        let isWaitedFor = exchange?.isRequestRead == true
        timer?.schedule(after: isWaitedFor ? timeouts.upstream ?? stall : stall)
    }

    private func noteIfSent() {
        guard exchange?.isRequestSent == true else { return }
        clock.requestIsSent(at: loop.now)
        watchClient()
    }

    /// A client that goes while it waits for its answer is noticed by who reads: a little of what it says ahead is
    /// kept. One that has ended may still read: it gets what comes without a pause.
    func watchClient() {
        guard state == .exchange, let exchange, exchange.isRequestRead, !exchange.isUpgraded, !clock.clientHasEnded
        else { return }
        while input.count - consumed < Self.piece {
            switch readMore() {
            case .bytes: continue
            case .wouldBlock: return
            case .end:
                clock.clientEnds()
                timer?.schedule(after: Self.patienceAfterEnd)
                return
            case .failed: return end(resetting: client.failure ?? .closed(client))
            }
        }
    }

    private static var patienceAfterEnd: Duration { .seconds(1) }

    func exchangeTimedOut() {
        guard let exchange, !exchange.isUpgraded else { return }
        if clock.clientHasEnded {
            guard !clock.lookAfterEnd() else {
                return end(resetting: StreamError(.closed, "the HTTP client has gone"))
            }
            timer?.schedule(after: Self.patienceAfterEnd)
            return
        }
        guard let stall = timeouts.stall else { return }
        var next = stall
        if let upstream = timeouts.upstream, let sent = clock.sent, !exchange.hasAnswerBegun {
            let passed = Duration.nanoseconds(Int64(clamping: loop.now &- sent))
            guard passed < upstream else {
                let error = StreamError(.timedOut, "\(exchange.destination) has not answered within \(upstream)")
                carrier.report(error, to: exchange.destination)
                dismissServer(error)
                return answerInstead(.noResponse)
            }
            next = upstream - passed
        } else if clock.look() {
            let error = StreamError(.timedOut, "the HTTP client neither sends nor reads")
            guard !exchange.isAnswerShown, !exchange.isRequestRead else { return end(resetting: error) }
            dismissServer(error)
            return answerInstead(.bad(HTTPError(408, "the content of the request did not come in time")))
        }
        timer?.schedule(after: next)
    }

    private func dismissServer(_ error: StreamError) {
        let stream = server?.stream
        server = nil
        stream?.abort(error)
    }

    // MARK: The server's end

    func serverEnded() {
        guard state == .exchange, exchange != nil else {
            server?.stream.letGo()
            server = nil
            return
        }
        if exchange?.isUpgraded == true {
            serverHasEnded = true
            return finishIfServerHas()
        }
        if exchange?.end() == true {
            dismissServer()
            return passOn()
        }
        let error = StreamError(.truncated, "the server ended before its response did")
        if let server { server.stream.abort(error) }
        serverBroke(error)
    }

    /// An upgraded client reads the end after everything that the server has said.
    func finishIfServerHas() {
        if serverHasEnded, !hasOutput { client.finish() }
    }

    func serverFailed(_ error: StreamError) {
        server = nil
        guard state == .exchange, let exchange else { return }
        if exchange.isAnswered { return }
        if exchange.isUpgraded, error.code == .closed { return close() }
        serverBroke(error)
    }

    private func serverBroke(_ error: StreamError) {
        dismissServer(error)
        guard let exchange else { return }
        // Whatever the client has of it must not look whole.
        if exchange.isAnswerShown { return end(resetting: error) }
        // Where the server has ended a connection that nobody used, it may not have seen the request.
        if isReused, exchange.isRepeatable || !exchange.hasBegun, let again = exchange.again {
            self.exchange = again
            return openServer()
        }
        answerInstead(.failed(error, isLocal: isLocal))
    }

    private func answerBroken(_ error: HTTPError) {
        dismissServer(StreamError(.badRequest, error.message))
        answerInstead(.bad(error))
    }
}
