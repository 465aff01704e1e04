import H2Transport
import Platform
import Streams
import TestPeers
import Testing

/// Requests that open no tunnel, in both roles.
@Suite struct RefusalTests {
    // MARK: As a client

    struct Answer: Sendable, CustomTestStringConvertible {
        var headers: String
        var code: StreamError.Code
        var status: Int
        var testDescription: String { headers }
    }

    @Test(
        "an answer other than 2xx says why",
        arguments: [
            Answer(headers: ":status=401", code: .denied, status: 401),
            Answer(headers: ":status=403", code: .denied, status: 403),
            Answer(headers: ":status=400", code: .badRequest, status: 400),
            Answer(headers: ":status=503", code: .unreachable, status: 503),
            Answer(headers: ":status=503 proxy-status=p;error=connection_refused", code: .refused, status: 503),
            Answer(headers: ":status=504 proxy-status=p;error=connection_timeout", code: .timedOut, status: 504),
            Answer(headers: ":status=429", code: .limit, status: 429),
            Answer(headers: ":status=302", code: .protocolViolation, status: 302),
        ]
    )
    func refusals(_ answer: Answer) async throws {
        try await withClient { ours, peer in
            try await ours { $0.open() }
            try await peer.event("RequestReceived")
            try peer.send("headers 1 end \(answer.headers)")
            try await ours.until("the request fails") { $0.failures.count == 1 }
            let failure = try await ours { $0.failures[0] }
            #expect(failure.error.code == answer.code)
            #expect(failure.response?.status == answer.status)
            #expect(!failure.isRetryable)
            #expect(failure.error.message.contains("10.0.0.1:80"))
            try await ours.until("HTTP/2 has forgotten the stream") { $0.connection.streamCount == 0 }
        }
    }

    @Test("the details of proxy-status and the start of a body are in the message")
    func reasons() async throws {
        try await withClient { ours, peer in
            try await ours { $0.open() }
            try await peer.event("RequestReceived")
            try peer.send("headers 1 end :status=503 proxy-status=gw;error=dns_error;details=\"no\\\"such;host\"")
            try await ours.until("the request fails") { $0.failures.count == 1 }
            let seen1 = try await ours { $0.failures[0].error.message }
            #expect(seen1.contains("no\"such;host"))
        }
        try await withClient { ours, peer in
            try await ours { $0.open() }
            try await peer.event("RequestReceived")
            // One write: HEADERS (:status 403, indexed with a literal value) and DATA, as Envoy sends them.
            try peer.send(
                "raw 0000050104000000014803343033" + "000013000100000001" + "524241433a206163636573732064656e696564"
            )
            try await ours.until("the request fails") { $0.failures.count == 1 }
            let seen2 = try await ours { $0.failures[0].error.message }
            #expect(seen2.contains("RBAC: access denied"))
        }
    }

    @Test("1xx is not the answer")
    func informational() async throws {
        try await withClient { ours, peer in
            try await ours { $0.open() }
            try await peer.event("RequestReceived")
            try peer.send("headers 1 :status=103", "headers 1 :status=200")
            try await ours.until("the tunnel opens") { $0.streams.count == 1 }
        }
    }

    @Test("REFUSED_STREAM can be repeated, another reset cannot")
    func resetBeforeAnswer() async throws {
        for (code, isRetryable) in [(7, true), (8, false)] {
            try await withClient { ours, peer in
                try await ours { $0.open() }
                try await peer.event("RequestReceived")
                try peer.send("reset 1 \(code)")
                try await ours.until("the request fails") { $0.failures.count == 1 }
                let seen3 = try await ours { $0.failures[0].isRetryable }
                #expect(seen3 == isRetryable)
            }
        }
    }

    @Test("without an answer a request ends by its timeout, and the peer is told")
    func timeout() async throws {
        var configuration = H2Configuration.defaults
        configuration.requestTimeout = .milliseconds(50)
        try await withClient(configuration) { ours, peer in
            try await ours { $0.open() }
            try await ours.until("the request fails") { $0.failures.count == 1 }
            let seen4 = try await ours { $0.failures[0].error.code }
            #expect(seen4 == .timedOut)
            #expect(try await peer.event("StreamReset")["error_code"] == 8)
        }
    }

    /// The server may have answered, and gone on with the stream over this request: what is given up is that, and not
    /// the stream.
    @Test(
        "a request to resume a stream that is given up does not reset the stream",
        arguments: [("1", 8), ("1.1.00112233445566778899aabbccddeeff.0", 5)]
    )
    func resumptionGivenUp(field: String, code: Int) async throws {
        try await withClient { ours, peer in
            try await ours { $0.open(headers: ["resumable": field]) }
            try await peer.event("RequestReceived")
            try await ours { $0.connection.giveUpRequests(StreamError(.timedOut, "no answer to PING")) }
            try await ours.until("the request fails") { $0.failures.count == 1 }
            #expect(try await peer.event("StreamReset")["error_code"] == code)
        }
    }

    @Test("the peer's stream limit is respected")
    func streamLimit() async throws {
        try await withClient(settings: ["MAX_CONCURRENT_STREAMS=2"]) { ours, peer in
            try await ours { side in side.open() }
            try await peer.event("RequestReceived")
            try await ours { side in for _ in 0..<2 { side.open() } }
            try await ours.until("one request fails") { $0.failures.count == 1 }
            let seen5 = try await ours { $0.failures[0].error.code }
            #expect(seen5 == .limit)
            let seen6 = try await ours { $0.failures[0].isRetryable }
            #expect(seen6 == true)
            try await peer.event("RequestReceived") { $0["stream_id"] == 3 }
        }
    }

    @Test("header fields that HTTP/2 does not allow are refused before they are sent")
    func invalidHeaders() async throws {
        try await withClient { ours, peer in
            try await ours { side in
                side.open(headers: ["baggage": "a\r\nb: c"])
                side.open(headers: ["Upper": "x"])
                side.open(headers: [":path": "/"])
            }
            try await ours.until("the requests fail") { $0.failures.count == 3 }
            let seen7 = try await ours { $0.failures.map(\.error.code) }
            #expect(seen7 == [.badRequest, .badRequest, .badRequest])
            try await peer.roundTrip()
            #expect(peer.events.allSatisfy { $0.name != "RequestReceived" })
        }
    }

    // MARK: As a server

    @Test(
        "what is no request for a tunnel is answered and stopped",
        arguments: [
            (":method=GET :scheme=https :path=/ :authority=a.example:80", 405),
            (":method=CONNECT :authority=nowhere", 400),
            (":method=CONNECT :authority=user@10.0.0.1:80", 400),
            (":method=CONNECT :authority=10.0.0.1:0", 400),
            (":method=CONNECT :authority=fd00::1:80", 400),
            (":method=CONNECT :authority=proxy.example:443 x-tun=127.1:80", 400),
        ]
    )
    func badRequests(_ request: String, _ status: Int) async throws {
        try await withServer { ours, peer in
            try peer.send("headers 1 \(request)")
            let response = try await peer.event("ResponseReceived")
            #expect(response.headers[0] == [":status", String(status)])
            #expect(response.headers.contains { $0[0] == "proxy-status" && $0[1].contains("error=http_request_error") })
            #expect(response.ends)
            #expect(try await peer.event("StreamReset")["error_code"] == 0)
            let seen8 = try await ours { $0.log.requests.isEmpty }
            #expect(seen8 == true)
            try await ours.until("HTTP/2 has forgotten the stream") { $0.connection.streamCount == 0 }
        }
    }

    @Test("pseudo-header fields that CONNECT must not have are a protocol error (RFC 9113 §8.5)")
    func malformedConnect() async throws {
        try await withServer { ours, peer in
            try peer.send("headers 1 :method=CONNECT :authority=10.0.0.1:80 :scheme=https :path=/")
            #expect(try await peer.event("StreamReset")["error_code"] == 1)
            let seen9 = try await ours { $0.log.requests.isEmpty }
            #expect(seen9 == true)
        }
    }

    @Test("a refusal has its status and reason, and the upload is stopped")
    func rejection() async throws {
        let deny: @Sendable (PeerSide, PendingConnect) -> Void = { _, pending in pending.reject(.denied("policy")) }
        try await withServer(onRequest: deny) { ours, peer in
            try peer.send("headers 1 :method=CONNECT :authority=10.0.0.1:80", "data 1 early")
            let response = try await peer.event("ResponseReceived")
            #expect(
                response.headers == [
                    [":status", "403"],
                    ["proxy-status", "bootstrap; error=http_request_denied; details=\"policy\""],
                ]
            )
            #expect(response.ends)
            #expect(try await peer.event("StreamReset")["error_code"] == 0)
            try await ours.until("HTTP/2 has forgotten the stream") { $0.connection.streamCount == 0 }
        }
    }

    @Test("POST opens a tunnel where CONNECT does, and x-tun names its end")
    func post() async throws {
        try await withServer { ours, peer in
            try peer.send(
                "headers 1 :method=POST :scheme=https :path=/ :authority=proxy.example x-tun=10.0.0.9:22 x-service=web"
            )
            try await ours.until("the request arrives") { $0.log.requests.count == 1 }
            let (destination, service) = try await ours {
                ($0.log.requests[0].destination.description, $0.log.requests[0].request.service)
            }
            #expect(destination == "10.0.0.9:22")
            #expect(service == "web")
            try await ours { side in
                if let stream = side.log.requests.removeFirst().accept() { side.streams.append(StreamEnd(stream)) }
            }
            #expect(try await peer.event("ResponseReceived").headers[0] == [":status", "200"])
            try peer.send("data 1 ping")
            try await ours.until("bytes arrive") { $0.streams[0].text == "ping" }
        }
    }

    @Test("early data is held until the answer, at most one window, and delivered first")
    func earlyData() async throws {
        try await withServer { ours, peer in
            try peer.send("headers 1 :method=CONNECT :authority=10.0.0.1:80", "data 1 early")
            try await ours.until("the request arrives") { $0.log.requests.count == 1 }
            try peer.send("fill 1 3000000")
            // The window is 1 MiB; nothing has been read, so nothing is credited.
            #expect(try await peer.event("filled")["count"] == (1 << 20) - 5)
            try await peer.roundTrip()
            #expect(peer.events.allSatisfy { $0.name != "WindowUpdated" || $0["stream_id"] != 1 })
            try await ours { side in
                if let stream = side.log.requests.removeFirst().accept() { side.streams.append(StreamEnd(stream)) }
            }
            try await ours.until("everything held arrives") { $0.streams[0].receivedCount == 1 << 20 }
            let seen10 = try await ours { $0.streams[0].text }
            #expect(seen10.hasPrefix("early"))
        }
    }

    @Test("a client that gives up before the answer is noticed")
    func cancelled() async throws {
        try await withServer { ours, peer in
            try peer.send("headers 1 :method=CONNECT :authority=10.0.0.1:80")
            try await ours.until("the request arrives") { $0.log.requests.count == 1 }
            try await ours { side in
                side.log.requests[0].cancelled = { side.log.isDraining = true }
            }
            try peer.send("reset 1 8")
            try await ours.until("the request is cancelled") { $0.log.isDraining }
            let seen11 = try await ours { $0.log.requests[0].accept() == nil }
            #expect(seen11 == true)
        }
    }

    @Test("headers over the limit are answered with 431")
    func headersTooLarge() async throws {
        var configuration = H2Configuration.defaults
        configuration.limits.headerFields = 8
        try await withServer(configuration) { ours, peer in
            let fields = (0..<20).map { "x-\($0)=y" }.joined(separator: " ")
            try peer.send("headers 1 :method=CONNECT :authority=10.0.0.1:80 \(fields)")
            #expect(try await peer.event("ResponseReceived").headers[0] == [":status", "431"])
            let seen12 = try await ours { $0.connection.counters.headersTooLarge }
            #expect(seen12 == 1)
        }
    }

    @Test("more requests than may wait are refused")
    func pendingLimit() async throws {
        var configuration = H2Configuration.defaults
        configuration.limits.pendingRequests = 2
        try await withServer(configuration) { ours, peer in
            for id in [1, 3, 5] { try peer.send("headers \(id) :method=CONNECT :authority=10.0.0.1:80") }
            let refusal = try await peer.event("StreamReset")
            #expect(refusal["stream_id"] == 5)
            // REFUSED_STREAM: the client may ask again.
            #expect(refusal["error_code"] == 7)
            let count = try await ours { $0.log.requests.count }
            #expect(count == 2)
        }
    }

    @Test("requests for one destination wait for one another, and for no other")
    func destinationLimit() async throws {
        var configuration = H2Configuration.defaults
        configuration.limits.pendingPerDestination = 2
        try await withServer(configuration) { ours, peer in
            for id in [1, 3, 5, 7] { try peer.send("headers \(id) :method=CONNECT :authority=10.0.0.1:80") }
            try peer.send("headers 9 :method=CONNECT :authority=10.0.0.2:80")
            try await ours.until("the other destination is asked") {
                $0.log.requests.contains { $0.destination.host == "10.0.0.2" }
            }
            let first = try await ours { $0.log.requests.map(\.destination.host) }
            #expect(first == ["10.0.0.1", "10.0.0.1", "10.0.0.2"])
            // A client that gives up gives its place up.
            try peer.send("reset 5 8")
            try await peer.roundTrip()
            try await ours { $0.log.requests.removeFirst().reject(.denied()) }
            try await ours.until("the next one is asked") { $0.log.requests.count == 3 }
            try await ours { side in while let request = side.log.requests.popLast() { request.reject(.denied()) } }
            #expect(try await peer.event("ResponseReceived") { $0["stream_id"] == 7 }.headers[0] == [":status", "403"])
            #expect(try await ours { $0.connection.pendingRequests } == 0)
        }
    }
}
