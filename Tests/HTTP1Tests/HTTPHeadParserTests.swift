import Testing

@testable import HTTP1

@Suite struct HTTPHeadParserTests {
    /// Fed one byte more each time, as the slowest client would.
    private func head(_ text: String) throws -> HTTPRequestHead? {
        let bytes = Array(text.utf8)
        var parser = HTTPHeadParser()
        for count in 0...bytes.count {
            guard let end = try parser.end(in: Array(bytes[..<count]), from: 0) else { continue }
            #expect(end == count, "the end is found with its last byte")
            return try parser.request(bytes[..<end])
        }
        return nil
    }

    private func response(_ text: String, to method: String = "GET") throws -> HTTPResponseHead? {
        let bytes = Array(text.utf8)
        var parser = HTTPHeadParser()
        guard let end = try parser.end(in: bytes, from: 0) else { return nil }
        return try parser.response(bytes[..<end], to: method)
    }

    @Test func aRequestIsRead() throws {
        let text =
            "POST http://a.example/x?y HTTP/1.1\r\nHost: a.example\r\nX-Empty:\r\nx-b: \t b c \t\r\n"
            + "Content-Length: 12\r\nConnection: Keep-Alive , X-B\r\n\r\n"
        let head = try #require(try head(text))
        #expect(head.method == "POST")
        #expect(head.target == "http://a.example/x?y")
        #expect(head.version == .http11)
        #expect(head.framing == .length(12))
        #expect(head.fields.first("x-b") == "b c")
        #expect(head.fields.first("x-empty")?.isEmpty == true)
        #expect(head.fields.list("connection") == ["keep-alive", "x-b"])
        #expect(head.keepsAlive)
        #expect(String(decoding: head.bytes, as: UTF8.self).hasPrefix("POST http://a.example/x?y HTTP/1.1\r\nHost: a"))
    }

    @Test func bytesAbove127StayWhatTheyAre() throws {
        let bytes = Array("GET / HTTP/1.1\r\nHost: a\r\nX: ".utf8) + [0xE9, 0xFF] + Array("\r\n\r\n".utf8)
        var parser = HTTPHeadParser()
        let end = try #require(try parser.end(in: bytes, from: 0))
        let head = try parser.request(bytes[..<end])
        #expect(head.fields.all.last?.value == [0xE9, 0xFF])
        #expect(head.bytes == bytes)
    }

    /// What two readers could take for two things is for nobody.
    @Test(arguments: [
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1234567890123456789\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", 501),
        ("GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\u{0B}chunked\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \u{0}\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n: no name\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nX: a\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /\u{7F} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /ü HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 1\r\n\r\n", 400),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        // U+212A, whose lower case is k.
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chun\u{212A}ed\r\n\r\n", 501),
    ])
    func ambiguousRequestsAreRefused(text: String, status: Int) {
        let error = #expect(throws: HTTPError.self) { try head(text) }
        #expect(error?.status == status, "\(error as Any)")
    }

    /// Some clients write the length of what CONNECT does not have.
    @Test func aTunnelHasNoContent() throws {
        let text = "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 0\r\n\r\n"
        #expect(try head(text)?.framing == HTTPFraming.none)
    }

    @Test func listsAreComparedWithoutCaseInASCIIOnly() throws {
        let text = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Close, \u{212A}eep\r\n\r\n"
        #expect(try head(text)?.fields.list("connection") == ["close", "\u{212A}eep"])
    }

    /// To Swift, a comma with a mark beside it is another character; a server splits at the byte.
    @Test func listsAreSplitAtBytes() throws {
        for value in ["a,\u{301}b", "a\u{600},b", "a,\u{200D},b"] {
            let head = try #require(try head("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: \(value)\r\n\r\n"))
            let bytes = value.utf8.split(separator: UInt8(ascii: ",")).map { Array($0) }
            #expect(head.fields.list("upgrade").map { Array($0.utf8) } == bytes, "\(value)")
        }
    }

    @Test func limitsHoldBeforeTheHeadIsWhole() {
        func fails(_ text: String) -> Int? {
            var parser = HTTPHeadParser()
            do throws(HTTPError) {
                _ = try parser.end(in: Array(text.utf8), from: 0)
                return nil
            } catch { return error.status }
        }
        #expect(fails("GET /" + String(repeating: "a", count: 9000)) == 414)
        #expect(fails("GET / HTTP/1.1\r\nX: " + String(repeating: "a", count: 33_000)) == 431)
        #expect(fails("GET / HTTP/1.1\r\n" + String(repeating: "a: b\r\n", count: 6000)) == 431)
        #expect(fails("GET / HTTP/1.1\r\n" + String(repeating: "a: b\r\n", count: 99)) == nil)
        #expect(throws: HTTPError(431, "there are more than 100 fields")) {
            try head("GET / HTTP/1.1\r\nHost: a\r\n" + String(repeating: "a: b\r\n", count: 100) + "\r\n")
        }
    }

    @Test(arguments: [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "GET", HTTPFraming.length(3)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HEAD", .none),
        ("HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\n\r\n", "GET", .chunked),
        ("HTTP/1.1 200 \r\n\r\n", "GET", .untilClose),
        ("HTTP/1.0 304 Not Modified\r\nContent-Length: 3\r\n\r\n", "GET", .none),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "GET", .none),
        ("HTTP/1.1 100 Continue\r\n\r\n", "POST", .none),
    ])
    func aResponseSaysHowItEnds(text: String, method: String, framing: HTTPFraming) throws {
        #expect(try response(text, to: method)?.framing == framing)
    }

    @Test(arguments: [
        "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n",
        "HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 099 OK\r\n\r\n", "HTTP/1.1  200 OK\r\n\r\n", "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
    ])
    func ambiguousResponsesAreRefused(text: String) {
        #expect(throws: HTTPError.self) { try response(text) }
    }

    @Test func aConnectionIsKeptOrNot() throws {
        #expect(try head("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")?.keepsAlive == false)
        #expect(try head("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n")?.keepsAlive == false)
        #expect(try response("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?.keepsAlive == true)
        #expect(try response("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")?.keepsAlive == false)
        #expect(try response("HTTP/1.1 200 OK\r\n\r\n")?.keepsAlive == false)
    }
}
