import Streams
import Testing

@testable import H2Transport

/// State machines and parsers, by plain calls.
@Suite struct ValueTests {
    @Suite struct State {
        @Test("each direction ends on its own")
        func halfClose() {
            var sending = SendState.open
            let first = sending.finish()
            let second = sending.finish()
            #expect(first && !second)
            #expect(sending == .finishing)
            sending.sentEnd()
            #expect(sending == .finished)
            var receiving = ReceiveState.open
            receiving.deliveredEnd()
            #expect(receiving == .open)
            receiving.receivedEnd()
            #expect(receiving == .ended && receiving.hasEnded)
            receiving.deliveredEnd()
            receiving.receivedEnd()
            #expect(receiving == .delivered && receiving.hasEnded)
        }

        @Test("a reset after both ends is ignored")
        func lateReset() {
            for code in [HTTP2ErrorCode.noError, .cancel, .connectError] {
                for receiving in [ReceiveState.ended, .delivered] {
                    #expect(ResetOutcome(code, receiving: receiving, sending: .finished) == .ignored)
                }
            }
        }

        @Test("a reset after the peer's end stops the writer only when its code says so")
        func stop() {
            for code in [HTTP2ErrorCode.noError, .cancel] {
                for sending in [SendState.open, .finishing] {
                    #expect(ResetOutcome(code, receiving: .ended, sending: sending) == .stopWriting)
                }
            }
            guard case .failed(let error) = ResetOutcome(.connectError, receiving: .ended, sending: .open) else {
                Issue.record("CONNECT_ERROR must fail the stream")
                return
            }
            #expect(error.code == .reset)
        }

        @Test("a reset before the peer's end fails both directions, but what was sent was sent")
        func reset() {
            guard case .failed = ResetOutcome(.noError, receiving: .open, sending: .finished) else {
                Issue.record("truncation must not look clean")
                return
            }
            var (receiving, sending) = (ReceiveState.open, SendState.finished)
            receiving.fail()
            sending.fail()
            #expect(receiving == .failed)
            #expect(sending == .finished)
        }

        @Test("an end that was not sent is not finished")
        func failWhileFinishing() {
            var sending = SendState.open
            _ = sending.finish()
            sending.fail()
            sending.sentEnd()
            #expect(sending == .failed)
        }
    }

    @Test("a token bucket admits its burst, then its rate, and no more after a long rest")
    func tokenBucket() {
        var bucket = TokenBucket(.init(burst: 3, perSecond: 2), now: 0)
        #expect((0..<5).map { _ in bucket.take(now: 0) } == [true, true, true, false, false])
        #expect(bucket.take(now: 499_999_999) == false)
        #expect(bucket.take(now: 500_000_000) == true)
        #expect(bucket.take(now: 500_000_001) == false)
        #expect((0..<4).map { _ in bucket.take(now: .max / 2) } == [true, true, true, false])
    }

    @Test("proxy-status is written as a structured field and read back")
    func proxyStatus() {
        let status = ProxyStatus(error: "connection_refused", details: "say \"no\" \\ é\n")
        #expect(status.fieldValue == #"bootstrap; error=connection_refused; details="say \"no\" \\ ??""#)
        let read = ProxyStatus(parsing: status.fieldValue)
        #expect(read.error == "connection_refused")
        #expect(read.details == #"say "no" \ ??"#)
    }

    @Test(
        "proxy-status of others, and nonsense",
        arguments: [
            ("p", nil, nil),
            ("p; error=dns_timeout", "dns_timeout", nil),
            ("p;error=dns_error;rcode=\"x;error=no\";details=\"a;b\"", "dns_error", "a;b"),
            ("p;details=\"unterminated", nil, "unterminated"),
            (";;;", nil, nil),
            ("p;error", nil, nil),
            ("", nil, nil),
        ] as [(String, String?, String?)]
    )
    func proxyStatusParsing(_ value: String, _ error: String?, _ details: String?) {
        let status = ProxyStatus(parsing: value)
        #expect(status.error == error)
        #expect(status.details == details)
    }

    @Test("header fields keep their order and join what is repeated")
    func headerFields() {
        var fields: HeaderFields = ["a": "1", "b": "2"]
        fields.append("a", "3")
        #expect(fields["a"] == "1,3")
        fields["a"] = "4"
        #expect(Array(fields).map(\.name) == ["b", "a"])
        fields["b"] = nil
        #expect(fields["b"] == nil)
        #expect(fields.count == 1)
    }

    @Test("the configuration names the setting that is out of its range")
    func configuration() {
        #expect(throws: Never.self) { try H2Configuration.defaults.validate() }
        var configuration = H2Configuration.defaults
        configuration.windows.connection = configuration.windows.stream - 1
        let error = #expect(throws: StreamError.self) { try configuration.validate() }
        #expect(error?.message.contains("windows.connection") == true)
        configuration = .defaults
        configuration.frameSize = 1 << 20
        #expect(throws: StreamError.self) { try configuration.validate() }
    }

    @Test("this library has the guards that Debian's has")
    func library() {
        #expect(HTTP2Library.version.hasPrefix("1."))
        #expect(HTTP2Library.limitsStreamResets)
        #expect(HTTP2Library.limitsContinuations)
    }
}
