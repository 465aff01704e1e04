import HTTP1
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// What a proxy makes of messages: whatever came, what goes on can be read in one way only, and says the same.
@Suite struct HTTPExchangeTests {
    private static let server = "web.mesh:80"

    private static func head(_ bytes: [UInt8]) throws -> (HTTPRequestHead, rest: [UInt8])? {
        var parser = HTTPHeadParser()
        guard let end = try parser.end(in: bytes, from: 0) else { return nil }
        return (try parser.request(bytes[..<end]), Array(bytes[end...]))
    }

    /// The content of a message as `reader` finds it; nil where it is not whole.
    private static func content(_ bytes: [UInt8], _ framing: HTTPFraming) throws -> [UInt8]? {
        var reader = HTTPBodyReader(framing)
        var (index, content) = (0, [UInt8]())
        while true {
            switch try reader.next(in: bytes, from: index) {
            case .content(let range):
                content += bytes[range]
                index = range.upperBound
            case .needsMore: return reader.mayEndHere ? content : nil
            case .end(let next, _):
                #expect(next == bytes.count, "something follows the message")
                return content
            }
        }
    }

    @Test func requestsGoOnAsTheyWereUnderstood() throws {
        var fuzzer = Fuzzer("requests through the proxy")
        let corpus = [
            "POST http://web.mesh/a HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nConnection: x-a, content-length\r\nX-A: 1\r\n\r\nhello world",
            "PUT http://web.mesh HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a\r\n world\r\n0\r\nX: y\r\n\r\n",
            "GET http://web.mesh/ HTTP/1.1\r\nHost: a\r\nConnection: upgrade, host\r\nUpgrade: websocket\r\nVia: 1.1 x\r\n\r\n",
        ].map { Array($0.utf8) }
        let dictionary = [
            "\r\n", "Connection: transfer-encoding\r\n", "Content-Length: 3\r\n", "Host: b\r\n", "Proxy-X: 1\r\n",
            "0\r\n\r\n", "chunked",
        ].map { Array($0.utf8) }
        var (count, passed) = (0, 0)
        while fuzzer.goesOn(count, of: 10_000) {
            count += 1
            let input = count <= corpus.count ? corpus[count - 1] : fuzzer.mutate(corpus, dictionary: dictionary)
            guard let (request, rest) = try? Self.head(input) else { continue }
            guard case .server(let authority, let path) = try? HTTPProxyTarget(of: request),
                var exchange = try? HTTPExchange(request, to: authority, path: path)
            else { continue }
            var (index, sent) = (0, exchange.toServer)
            exchange.toServer = []
            var isBroken = false
            while !exchange.isRequestRead {
                let before = index
                do { try exchange.readRequest(rest, &index) } catch { isBroken = true }
                sent += exchange.toServer
                let isStuck = index == before && exchange.toServer.isEmpty && !exchange.isRequestRead
                exchange.toServer = []
                if isBroken || isStuck { break }
            }
            guard exchange.isRequestRead else { continue }
            passed += 1
            let (seen, body) = try #require(try Self.head(sent))
            #expect(seen.method == request.method && seen.target == path && seen.version == .http11)
            #expect(seen.framing == request.framing)
            #expect(seen.fields.values("host") == [HTTPProxyTarget.hostField(of: authority)])
            #expect(!seen.fields.all.contains { $0.name.lowercased().hasPrefix("proxy-conn") })
            let understood = try Self.content(Array(rest[..<index]), request.framing)
            #expect(try Self.content(body, seen.framing) == understood, "\(String(decoding: input, as: UTF8.self))")
        }
        #expect(passed > count / 20, "\(passed) of \(count)")
    }

    @Test(arguments: ["1.1", "1.0"]) func responsesGoOnAsTheyWereUnderstood(version: String) throws {
        var fuzzer = Fuzzer("responses through the proxy")
        let corpus = [
            "HTTP/1.1 200 OK\r\nContent-Length: 11\r\nConnection: x-a\r\nX-A: 1\r\n\r\nhello world",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a\r\n world\r\n0\r\nX: y\r\n\r\n",
            "HTTP/1.0 200 OK\r\nServer: x\r\n\r\nhello world",
            "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        ].map { Array($0.utf8) }
        let dictionary = [
            "\r\n", "Connection: content-length\r\n", "Content-Length: 3\r\n", "0\r\n\r\n", "HTTP/1.1 101 x\r\n\r\n",
            "chunked",
        ].map { Array($0.utf8) }
        let text = "GET http://web.mesh/ HTTP/\(version)\r\nHost: a\r\n\r\n"
        let (request, _) = try #require(try Self.head(Array(text.utf8)))
        var (count, passed) = (0, 0)
        while fuzzer.goesOn(count, of: 10_000) {
            count += 1
            let input = count <= corpus.count ? corpus[count - 1] : fuzzer.mutate(corpus, dictionary: dictionary)
            let piece = 1 + fuzzer.below(40)
            var exchange = try HTTPExchange(request, to: Authority(parsing: Self.server), path: "/")
            var isBroken = false
            for start in stride(from: 0, to: input.count, by: piece) where !isBroken {
                do {
                    try input[start..<min(start + piece, input.count)].withUnsafeBytes { try exchange.receive($0) }
                } catch { isBroken = true }
            }
            guard !isBroken, exchange.end() else { continue }
            passed += 1
            // What the server says, found without the proxy.
            var (parser, index) = (HTTPHeadParser(), 0)
            var head: HTTPResponseHead
            repeat {
                let end = try #require(try parser.end(in: input, from: index))
                head = try parser.response(input[index..<end], to: "GET")
                index = end
            } while head.isInterim
            var (seenParser, seenIndex) = (HTTPHeadParser(), 0)
            var seen: HTTPResponseHead
            repeat {
                let end = try #require(try seenParser.end(in: exchange.toClient, from: seenIndex))
                seen = try seenParser.response(exchange.toClient[seenIndex..<end], to: "GET")
                seenIndex = end
            } while seen.isInterim
            #expect(seen.status == head.status)
            #expect(seen.framing != .untilClose || exchange.closesClient)
            #expect(version == "1.1" || seen.framing != .chunked)
            var reader = HTTPBodyReader(head.framing)
            var understood: [UInt8] = []
            search: while true {
                switch try reader.next(in: input, from: index) {
                case .content(let range):
                    understood += input[range]
                    index = range.upperBound
                case .needsMore, .end: break search
                }
            }
            let passedOn = try Self.content(Array(exchange.toClient[seenIndex...]), seen.framing)
            #expect(passedOn == understood, "\(String(decoding: input, as: UTF8.self))")
        }
        #expect(passed > count / 20, "\(passed) of \(count)")
    }

    @Test(arguments: [
        ("GET http://Web.Mesh HTTP/1.1", "web.mesh:80", "/"), ("GET HTTP://a:81?x HTTP/1.1", "a:81", "/?x"),
        ("OPTIONS http://a HTTP/1.1", "a:80", "*"), ("GET http://[FD00::1]/x HTTP/1.1", "[fd00::1]:80", "/x"),
        ("GET http://[fd00::1]:8/ HTTP/1.1", "[fd00::1]:8", "/"),
    ])
    func targetsAreFound(line: String, authority: String, path: String) throws {
        let (head, _) = try #require(try Self.head(Array("\(line)\r\nHost: x\r\n\r\n".utf8)))
        #expect(try HTTPProxyTarget(of: head) == .server(try Authority(parsing: authority), path: path))
    }

    /// A server may answer before it has everything. What it has not taken yet it must not read as the next request.
    @Test func aServerWithoutTheWholeRequestHasNoOther() throws {
        let text = "POST http://web.mesh/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
        let (request, rest) = try #require(try Self.head(Array(text.utf8)))
        var exchange = try HTTPExchange(request, to: Authority(parsing: Self.server), path: "/")
        // The head has gone.
        exchange.toServer = []
        exchange.hasBegun = true
        var index = 0
        while !exchange.isRequestRead { try exchange.readRequest(rest, &index) }
        let answer = Array("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".utf8)
        try answer.withUnsafeBytes { try exchange.receive($0) }
        #expect(exchange.isAnswered && !exchange.isRequestSent && !exchange.keepsServer)
        exchange.toServer.removeFirst(4)
        #expect(!exchange.keepsServer)
        exchange.toServer = []
        #expect(exchange.isRequestSent && exchange.keepsServer)
    }

    /// A server that joins trailers with the head would take them for the gateway's word.
    @Test(arguments: [true, false])
    func trailersOfTheWorldClaimNothing(dropsClaims: Bool) throws {
        let text = "POST http://web.mesh/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        let claims = "X-Forwarded-Client-Cert: URI=spiffe://a/b\r\nX_Forwarded_For: 1.2.3.4\r\n"
        let content = Array("2\r\nhi\r\n0\r\n\(claims)Digest: x\r\n\r\n".utf8)
        let (request, _) = try #require(try Self.head(Array(text.utf8)))
        let next = try HTTPProxyHeads.request(request, to: Authority(parsing: Self.server), path: "/").head
        var exchange = try HTTPExchange(
            request,
            as: next,
            upgrade: nil,
            to: Authority(parsing: Self.server),
            isLast: false,
            limits: HTTPLimits(),
            dropsClaims: dropsClaims
        )
        exchange.toServer = []
        var index = 0
        while !exchange.isRequestRead { try exchange.readRequest(content, &index) }
        let sent = String(decoding: exchange.toServer, as: UTF8.self)
        #expect(sent.hasPrefix("2\r\nhi\r\n0\r\n") && sent.hasSuffix("Digest: x\r\n\r\n"), "\(sent)")
        #expect(sent.lowercased().contains("forwarded") == !dropsClaims, "\(sent)")
    }

    @Test func optionsCountTheProxiesOnTheirWay() throws {
        func hops(_ method: String, _ fields: String) throws -> [String] {
            let text = "\(method) http://web.mesh HTTP/1.1\r\nHost: x\r\n\(fields)\r\n"
            let (head, _) = try #require(try Self.head(Array(text.utf8)))
            let next = try HTTPProxyHeads.request(head, to: Authority(parsing: Self.server), path: "*")
            return next.head.fields.values("max-forwards")
        }
        #expect(try hops("OPTIONS", "Max-Forwards: 3\r\n") == ["2"])
        #expect(try hops("OPTIONS", "").isEmpty)
        #expect(try hops("GET", "Max-Forwards: 3\r\n") == ["3"], "it is no business of other requests")
        #expect(throws: HTTPError.self) { try hops("OPTIONS", "Max-Forwards: x\r\n") }
        #expect(throws: HTTPError.self) { try hops("OPTIONS", "Max-Forwards: 1\r\nMax-Forwards: 1\r\n") }
    }

    /// What a node knows of its rules and addresses is for its own programs.
    @Test func othersAreToldTheKindOfAFailureOnly() {
        let expected: [(StreamError.Code, String, String)] = [
            (.denied, "403 Forbidden\n\npolicy\n", "bootstrap; error=http_request_denied; details=\"policy\""),
            (.refused, "503 Service Unavailable\n\nconnection refused\n", "bootstrap; error=connection_refused"),
            (.loop, "508 Loop Detected\n\nproxy loop detected\n", "bootstrap; error=proxy_loop_detected"),
            (.truncated, "502 Bad Gateway\n\nhttp response incomplete\n", "bootstrap; error=http_response_incomplete"),
            (.protocolViolation, "502 Bad Gateway\n\nhttp protocol error\n", "bootstrap; error=http_protocol_error"),
        ]
        for (code, text, status) in expected {
            let error = StreamError(code, "10.0.0.9:80: a secret")
            let remote = HTTPProxyPage.failed(error, isLocal: false)
            #expect(remote.text.hasPrefix(text), "\(remote.text)")
            #expect(remote.fields.first("proxy-status") == status)
            let local = HTTPProxyPage.failed(error, isLocal: true)
            #expect(local.status == remote.status && local.text.contains("10.0.0.9:80: a secret"))
        }
    }

    @Test func theOldestNewcomerMakesRoom() {
        let newcomers = Newcomers(limit: 2)
        var gone: [Int] = []
        let first = newcomers.add { gone.append(1) }
        _ = newcomers.add { gone.append(2) }
        newcomers.remove(first.key)
        _ = newcomers.add { gone.append(3) }
        #expect(gone.isEmpty)
        #expect(newcomers.add { gone.append(4) }.isCrowded)
        #expect(gone == [2])
        _ = newcomers.add { gone.append(5) }
        #expect(gone == [2, 3])
        #expect(newcomers.count == 2)
    }
}
