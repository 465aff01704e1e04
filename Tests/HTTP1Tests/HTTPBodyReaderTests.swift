import Testing

@testable import HTTP1

@Suite struct HTTPBodyReaderTests {
    struct Result: Equatable {
        var content = ""
        var rest = ""
        var trailers: [String] = []
        var isWhole = false
    }

    /// - Parameter piece: How many bytes come at a time.
    private func read(_ text: String, _ framing: HTTPFraming, piece: Int) throws -> Result {
        let bytes = Array(text.utf8)
        var reader = HTTPBodyReader(framing)
        var result = Result()
        var (input, index, next) = ([UInt8](), 0, 0)
        while true {
            switch try reader.next(in: input, from: index) {
            case .content(let range):
                result.content += String(decoding: input[range], as: UTF8.self)
                index = range.upperBound
            case .needsMore(let consumed):
                index = consumed
                guard next < bytes.count else {
                    result.isWhole = reader.mayEndHere
                    return result
                }
                // What is done with may be forgotten.
                input.removeSubrange(..<index)
                index = 0
                input += bytes[next..<min(next + piece, bytes.count)]
                next += piece
            case .end(let end, let trailers):
                result.rest = String(decoding: input[end...] + bytes.dropFirst(next), as: UTF8.self)
                result.trailers = trailers.all.map { "\($0.name)=\($0.text)" }
                result.isWhole = true
                return result
            }
        }
    }

    @Test(arguments: [1, 2, 3, 7, 1000]) func contentIsFoundInAnyPieces(piece: Int) throws {
        let chunks = "5\r\nhello\r\n00006;a=b\r\n world\r\n0\r\n"
        #expect(
            try read(chunks + "\r\nnext", .chunked, piece: piece)
                == Result(content: "hello world", rest: "next", isWhole: true)
        )
        #expect(
            try read(chunks + "X-Sum: 1\r\nY:\r\n\r\n", .chunked, piece: piece)
                == Result(content: "hello world", trailers: ["X-Sum=1", "Y="], isWhole: true)
        )
        #expect(try read("hello", .length(3), piece: piece) == Result(content: "hel", rest: "lo", isWhole: true))
        #expect(try read("he", .length(3), piece: piece) == Result(content: "he"))
        #expect(try read("hello", .untilClose, piece: piece) == Result(content: "hello", isWhole: true))
        #expect(try read("hello", .none, piece: piece) == Result(rest: "hello", isWhole: true))
        #expect(try read("5\r\nhello\r\n", .chunked, piece: piece) == Result(content: "hello"))
    }

    @Test(
        arguments: [
            "5 \r\nhello\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n", "\r\n", ";a\r\n", "-1\r\n", "g\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhelloX\r\n", "5\r\nhello\n0\r\n\r\n", "5\rhello", "5;\u{1}\r\n", "1234567890123456\r\n",
            "5;" + String(repeating: "a", count: 300), "0\r\nContent-Length: 3\r\n\r\n", "0\r\n a: b\r\n\r\n",
            "0\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\nno colon\r\n\r\n", "0\r\n\n",
            "0\r\nX: " + String(repeating: "a", count: 9000),
        ],
        [1, 1000]
    )
    func oddChunksAreRefused(text: String, piece: Int) {
        #expect(throws: HTTPError.self) { try read(text, .chunked, piece: piece) }
    }

    @Test func plainBytesMayGoAnotherWay() {
        var reader = HTTPBodyReader(.length(10))
        #expect(reader.plainBytes == 10)
        reader.skip(9)
        #expect(!reader.isOver)
        reader.skip(1)
        #expect(reader.isOver)
        #expect(HTTPBodyReader(.chunked).plainBytes == nil)
    }
}
