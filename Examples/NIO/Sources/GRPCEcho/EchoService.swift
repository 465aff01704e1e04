import GRPCCore

/// A service written by hand: no protocol buffers, text in UTF-8. `say` echoes one message, `sum` answers a stream of
/// numbers.
public struct EchoService: RegistrableRPCService {
    public static let say = MethodDescriptor(fullyQualifiedService: "mesh.Echo", method: "Say")
    public static let sum = MethodDescriptor(fullyQualifiedService: "mesh.Echo", method: "Sum")

    public init() {}

    public func registerMethods<Transport: ServerTransport>(with router: inout RPCRouter<Transport>) {
        router.registerHandler(
            forMethod: Self.say,
            deserializer: TextDeserializer(),
            serializer: TextSerializer()
        ) { request, _ in
            StreamingServerResponse { writer in
                for try await message in request.messages { try await writer.write(message) }
                return [:]
            }
        }
        router.registerHandler(
            forMethod: Self.sum,
            deserializer: TextDeserializer(),
            serializer: TextSerializer()
        ) { request, _ in
            StreamingServerResponse { writer in
                var (count, sum) = (0, 0)
                for try await message in request.messages { (count, sum) = (count + 1, sum + (Int(message) ?? 0)) }
                try await writer.write("\(count) numbers, sum \(sum)")
                return [:]
            }
        }
    }
}

public struct TextSerializer: MessageSerializer {
    public init() {}
    public func serialize<Bytes: GRPCContiguousBytes>(_ message: String) throws -> Bytes { Bytes(message.utf8) }
}

public struct TextDeserializer: MessageDeserializer {
    public init() {}
    public func deserialize<Bytes: GRPCContiguousBytes>(_ bytes: Bytes) throws -> String {
        bytes.withUnsafeBytes { String(decoding: $0, as: UTF8.self) }
    }
}
