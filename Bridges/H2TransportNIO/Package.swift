// swift-tools-version:6.1
import PackageDescription

let settings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

// A package of its own, so that nobody resolves or builds SwiftNIO who does not use it.
let package = Package(
    name: "H2TransportNIO",
    products: [.library(name: "H2TransportNIO", targets: ["H2TransportNIO"])],
    dependencies: [
        .package(name: "bootstrap", path: "../.."),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    ],
    targets: [
        .target(
            name: "H2TransportNIO",
            dependencies: [
                .product(name: "H2Transport", package: "bootstrap"),
                .product(name: "MeshIdentity", package: "bootstrap"),
                .product(name: "Platform", package: "bootstrap"),
                .product(name: "Streams", package: "bootstrap"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOConcurrencyHelpers", package: "swift-nio"),
            ],
            swiftSettings: settings
        ),
        .testTarget(
            name: "H2TransportNIOTests",
            dependencies: ["H2TransportNIO", .product(name: "Logging", package: "swift-log")],
            swiftSettings: settings
        ),
    ]
)
