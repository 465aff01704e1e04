// swift-tools-version:6.1
import PackageDescription

// A package of its own, so that users of the main package never build it.
let package = Package(
    name: "instructions",
    dependencies: [.package(name: "bootstrap", path: "../..")],
    targets: [
        .executableTarget(
            name: "hops",
            dependencies: [
                .product(name: "H2Transport", package: "bootstrap"),
                .product(name: "MeshIdentity", package: "bootstrap"),
                .product(name: "Streams", package: "bootstrap"),
            ],
            swiftSettings: [.swiftLanguageMode(.v6), .enableUpcomingFeature("ExistentialAny")]
        )
    ]
)
