import Streams
import Testing

@testable import Fleet

/// Against bytes that Google's protobuf 7.36.2 for Python made of the same messages.
@Suite struct ProtobufFieldsTests {
    private func bytes(_ hexadecimal: String) -> [UInt8] {
        let digits = Array(hexadecimal)
        return stride(from: 0, to: digits.count, by: 2).compactMap { UInt8(String(digits[$0...($0 + 1)]), radix: 16) }
    }

    @Test(arguments: [
        ("", Int64(0), ""), ("PEM", 86400, "0a0350454d1880a305"), ("ä", -1, "0a02c3a418ffffffffffffffffff01"),
        (String(repeating: "x", count: 200), 1, "0ac801" + String(repeating: "78", count: 200) + "1801"),
        ("", .max, "18ffffffffffffffff7f"),
    ])
    func requests(csr: String, seconds: Int64, expected: String) {
        #expect(IstioCertificateService.Request(csr: csr, validityDuration: seconds).encoded == bytes(expected))
    }

    @Test(arguments: [
        ("", []), ("0a0161", ["a"]), ("0a046c6561660a04726f6f74", ["leaf", "root"]),
        ("0a000a8201" + String(repeating: "78", count: 130), ["", String(repeating: "x", count: 130)]),
        // Fields of a later version, of each type.
        ("10ff011d010203040a016121010203040506070822026869", ["a"]),
    ])
    func responses(encoded: String, chain: [String]) throws {
        let response = try IstioCertificateService.Response(decoding: bytes(encoded))
        #expect(response.certificateChain == chain.map { Array($0.utf8) })
    }

    @Test(arguments: [
        "0a", "0a05616263", "0aff", "0affffffffffffffffff01", "08", "0880", "08ffffffffffffffffff02",
        "08ffffffffffffffffffff01", "00",
        "0b", "0c", "0e", "1d010203", "1901020304050607", "ffffffffffffffffff01",
    ])
    func damagedMessages(encoded: String) {
        let error = #expect(throws: StreamError.self) {
            try IstioCertificateService.Response(decoding: bytes(encoded))
        }
        #expect(error?.code == .protocolViolation)
    }

    /// Whatever comes is a message or an error.
    @Test func anyBytes() {
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<20_000 {
            let input = (0..<Int.random(in: 0...24, using: &generator)).map { _ in
                UInt8.random(in: 0...255, using: &generator)
            }
            _ = try? IstioCertificateService.Response(decoding: input)
        }
    }
}
