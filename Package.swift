// swift-tools-version:6.1
import PackageDescription

/// Every target compiles in Swift 6 language mode with strict concurrency.
let settings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

let log: Target.Dependency = .product(name: "Logging", package: "swift-log")

let package = Package(
    name: "bootstrap",
    products: [
        .executable(name: "bootstrap", targets: ["bootstrap"]),
        .library(name: "Platform", targets: ["Platform"]),
        .library(name: "Streams", targets: ["Streams"]),
        .library(name: "MeshIdentity", targets: ["MeshIdentity"]),
        .library(name: "SSHSignal", targets: ["SSHSignal"]),
        .library(name: "H2Transport", targets: ["H2Transport"]),
        .library(name: "MeshNode", targets: ["MeshNode"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
    ],
    targets: [
        // C libraries, each behind one Swift wrapper that owns its pointers.
        .systemLibrary(name: "CLinux"),
        .systemLibrary(name: "CCAres", pkgConfig: "libcares", providers: [.apt(["libc-ares-dev"])]),
        .systemLibrary(name: "COpenSSL", pkgConfig: "libssl", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CNGHTTP2", pkgConfig: "libnghttp2", providers: [.apt(["libnghttp2-dev"])]),
        .systemLibrary(name: "CLibSSH2", pkgConfig: "libssh2", providers: [.apt(["libssh2-1-dev"])]),
        .systemLibrary(name: "CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
        .systemLibrary(name: "CSQLite", pkgConfig: "sqlite3", providers: [.apt(["libsqlite3-dev"])]),
        .systemLibrary(name: "CLibYAML", pkgConfig: "yaml-0.1", providers: [.apt(["libyaml-dev"])]),

        // AES-GCM for processors with VAES, as an OpenSSL provider; empty on other architectures.
        .target(name: "CAESGCM", dependencies: ["COpenSSL"]),

        // Imports point down only: Platform ← {Streams, YAML} ← MeshIdentity ← {H2Transport, SSHSignal} ← MeshPaths ←
        // MeshNode ← bootstrap.
        .target(name: "Platform", dependencies: ["CLinux"], swiftSettings: settings),
        .target(name: "Streams", dependencies: ["Platform", "CLinux", "CCAres"], swiftSettings: settings),
        // The parser of HTTP/1.1 messages, without I/O.
        .target(name: "HTTP1", swiftSettings: settings),
        // The reader of configuration and inventory files.
        .target(name: "YAML", dependencies: ["Platform", "CLibYAML"], swiftSettings: settings),
        .target(name: "MeshIdentity", dependencies: ["Platform", "COpenSSL"], swiftSettings: settings),
        .target(
            name: "H2Transport",
            dependencies: [
                "Platform", "Streams", "MeshIdentity", "CAESGCM", "COpenSSL", "CNGHTTP2", log,
                .product(name: "CoreMetrics", package: "swift-metrics"),
            ],
            swiftSettings: settings
        ),
        // The signed directory of a mesh, and where it is: a file, or etcd.
        .target(
            name: "MeshDirectory",
            dependencies: ["Platform", "Streams", "MeshIdentity", "H2Transport", "YAML"],
            swiftSettings: settings
        ),
        .target(
            name: "SSHSignal",
            // COpenSSL: hashed host names (HMAC-SHA1), fingerprints and the check sum of an upload (SHA-256).
            dependencies: ["Platform", "Streams", "MeshIdentity", "CLinux", "CLibSSH2", "COpenSSL", log],
            swiftSettings: settings
        ),
        // What runs at the operator. CSQLite: the ledger. CZlib: the upload's compression.
        .target(
            name: "Fleet",
            dependencies: [
                "Platform", "Streams", "MeshIdentity", "H2Transport", "SSHSignal", "MeshPaths", "MeshPolicy", "YAML",
                "MeshDirectory", "CLinux", "CSQLite", "CZlib", log,
            ],
            swiftSettings: settings
        ),
        // What runs on the device: the far end of an enrolment, and what keeps the node alive.
        .target(
            name: "Agent",
            dependencies: ["Streams", "Platform", "MeshIdentity", "SSHSignal", "CLinux"],
            swiftSettings: settings
        ),
        .target(name: "MeshPolicy", dependencies: ["Platform", "Streams", "MeshIdentity"], swiftSettings: settings),
        .target(
            name: "MeshPaths",
            dependencies: [
                "Platform", "Streams", "MeshIdentity", "H2Transport", "SSHSignal", "MeshPolicy", "CLinux", log,
            ],
            swiftSettings: settings
        ),
        .target(
            name: "MeshNode",
            dependencies: [
                "Platform", "Streams", "MeshIdentity", "H2Transport", "MeshDirectory", "HTTP1", "SSHSignal",
                "MeshPolicy", "MeshPaths",
                "YAML", "CLinux", log, .product(name: "CoreMetrics", package: "swift-metrics"),
            ],
            swiftSettings: settings
        ),
        .executableTarget(
            name: "bootstrap",
            dependencies: [
                "Platform", "Streams", "MeshIdentity", "H2Transport", "SSHSignal", "Fleet", "Agent", "MeshPolicy",
                "MeshPaths",
                "MeshNode", "MeshDirectory", "CLinux",
                "YAML", log,
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "UnixSignals", package: "swift-service-lifecycle"),
            ],
            swiftSettings: settings
        ),

        // What several test targets need: real servers on loopback, temporary directories, test certificates.
        .target(
            name: "TestPeers",
            dependencies: ["Platform", "Streams", "MeshIdentity", "COpenSSL"],
            path: "Tests/TestPeers",
            swiftSettings: settings
        ),
        .testTarget(name: "TestPeersTests", dependencies: ["TestPeers"], swiftSettings: settings),
        .testTarget(name: "PlatformTests", dependencies: ["Platform", "TestPeers"], swiftSettings: settings),
        .testTarget(name: "StreamsTests", dependencies: ["Platform", "Streams", "TestPeers"], swiftSettings: settings),
        .testTarget(name: "HTTP1Tests", dependencies: ["HTTP1", "TestPeers"], swiftSettings: settings),
        .testTarget(name: "YAMLTests", dependencies: ["YAML"], swiftSettings: settings),
        .testTarget(name: "MeshIdentityTests", dependencies: ["MeshIdentity", "TestPeers"], swiftSettings: settings),
        .testTarget(
            name: "H2TransportTests",
            dependencies: [
                "H2Transport", "TestPeers", "CAESGCM", "COpenSSL",
                .product(name: "MetricsTestKit", package: "swift-metrics"),
            ],
            swiftSettings: settings
        ),
        .testTarget(
            name: "SSHSignalTests",
            dependencies: ["SSHSignal", "Fleet", "Agent", "TestPeers", "TestDevices", "COpenSSL"],
            swiftSettings: settings
        ),
        // Devices on this machine: what the tests of both ends of an enrolment need.
        .target(
            name: "TestDevices",
            dependencies: ["SSHSignal", "Fleet", "Agent", "MeshIdentity", "TestPeers"],
            path: "Tests/TestDevices",
            swiftSettings: settings
        ),
        .testTarget(
            name: "FleetTests",
            dependencies: [
                "Platform", "Streams", "MeshIdentity", "Fleet", "Agent", "H2Transport", "SSHSignal", "YAML",
                "TestPeers",
                "TestDevices", log,
            ],
            swiftSettings: settings
        ),
        .testTarget(
            name: "AgentTests",
            dependencies: ["Agent", "SSHSignal", "TestPeers", "TestDevices"],
            swiftSettings: settings
        ),
        // MeshNode: its YAML is the shortest notation for rules.
        .testTarget(
            name: "MeshPolicyTests",
            dependencies: ["MeshPolicy", "MeshNode", "TestPeers"],
            swiftSettings: settings
        ),
        .testTarget(
            name: "MeshDirectoryTests",
            dependencies: ["MeshDirectory", "MeshIdentity", "Platform", "Streams", "TestPeers"],
            swiftSettings: settings
        ),
        .testTarget(
            name: "MeshPathsTests",
            dependencies: ["MeshPaths", "SSHSignal", "TestPeers", "TestDevices", log],
            swiftSettings: settings
        ),
        .testTarget(
            name: "MeshNodeTests",
            dependencies: [
                "MeshNode", "MeshDirectory", "MeshPaths", "MeshPolicy", "SSHSignal", "HTTP1", "YAML", "TestPeers",
                "TestDevices", log,
            ],
            swiftSettings: settings
        ),
        // Tests that run the `bootstrap` binary.
        .testTarget(
            name: "CommandLineTests",
            dependencies: [
                "Platform", "Streams", "MeshIdentity", "MeshDirectory", "H2Transport", "SSHSignal", "Fleet", "Agent",
                "TestPeers",
                "TestDevices",
            ],
            swiftSettings: settings
        ),
    ]
)
