import COpenSSL
import Foundation
import TestPeers
import Testing

@testable import H2Transport

/// Against Python's `cryptography`, which brings an OpenSSL of its own, and against the OpenSSL of this process.
@Suite(.timeLimit(.minutes(10))) struct AESGCMVectorTests {
    /// Every byte and every length is another one; the same in the script below.
    private static func bytes(_ count: Int, _ start: Int = 0) -> [UInt8] {
        (start..<start + count).map { UInt8(truncatingIfNeeded: $0 &* 131 &+ ($0 >> 8) &* 7) }
    }

    private static let lengths = Array(0...16_384 + 260) + [32_767, 65_536, 100_003, 1 << 20]

    private func python(_ script: String, _ arguments: [String]) async throws -> [Substring] {
        let output = try await ChildProcess.run(TestTools.python, ["-c", script] + arguments)
        try #require(output.succeeded, "\(output.standardError)")
        return output.standardOutput.split(separator: "\n")
    }

    /// One message of every length: the tag, which vouches for each byte, is Python's; the ciphertext is OpenSSL's; and
    /// back again. Input and output begin at every alignment; each third message is enciphered in place.
    @Test(arguments: [16, 32]) func everyLength(keyLength: Int) async throws {
        let tags = try await python(
            """
            import sys
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
            def some(count, start=0): return bytes((i * 131 + (i >> 8) * 7) & 255 for i in range(start, start + count))
            cipher, text = AESGCM(some(int(sys.argv[1]), 77)), some(1 << 20)
            for length in map(int, sys.argv[2].split(",")):
                print(cipher.encrypt(b"IV.." + length.to_bytes(8, "big"), text[:length], text[:length % 40])[-16:].hex())
            """,
            ["\(keyLength)", Self.lengths.map(String.init).joined(separator: ",")]
        )
        try #require(tags.count == Self.lengths.count)
        let (text, key) = (Self.bytes(1 << 20), Self.bytes(keyLength, 77))
        let theirs = try CipherContext(nil, keyLength: keyLength)
        #expect(theirs.start(key: key, iv: nil, encrypts: true))
        let room = (1 << 20) + 64
        let (input, output, reference) = (Memory(room), Memory(room), Memory(room))
        for processor in AESGCMClass.all {
            let ours = try CipherContext(processor, keyLength: keyLength)
            #expect(ours.start(key: key, iv: nil, encrypts: true))
            for (length, expected) in zip(Self.lengths, tags) {
                let iv = Array("IV..".utf8) + withUnsafeBytes(of: UInt64(length).bigEndian, Array.init)
                let additional = Array(text.prefix(length % 40))
                let source = input.base + length % 17
                let sink = length % 3 == 0 ? source : output.base + length % 23
                let other = reference.base
                source.update(from: text, count: length)
                sink[length] = 0xA5
                func run(
                    _ cipher: CipherContext,
                    _ from: UnsafeMutablePointer<UInt8>,
                    _ to: UnsafeMutablePointer<UInt8>
                )
                    -> Bool
                {
                    (additional.isEmpty || cipher.add(additional))
                        && (length == 0 || cipher.update(from, to, length) == length) && cipher.finish()
                }
                try #require(theirs.start(key: nil, iv: iv, encrypts: true) && run(theirs, source, other))
                try #require(ours.start(key: nil, iv: iv, encrypts: true) && run(ours, source, sink))
                let tag = try #require(ours.tag())
                try #require(tag.map { String(format: "%02x", $0) }.joined() == expected, "\(length)")
                try #require(memcmp(sink, other, length) == 0, "\(length)")
                try #require(ours.start(key: nil, iv: iv, encrypts: false) && ours.setTag(tag))
                try #require(run(ours, sink, source), "\(length)")
                try #require(memcmp(source, text, length) == 0 && (sink == source || sink[length] == 0xA5), "\(length)")
            }
        }
    }

    /// Keys, IVs of every length that Python allows, additional data and messages at random, and in random pieces.
    @Test func vectors() async throws {
        let lines = try await python(
            """
            import random
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
            chance = random.Random(20261129)
            for number in range(600):
                key = chance.randbytes(chance.choice((16, 32)))
                iv = chance.randbytes(12 if number % 3 else chance.randrange(8, 129))
                additional = chance.randbytes(chance.choice((0, 5, 13, 16, chance.randrange(200))))
                text = chance.randbytes(chance.choice((0, 1, 16, 255, chance.randrange(700))))
                print(*(x.hex() or "-" for x in (key, iv, additional, text, AESGCM(key).encrypt(iv, text, additional))))
            """,
            []
        )
        try #require(lines.count == 600)
        var chance = Fuzzer("pieces of AES-GCM's messages")
        for processor in AESGCMClass.all {
            for line in lines {
                let fields = line.split(separator: " ").map { Self.fromHex($0) }
                let (key, iv, additional, text) = (fields[0], fields[1], fields[2], fields[3])
                let (sealed, tag) = (Array(fields[4].dropLast(16)), Array(fields[4].suffix(16)))
                let cipher = try CipherContext(processor, keyLength: key.count)
                if iv.count != 12 { #expect(cipher.setIVLength(iv.count)) }
                #expect(cipher.start(key: key, iv: iv, encrypts: true))
                for piece in chance.pieces(of: additional) { #expect(cipher.add(piece)) }
                #expect(chance.pieces(of: text).flatMap { cipher.update($0) ?? [] } == sealed)
                #expect(cipher.finish() && cipher.tag() == tag, "\(line)")
                #expect(EVP_CIPHER_CTX_get_iv_length(cipher.context) == iv.count)
                // Shorter tags are its beginning.
                for length in [4, 12, 16] {
                    #expect(cipher.tag(length) == Array(tag.prefix(length)))
                    let opened = cipher.open(
                        sealed,
                        iv: iv,
                        additional: additional,
                        tag: Array(tag.prefix(length)),
                        key: key
                    )
                    #expect(opened == text)
                    #expect(cipher.start(key: key, iv: iv, encrypts: true))
                    _ = additional.isEmpty || cipher.add(additional)
                    _ = text.isEmpty ? [] : cipher.update(text)
                    #expect(cipher.finish())
                }
            }
        }
    }

    private static func fromHex(_ text: Substring) -> [UInt8] {
        guard text != "-" else { return [] }
        let digits = text.utf8.map { UInt8($0 > 57 ? $0 - 87 : $0 - 48) }
        return stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
    }
}

private final class Memory {
    let base: UnsafeMutablePointer<UInt8>
    init(_ count: Int) { base = .allocate(capacity: count) }
    deinit { base.deallocate() }
}

extension Fuzzer {
    /// `bytes` cut anywhere, empty pieces left out.
    mutating func pieces(of bytes: [UInt8]) -> [[UInt8]] {
        var pieces: [[UInt8]] = []
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = 1 + below(pick([3, 16, 40, rest.count]))
            pieces.append(Array(rest.prefix(count)))
            rest = rest.dropFirst(count)
        }
        return pieces
    }

    mutating func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8(truncatingIfNeeded: next()) } }
}
