import COpenSSL

/// SHA-256 over a stream of bytes, by OpenSSL, so that a debug build checks gigabytes in seconds.
public struct Checksum: ~Copyable {
    private let context: OpaquePointer

    public init() {
        guard let context = EVP_MD_CTX_new(), EVP_DigestInit_ex(context, EVP_sha256(), nil) == 1 else {
            preconditionFailure("OpenSSL has no SHA-256")
        }
        self.context = context
    }

    deinit {
        EVP_MD_CTX_free(context)
    }

    public mutating func update(_ bytes: UnsafeRawBufferPointer) {
        EVP_DigestUpdate(context, bytes.baseAddress, bytes.count)
    }

    /// Lower-case hexadecimal, as `sha256sum` prints it.
    public consuming func finish() -> String {
        var digest = [UInt8](repeating: 0, count: 32)
        EVP_DigestFinal_ex(context, &digest, nil)
        return digest.map { byte in
            let text = String(byte, radix: 16)
            return text.count == 1 ? "0" + text : text
        }.joined()
    }

    /// The checksum of bytes in memory.
    public static func of(_ bytes: [UInt8]) -> String {
        var checksum = Checksum()
        bytes.withUnsafeBytes { checksum.update($0) }
        return checksum.finish()
    }
}

/// Bytes that look random and depend on their position only: what is lost, doubled or reordered shows in the checksum.
public struct Pattern: Sendable {
    private var state: UInt64

    public init(seed: UInt64 = 1) {
        state = seed
    }

    /// Fills `buffer` with what comes next. Chunks must be multiples of 8 bytes, except the last one.
    public mutating func fill(_ buffer: UnsafeMutableRawBufferPointer) {
        var offset = 0
        while offset + 8 <= buffer.count {
            buffer.storeBytes(of: next(), toByteOffset: offset, as: UInt64.self)
            offset += 8
        }
        if offset < buffer.count {
            withUnsafeBytes(of: next()) { rest in
                for index in 0..<(buffer.count - offset) {
                    buffer[offset + index] = rest[index]
                }
            }
        }
    }

    /// The first `count` bytes.
    public static func bytes(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
        var pattern = Pattern(seed: seed)
        return [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            pattern.fill(UnsafeMutableRawBufferPointer(buffer))
            initialized = count
        }
    }

    /// The checksum of the first `count` bytes, without holding them all.
    public static func checksum(_ count: Int, seed: UInt64 = 1) -> String {
        var pattern = Pattern(seed: seed)
        var checksum = Checksum()
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        var left = count
        while left > 0 {
            let size = min(left, chunk.count)
            chunk.withUnsafeMutableBytes { buffer in
                let part = UnsafeMutableRawBufferPointer(rebasing: buffer[..<size])
                pattern.fill(part)
                checksum.update(UnsafeRawBufferPointer(part))
            }
            left -= size
        }
        return checksum.finish()
    }

    // SplitMix64.
    private mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
