/// What a gRPC call ended with, other than OK: `grpc-status` and `grpc-message`.
package struct GRPCStatus: Error, Hashable, Sendable, CustomStringConvertible {
    /// 1 to 16 have names (``name``); a server may send others.
    package var code: Int
    /// The server's words, of any length and with any character.
    package var message: String

    package init(code: Int, message: String) {
        self.code = code
        self.message = message
    }

    package static let deadlineExceeded = 4
    package static let permissionDenied = 7
    package static let unimplemented = 12
    package static let unavailable = 14
    package static let unauthenticated = 16

    private static let names = [
        "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
        "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
        "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
    ]

    /// `UNAUTHENTICATED`; the number where it has no name.
    package var name: String { Self.names.indices.contains(code) ? Self.names[code] : "status \(code)" }

    package var description: String { message.isEmpty ? name : "\(name): \(message)" }

    /// The text of a `grpc-message`, in which bytes are written as `%41`; what is no such escape stands for itself.
    static func decode(message value: String) -> String {
        var bytes: [UInt8] = []
        var rest = Array(value.utf8)[...]
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "%"), rest.count >= 2,
                let decoded = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16)
            {
                bytes.append(decoded)
                rest = rest.dropFirst(2)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
