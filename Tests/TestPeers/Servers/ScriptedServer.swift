import CLinux
import Foundation

/// Says one thing, and another over and over or the end, to whoever connects, and never listens.
public final class ScriptedServer: LoopbackServer, @unchecked Sendable {
    // Sendable: all are set once.
    private let greeting: [UInt8]
    private let refrain: [UInt8]
    private let ends: Bool

    /// - Parameters:
    ///   - greeting: said once.
    ///   - refrain: said until the connection ends; empty: silence.
    ///   - ends: Whether it has said all with the greeting.
    public init(greeting: [UInt8], refrain: [UInt8] = [], ends: Bool = false) throws {
        self.ends = ends
        self.greeting = greeting
        self.refrain = refrain
        try super.init()
    }

    override func serve(_ connection: Int32) -> Transfer {
        var said = 0
        var text = greeting
        while text.isEmpty || send(connection, text, text.count, Int32(MSG_NOSIGNAL)) == text.count {
            said += text.count
            guard !refrain.isEmpty else {
                if ends { shutdown(connection, Int32(SHUT_WR)) }
                return receiveAll(connection)
            }
            text = refrain
        }
        return Transfer(received: 0, checksum: Checksum.of([]), ending: .broken(errno))
    }
}
