import Foundation
import Testing

/// A long or narrow link to a server's port, in user space (Tests/Peers/network/delay.py): it delays bytes, not
/// packets.
public final class DelayedLink: Sendable {
    public let process: ChildProcess
    /// Where the near end listens.
    public let port: UInt16

    /// - Parameters:
    ///   - port: The server's.
    ///   - roundTrip: In milliseconds.
    ///   - rate: Bytes per second, each way.
    public init(to port: UInt16, roundTrip: Int, rate: Int) async throws {
        process = try ChildProcess(
            TestTools.python,
            [
                "-u", TestTools.repository + "/Tests/Peers/network/delay.py", "127.0.0.1:\(port)",
                "--round-trip", "\(roundTrip)", "--rate", "\(rate)",
            ],
            keepsInputOpen: true
        )
        let output = process.standardOutput
        try await eventually("the link listens") { output.bytes.contains(UInt8(ascii: "\n")) }
        self.port = try #require(UInt16(output.lines[0]))
    }
}
