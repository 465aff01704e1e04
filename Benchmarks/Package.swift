// swift-tools-version:6.1
import PackageDescription

// A package of its own: it shares no code with what it measures, and users of the main package never build it.
let package = Package(
    name: "benchmarks",
    targets: [
        .systemLibrary(name: "CEpoll"),
        .executableTarget(
            name: "load",
            dependencies: ["CEpoll"],
            swiftSettings: [.swiftLanguageMode(.v6), .enableUpcomingFeature("ExistentialAny")]
        ),
    ]
)
