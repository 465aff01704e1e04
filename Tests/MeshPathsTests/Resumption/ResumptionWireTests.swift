import Foundation
import TestPeers
import Testing

@testable import MeshPaths

/// What goes over the wire, against docs/vectors/resumption.txt and against whatever else may come.
@Suite(.timeLimit(.minutes(10))) struct ResumptionWireTests {
    private static func vectors(_ kind: String) throws -> [[String]] {
        let file = URL(fileURLWithPath: #filePath)
            .appendingPathComponent("../../../../docs/vectors/resumption.txt")
            .standardized
        let text = try String(contentsOf: file, encoding: .utf8)
        let lines = text.split(separator: "\n").filter { $0.hasPrefix("\(kind) ") }
        #expect(!lines.isEmpty)
        return lines.map { $0.split(separator: " ").dropFirst().map(String.init) }
    }

    private static func bytes(_ hexadecimal: String) -> [UInt8] {
        Hexadecimal.bytes(Substring(hexadecimal), count: hexadecimal.utf8.count / 2) ?? []
    }

    /// What `bytes` say, read in pieces of `step` bytes, in the words of the vectors.
    private static func read(_ bytes: [UInt8], step: Int) throws -> [String] {
        var reader = ResumptionFrameReader()
        var words: [String] = []
        var data: [UInt8] = []
        var start = 0
        while start < bytes.count {
            let piece = Array(bytes[start..<min(start + step, bytes.count)])
            start += piece.count
            try piece.withUnsafeBytes { bytes in
                var rest = bytes
                while !rest.isEmpty {
                    if reader.dataLeft > 0 {
                        let count = min(rest.count, reader.dataLeft)
                        data += rest[..<count]
                        reader.took(count)
                        rest = UnsafeRawBufferPointer(rebasing: rest[count...])
                        if reader.dataLeft == 0 {
                            words += ["data", data.map { String(format: "%02x", $0) }.joined()]
                            data = []
                        }
                        continue
                    }
                    switch try reader.read(&rest) {
                    case .acknowledgement(let position): words += ["acknowledgement", "\(position)"]
                    case .end(let position): words += ["end", "\(position)"]
                    case .data, nil: break
                    }
                }
            }
        }
        return words
    }

    @Test("frames read as the vectors say, in pieces of any size") func frames() throws {
        for vector in try Self.vectors("frame") + Self.vectors("stream") {
            for step in 1...20 {
                #expect(try Self.read(Self.bytes(vector[0]), step: step) == Array(vector.dropFirst()))
            }
        }
    }

    @Test("frames are written as the vectors say") func writing() throws {
        for vector in try Self.vectors("frame") {
            var written = [UInt8](repeating: 0, count: 12)
            written.withUnsafeMutableBytes { space in
                switch vector[1] {
                case "data": ResumptionFrame.writeData(vector[2].utf8.count / 2, to: space)
                case "end": ResumptionFrame.write(.end, UInt64(vector[2]) ?? 0, to: space)
                default: ResumptionFrame.write(.acknowledgement, UInt64(vector[2]) ?? 0, to: space)
                }
            }
            let header = vector[1] == "data" ? 4 : 12
            #expect(Array(written.prefix(header)) == Array(Self.bytes(vector[0]).prefix(header)))
        }
    }

    @Test("what is against the rules is refused") func bad() throws {
        for vector in try Self.vectors("bad") {
            #expect(throws: ResumptionViolation.self) { _ = try Self.read(Self.bytes(vector[0]), step: 1) }
        }
    }

    @Test("tickets, tokens and requests are those of the vectors") func tickets() throws {
        let vector = try #require(try Self.vectors("ticket").first)
        let ticket = try #require(ResumptionTicket(vector[0]))
        #expect(
            ticket.field == vector[0] && "\(ticket.id)" == vector[2] && ticket.secret.bytes == Self.bytes(vector[4])
        )
        for vector in try Self.vectors("resume") {
            let request = ResumptionRequest(
                ticket,
                generation: try #require(UInt64(vector[0])),
                position: try #require(UInt64(vector[1]))
            )
            #expect(request.field == vector[2])
            #expect(ResumptionRequest(vector[2]) == request && request.isProved(by: ticket))
            let other = ResumptionTicket(id: ticket.id, secret: .init(high: ticket.secret.low, low: ticket.secret.high))
            #expect(!request.isProved(by: other))
        }
        // A token is good for its generation only.
        let second = ResumptionRequest(ticket, generation: 2, position: 0).field
        let forged = second.replacingOccurrences(of: ".2.", with: ".3.")
        #expect(try #require(ResumptionRequest(forged)).isProved(by: ticket) == false)
        for field in [
            "", "1", "1.2", "1.2.3", "x.1.00.0", "1.1.\(String(repeating: "0", count: 31)).0",
            "\(second)0000000000000000",
        ] {
            #expect(ResumptionRequest(field) == nil, "\(field)")
        }
    }

    @Test("whatever comes, it is read the same way in pieces of any size, and never beyond a frame") func fuzz() throws
    {
        var fuzzer = Fuzzer("resumption frames")
        let corpus = try (Self.vectors("frame") + Self.vectors("stream") + Self.vectors("bad")).map {
            Self.bytes($0[0])
        }
        let dictionary: [[UInt8]] = [
            [0, 0, 0, 1], [1, 0, 0, 8], [2, 0, 0, 8], [0, 16, 0, 0], [255, 255, 255, 255],
        ]
        var count = 0
        var good = 0
        while fuzzer.goesOn(count, of: 20_000) {
            count += 1
            let input = fuzzer.mutate(corpus, dictionary: dictionary)
            let whole = Result { try Self.read(input, step: max(1, input.count)) }
            let pieces = Result { try Self.read(input, step: 1 + fuzzer.below(7)) }
            switch (whole, pieces) {
            case (.success(let first), .success(let second)):
                good += 1
                if first != second { Issue.record("\(input): \(first), and \(second)") }
            case (.failure, .failure): break
            default: Issue.record("\(input): \(whole), and \(pieces)")
            }
        }
        #expect(good > count / 50)
    }
}
