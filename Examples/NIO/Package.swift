// swift-tools-version:6.2
import PackageDescription

let core: [Target.Dependency] = [
    .product(name: "H2Transport", package: "bootstrap"),
    .product(name: "H2TransportNIO", package: "H2TransportNIO"),
    .product(name: "MeshIdentity", package: "bootstrap"),
    .product(name: "Platform", package: "bootstrap"),
    .product(name: "Streams", package: "bootstrap"),
    .product(name: "NIOCore", package: "swift-nio"),
    .product(name: "NIOPosix", package: "swift-nio"),
]
let grpc: [Target.Dependency] = [
    .product(name: "GRPCCore", package: "grpc-swift-2"),
    .product(name: "GRPCNIOTransportHTTP2Posix", package: "grpc-swift-nio-transport"),
]
let settings: [SwiftSetting] = [.swiftLanguageMode(.v6)]

let package = Package(
    name: "nio-examples",
    dependencies: [
        .package(name: "bootstrap", path: "../.."),
        .package(name: "H2TransportNIO", path: "../../Bridges/H2TransportNIO"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/grpc/grpc-swift-2", from: "2.4.3"),
        .package(url: "https://github.com/grpc/grpc-swift-nio-transport", from: "2.9.2"),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1", traits: []),
    ],
    targets: [
        .target(name: "GRPCEcho", dependencies: core + grpc, swiftSettings: settings),
        .executableTarget(name: "grpc-server", dependencies: ["GRPCEcho"] + core + grpc, swiftSettings: settings),
        .executableTarget(name: "grpc-client", dependencies: ["GRPCEcho"] + core + grpc, swiftSettings: settings),
        .executableTarget(
            name: "web-server",
            dependencies: core + [
                .product(name: "Hummingbird", package: "hummingbird"),
                .product(name: "HummingbirdCore", package: "hummingbird"),
            ],
            swiftSettings: settings
        ),
        .executableTarget(
            name: "web-client",
            dependencies: core + [.product(name: "NIOHTTP1", package: "swift-nio")],
            swiftSettings: settings
        ),
        .executableTarget(name: "bridge-cost", dependencies: core, swiftSettings: settings),
    ]
)
