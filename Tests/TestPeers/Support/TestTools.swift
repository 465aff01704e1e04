import Foundation

/// Where the programs are that `scripts/install-dependencies.sh` installed outside the system's folders.
public enum TestTools {
    /// The Python that has the packages `h2`, `h11` and `cryptography`.
    public static var python: String { cache + "/venv/bin/python3" }

    /// Envoy 1.40.
    public static var envoy: String { cache + "/envoy-1.40.0/envoy" }

    /// The `bootstrap` binary that was built with these tests.
    public static var bootstrap: String {
        // The test runner is an executable in the build folder, next to the product.
        let runner = CommandLine.arguments[0]
        let folder = (runner as NSString).deletingLastPathComponent
        for candidate in [folder + "/bootstrap", folder + "/../bootstrap"]
        where FileManager.default.isExecutableFile(atPath: candidate) {
            return (candidate as NSString).standardizingPath
        }
        return folder + "/bootstrap"
    }

    /// Whether there is a program of this name in `PATH`.
    public static func isInstalled(_ name: String) -> Bool {
        let path = ProcessInfo.processInfo.environment["PATH"] ?? ""
        return path.split(separator: ":").contains { FileManager.default.isExecutableFile(atPath: "\($0)/\(name)") }
    }

    /// The folder of the repository.
    public static let repository: String = {
        // …/Tests/TestPeers/Support/TestTools.swift
        var path = #filePath as NSString
        for _ in 0..<4 {
            path = path.deletingLastPathComponent as NSString
        }
        return path as String
    }()

    private static var cache: String {
        let environment = ProcessInfo.processInfo.environment
        if let cache = environment["BOOTSTRAP_TESTS_CACHE"] { return cache }
        return (environment["XDG_CACHE_HOME"] ?? (environment["HOME"] ?? "") + "/.cache") + "/bootstrap-tests"
    }
}
