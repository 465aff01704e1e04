// What swift-argument-parser uses of FoundationEssentials, for the static binary only: the whole of it, with its
// collections, is 4.3 of 25 MB there, and the linker cannot drop it. Compiled
// together with Sources/Platform/Text/JSONEncoding.swift by scripts/build-static.sh. A release of the parser that uses
// more of it does not compile against this.

/// An error that has a text of its own; none of ours does.
public protocol LocalizedError: Error {
    var errorDescription: String? { get }
}

/// What ``JSONEncoder`` has made.
public struct Data: Sendable {
    fileprivate let bytes: [UInt8]
}

/// For `--experimental-dump-help`.
public final class JSONEncoder {
    public struct OutputFormatting: OptionSet, Sendable {
        public let rawValue: UInt
        public init(rawValue: UInt) { self.rawValue = rawValue }

        public static let prettyPrinted = OutputFormatting(rawValue: 1)
        /// They are, in any case.
        public static let sortedKeys = OutputFormatting(rawValue: 2)
    }

    public var outputFormatting: OutputFormatting = []

    public init() {}

    public func encode(_ value: some Encodable) throws -> Data {
        Data(bytes: try JSONText.encode(value, isIndented: outputFormatting.contains(.prettyPrinted)))
    }
}

extension String {
    public struct Encoding: Sendable {
        public static let utf8 = Encoding()
    }

    public init?(data: Data, encoding: Encoding) {
        self.init(validating: data.bytes, as: UTF8.self)
    }
}
