import Foundation
import TestPeers
import Testing

@testable import HTTP1

/// Messages as they come from strangers: each is refused, or means what Python's h11 says that it means.
@Suite struct HTTPFuzzTests {
    static let requests = [
        "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n",
        "HEAD / HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\nX: \t b \t c \r\nY:\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nExpect: 100-continue\r\n\r\n",
        "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
    ].map { Array($0.utf8) }

    static let responses = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\na\r\n0123456789\r\n0\r\nX: y\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.0 200 OK\r\nServer: x\r\n\r\nuntil the end",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
        "HTTP/1.1 502 \r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx",
    ].map { Array($0.utf8) }

    static let dictionary = [
        "\r\n", "\r", "\n", "\r\n\r\n", " ", "\t", ":", ",", ";", "0", "0\r\n\r\n", "Content-Length: 5\r\n", "chunked",
        ", chunked",
        "Transfer-Encoding: chunked\r\n", "transfer-encoding:\u{0B}chunked\r\n", "Host: b\r\n", "HTTP/1.1", "HTTP/1.0",
        "HTTP/0.9",
        "Connection: content-length\r\n", "\r\n folded", "\u{0}", "ü", "ffffffffffffffff\r\n", "+5", "5,5",
        "Content-Length",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "101", "204", "100", "@", "http://b/", "\u{7F}",
    ].map { Array($0.utf8) }

    enum Meaning: Equatable {
        case refused
        case unfinished
        case whole(Message)
    }

    struct Message: Equatable {
        var first: [String] = []
        var fields: [[String]] = []
        var content = ""
        var trailers: [[String]] = []
        var rest = ""
        var interims = 0
    }

    private static func list(_ fields: HTTPFields) -> [[String]] {
        fields.all.map { field in
            let name = field.name.lowercased()
            let value = String(String.UnicodeScalarView(field.value.map { UnicodeScalar($0) }))
            // As h11 gives it.
            return [name, name == "transfer-encoding" ? value.lowercased() : value]
        }
    }

    private static func hex(_ bytes: some Sequence<UInt8>) -> String {
        bytes.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    /// - Parameters:
    ///   - method: That of the request to which the bytes are a response; nil: they are a request.
    ///   - piece: How many bytes come at a time.
    static func ours(_ bytes: [UInt8], method: String?, piece: Int) -> Meaning {
        var message = Message()
        var (parser, input, next, index) = (HTTPHeadParser(), [UInt8](), 0, 0)
        var body: HTTPBodyReader?
        do throws(HTTPError) {
            while true {
                if body == nil, let end = try parser.end(in: input, from: index) {
                    let framing: HTTPFraming
                    if let method {
                        let head = try parser.response(input[index..<end], to: method)
                        if head.isInterim { message.interims += 1 }
                        message.first = ["\(head.status)", head.version == .http11 ? "1.1" : "1.0"]
                        message.fields = list(head.fields)
                        index = end
                        if head.isInterim { continue }
                        framing = head.framing
                    } else {
                        let head = try parser.request(input[index..<end])
                        message.first = [head.method, head.target, head.version == .http11 ? "1.1" : "1.0"]
                        message.fields = list(head.fields)
                        index = end
                        framing = head.framing
                    }
                    body = HTTPBodyReader(framing)
                }
                if var reader = body {
                    let step = try reader.next(in: input, from: index)
                    body = reader
                    switch step {
                    case .content(let range):
                        message.content += hex(input[range])
                        index = range.upperBound
                        continue
                    case .needsMore(let consumed): index = consumed
                    case .end(let end, let trailers):
                        message.trailers = list(trailers)
                        message.rest = hex(input[end...] + bytes.dropFirst(next))
                        return .whole(message)
                    }
                }
                guard next < bytes.count else {
                    return method != nil && body?.mayEndHere == true ? .whole(message) : .unfinished
                }
                input += bytes[next..<min(next + piece, bytes.count)]
                next += piece
            }
        } catch {
            return .refused
        }
    }

    private struct Theirs: Decodable {
        var first: [String]?
        var fields: [[String]]?
        var content: String?
        var trailers: [[String]]?
        var rest: String?
        var interims: Int?
        var error: String?
    }

    @Test("what is not refused is what h11 understands, and the same in any pieces")
    func anotherReader() async throws {
        var fuzzer = Fuzzer("HTTP/1 against h11")
        var inputs: [(bytes: [UInt8], method: String?)] = Self.requests.map { ($0, nil) }
        for method in ["GET", "HEAD"] { inputs += Self.responses.map { ($0, method) } }
        var count = 0
        while fuzzer.goesOn(count, of: 12_000) {
            count += 1
            let isRequest = fuzzer.below(2) == 0
            let corpus = isRequest ? Self.requests : Self.responses
            let bytes = fuzzer.mutate(corpus, dictionary: Self.dictionary)
            if bytes.isEmpty { continue }
            inputs.append((bytes, isRequest ? nil : fuzzer.pick(["GET", "HEAD", "POST"])))
        }
        let lines = inputs.map { "\($0.method.map { "response:\($0)" } ?? "request") \(Self.hex($0.bytes))" }
        let script = TestTools.repository + "/Tests/Peers/http1/h11compare.py"
        let output = try await ChildProcess.run(
            TestTools.python,
            [script],
            input: Array((lines.joined(separator: "\n") + "\n").utf8),
            within: .seconds(600)
        )
        let answers = output.standardOutput.split(separator: "\n")
        try #require(answers.count == inputs.count, "\(output)")
        var whole = 0
        for ((bytes, method), answer) in zip(inputs, answers) {
            let ours = Self.ours(bytes, method: method, piece: bytes.count)
            let text = String(decoding: bytes, as: UTF8.self).debugDescription
            #expect(Self.ours(bytes, method: method, piece: 1) == ours, "in pieces: \(text)")
            let theirs = try JSONDecoder().decode(Theirs.self, from: Data(answer.utf8))
            switch ours {
            case .refused: continue
            case .unfinished: #expect(theirs.trailers == nil, "unfinished: \(text) is \(answer)")
            case .whole(let message):
                // h11 knows nobody who has asked for another protocol.
                if message.first.first == "101" { continue }
                whole += 1
                let same = Message(
                    first: theirs.first ?? [],
                    fields: theirs.fields ?? [],
                    content: theirs.content ?? "",
                    trailers: theirs.trailers ?? [["none"]],
                    rest: theirs.rest ?? "",
                    interims: theirs.interims ?? 0
                )
                #expect(message == same, "\(text): \(theirs.error ?? "")")
            }
        }
        // Mutations that nothing survives would test nothing.
        #expect(whole > inputs.count / 20, "\(whole) of \(inputs.count)")
    }

    @Test("whatever comes, it is read or refused, in any pieces")
    func anyBytes() {
        var fuzzer = Fuzzer("HTTP/1")
        var count = 0
        while fuzzer.goesOn(count, of: 30_000) {
            count += 1
            let isRequest = fuzzer.below(2) == 0
            let bytes = fuzzer.mutate(isRequest ? Self.requests : Self.responses, dictionary: Self.dictionary)
            if bytes.isEmpty { continue }
            let method = isRequest ? nil : "GET"
            let whole = Self.ours(bytes, method: method, piece: bytes.count)
            #expect(Self.ours(bytes, method: method, piece: 1 + fuzzer.below(20)) == whole)
        }
    }
}
