// swift-tools-version:6.1
import PackageDescription

// A package of its own, as a user's would be: it knows of the main package only what is public.
let package = Package(
    name: "examples",
    dependencies: [.package(name: "bootstrap", path: "..")],
    targets: ["echo-server", "echo-client"].map { name in
        .executableTarget(
            name: name,
            dependencies: [
                .product(name: "H2Transport", package: "bootstrap"),
                .product(name: "MeshIdentity", package: "bootstrap"),
                .product(name: "Platform", package: "bootstrap"),
                .product(name: "Streams", package: "bootstrap"),
            ],
            swiftSettings: [.swiftLanguageMode(.v6)]
        )
    }
)
