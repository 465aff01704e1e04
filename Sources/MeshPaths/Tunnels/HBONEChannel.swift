package import H2Transport
import SSHSignal
import Streams

/// A stream of the mesh as the channel of a signaling conversation.
package final class HBONEChannel: RemoteChannel {
    private let stream: HBONEStream

    package init(_ stream: HBONEStream) { self.stream = stream }

    package func read() async throws -> [UInt8]? { try await stream.read() }
    package func write(_ bytes: [UInt8]) async throws { try await stream.write(bytes) }
    package func finish() async { try? await stream.finish() }
    /// What waits then fails; nothing happens to a stream that has ended.
    package func close() { stream.reset() }
    /// A stream has none.
    package func standardErrorText() async -> String { "" }
}
