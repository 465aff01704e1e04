import Foundation

/// Envoy 1.40, as an HBONE server or client, from a template in `Tests/Peers/envoy`.
public final class Envoy: Sendable {
    public let process: ChildProcess
    private let directory: TemporaryDirectory

    /// Starts it and waits until its listeners accept.
    ///
    /// - Parameters:
    ///   - template: The file's name without `.yaml`.
    ///   - values: What stands for each `@NAME@`.
    public static func start(_ template: String, _ values: [String: String]) async throws -> Envoy {
        let envoy = try Envoy(template, values)
        // Listeners that need nothing from elsewhere are bound and open by then.
        try await envoy.process.standardError.line(containing: "starting main dispatch loop")
        return envoy
    }

    private init(_ template: String, _ values: [String: String]) throws {
        let source = "\(TestTools.repository)/Tests/Peers/envoy/\(template).yaml"
        var text = try String(contentsOfFile: source, encoding: .utf8)
        for (name, value) in values { text = text.replacingOccurrences(of: "@\(name)@", with: value) }
        directory = TemporaryDirectory()
        let file = "\(directory.path)/envoy.yaml"
        try text.write(toFile: file, atomically: true, encoding: .utf8)
        process = try ChildProcess(
            TestTools.envoy,
            ["--config-path", file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "info"]
        )
    }

    public func stop() async { await process.stop() }
}
