// swift-tools-version:6.1
import PackageDescription

// A package of its own, as a user's would be: it knows of the main package only what is public.
func program(_ name: String, _ products: [String], _ others: [Target.Dependency] = []) -> Target {
    .executableTarget(
        name: name,
        dependencies: products.map { .product(name: $0, package: "bootstrap") } + others,
        swiftSettings: [.swiftLanguageMode(.v6)]
    )
}

let package = Package(
    name: "examples",
    dependencies: [
        .package(name: "bootstrap", path: ".."),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    ],
    targets: [
        program("echo-server", ["H2Transport", "MeshIdentity", "Platform", "Streams"]),
        program("echo-client", ["H2Transport", "MeshIdentity", "Platform", "Streams"]),
        program("filter-node", ["MeshNode", "Streams"], [.product(name: "Logging", package: "swift-log")]),
    ]
)
