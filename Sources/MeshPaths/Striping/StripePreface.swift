/// The first bytes of a subflow, from whoever connects: what this is, and which striped stream it belongs to.
///
///     "bstripe1"   8 bytes   never the beginning of a TLS record, which is 22 (RFC 8446 §5.1)
///     identifier  16 bytes   random, chosen by the client for each striped stream
///
/// The server answers with the first 8 bytes on every subflow it takes.
struct StripePreface: Hashable, Sendable {
    static let magic: [UInt8] = Array("bstripe1".utf8)
    static let length = 24

    let identifier: [UInt8]

    /// With an identifier that nobody can guess.
    init() {
        var generator = SystemRandomNumberGenerator()
        identifier = (0..<Self.length - Self.magic.count).map { _ in UInt8.random(in: 0...255, using: &generator) }
    }

    /// - Returns: nil when `bytes` are not a preface.
    init?(_ bytes: [UInt8]) {
        guard bytes.count == Self.length, bytes.starts(with: Self.magic) else { return nil }
        identifier = Array(bytes[Self.magic.count...])
    }

    var bytes: [UInt8] { Self.magic + identifier }
}

/// What stands before each piece of a striped stream: 8 bytes, both numbers big-endian.
///
///     length     4 bytes   0: the end of this direction
///     sequence   4 bytes   counts the frames of this direction over all subflows, from 0, and wraps
struct StripeFrame: Equatable {
    static let headerLength = 8
    /// Two TLS records: small beside a window, so that subflows advance evenly, and large beside a header.
    static let maximumLength = 32 << 10

    var length: UInt32
    var sequence: UInt32

    func write(to destination: UnsafeMutableRawPointer) {
        destination.storeBytes(of: length.bigEndian, as: UInt32.self)
        destination.storeBytes(of: sequence.bigEndian, toByteOffset: 4, as: UInt32.self)
    }

    static func read(from source: UnsafeRawPointer) -> StripeFrame {
        StripeFrame(
            length: UInt32(bigEndian: source.loadUnaligned(as: UInt32.self)),
            sequence: UInt32(bigEndian: source.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
        )
    }
}
