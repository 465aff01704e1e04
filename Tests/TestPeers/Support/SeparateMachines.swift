import Foundation

/// Two machines with a wire between them: network namespaces of this machine, joined by a veth pair. Needs root.
///
/// What is dropped is dropped by a packet filter, so that neither side is told: no reset, no end, no unreachable.
public final class SeparateMachines: Sendable {
    public enum Side: Sendable { case near, far }

    public static let nearAddress = "192.0.2.1"
    public static let farAddress = "192.0.2.2"

    private let near: ChildProcess
    private let far: ChildProcess

    public init() async throws {
        near = try await Self.machine()
        far = try await Self.machine()
        try await run(
            .near,
            ["ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", "\(far.pid)"]
        )
        for (side, address) in [(Side.near, Self.nearAddress), (.far, Self.farAddress)] {
            try await run(
                side,
                ["nft", "add table inet test; add chain inet test in { type filter hook input priority 0; }"]
            )
            try await run(side, ["ip", "address", "add", "\(address)/30", "dev", "wire"])
            try await run(side, ["ip", "link", "set", "wire", "up"])
        }
    }

    /// The namespaces live for as long as these do.
    private static func machine() async throws -> ChildProcess {
        let script = "ip link set lo up && echo ready && exec cat"
        let process = try ChildProcess("unshare", ["--net", "sh", "-c", script], keepsInputOpen: true)
        _ = try await process.standardOutput.line(containing: "ready")
        return process
    }

    /// What stands before a command that runs on one of the machines.
    public func on(_ side: Side) -> [String] {
        ["nsenter", "--net=/proc/\(side == .near ? near.pid : far.pid)/ns/net"]
    }

    /// Starts a program on one of the machines.
    public func start(_ side: Side, _ command: [String], keepsInputOpen: Bool = false) throws -> ChildProcess {
        let arguments = on(side) + command
        return try ChildProcess(arguments[0], Array(arguments.dropFirst()), keepsInputOpen: keepsInputOpen)
    }

    /// Runs a program to its end; returns its output.
    @discardableResult
    public func run(_ side: Side, _ command: [String], within limit: Duration = .seconds(240)) async throws -> String {
        let arguments = on(side) + command
        let result = try await ChildProcess.run(arguments[0], Array(arguments.dropFirst()), within: limit)
        guard result.succeeded else { throw DeadlineExceeded("\(command): \(result.standardError)") }
        return result.standardOutput
    }

    /// Lets nothing from the near machine reach a port of the far one.
    public func drop(_ port: UInt16) async throws {
        try await run(.far, ["nft", "add rule inet test in iifname wire tcp dport \(port) drop"])
    }

    /// Lets nothing larger than so many bytes arrive on either machine, and nobody is told.
    public func dropPackets(largerThan bytes: Int) async throws {
        for side in [Side.near, .far] {
            // Otherwise the filter sees what a real wire never carries: many segments in one.
            try await run(side, ["ip", "link", "set", "wire", "gso_max_segs", "1", "gso_max_size", "1500"])
            try await run(side, ["nft", "add rule inet test in iifname wire meta length > \(bytes) drop"])
        }
    }

    /// Lets everything through again.
    public func dropNothing() async throws {
        for side in [Side.near, .far] { try await run(side, ["nft", "flush chain inet test in"]) }
    }
}
