import Foundation
import H2Transport
import H2TransportNIO
import Logging
import MeshIdentity
import NIOCore
import NIOPosix

import struct Platform.Authority
import struct Streams.SocketAddress

typealias ByteChannel = NIOAsyncChannel<ByteBuffer, ByteBuffer>

/// A listener and a client, with credentials of an authority made for the test.
struct Mesh: Sendable {
    let server: HBONEListener
    let client: HBONEClient
    let group: any EventLoopGroup

    func connect(headers: HeaderFields = [:]) async throws -> ByteChannel {
        let peer = HBONEPeer(try Authority(host: "127.0.0.1", port: server.localAddress.port))
        return try await client.connectChannel(
            to: Authority(parsing: "echo.example:7"),
            through: peer,
            headers: headers,
            on: group
        ) { Self.wrap($0) }
    }

    static func wrap(_ channel: any Channel) -> EventLoopFuture<ByteChannel> {
        channel.eventLoop.makeCompletedFuture {
            try ByteChannel(
                wrappingChannelSynchronously: channel,
                configuration: .init(isOutboundHalfClosureEnabled: true)
            )
        }
    }

    static let echoChannel: @Sendable (ByteChannel, HBONERequest) async throws -> Void = { channel, _ in
        try await channel.executeThenClose { inbound, outbound in
            for try await buffer in inbound { try await outbound.write(buffer) }
            try await channel.flushed()
        }
    }

    /// The server's end as a NIO channel.
    static func with(
        admit: HBONEAdmissionHook? = nil,
        server handler: @escaping @Sendable (ByteChannel, HBONERequest) async throws -> Void,
        body: (Mesh) async throws -> Void
    ) async throws {
        let group = MultiThreadedEventLoopGroup.singleton
        try await with(
            serve: { listener in
                await listener.serveChannels(on: group, admit: admit) { channel, request in
                    wrap(channel).map { ($0, request) }
                } handler: { channel, request in
                    try? await handler(channel, request)
                }
            },
            body
        )
    }

    /// The server's end as a stream of ours.
    static func with(
        stream handler: @escaping @Sendable (HBONEStream) async throws -> Void,
        body: (Mesh) async throws -> Void
    ) async throws {
        try await with(serve: { await $0.serve(handler: handler) }, body)
    }

    private static func with(
        serve: @escaping @Sendable (HBONEListener) async -> Void,
        _ body: (Mesh) async throws -> Void
    ) async throws {
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent("nio-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let ca = try EmbeddedCA.create(directory: "\(directory)/ca", trustDomain: TrustDomain("mesh.example"))
        func issue(_ name: String) throws -> CredentialSource {
            let id = try SPIFFEID(trustDomain: ca.trustDomain, namespace: "prod", name: name)
            let pending = try CredentialDirectory("\(directory)/\(name)").prepare(id: id)
            let issued = try ca.issue(pending.request, id: id, options: IssuanceOptions())
            _ = try pending.commit(chain: issued.chain, roots: issued.roots)
            return .directory("\(directory)/\(name)")
        }
        let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        let listener = try await HBONEListener(
            bind: SocketAddress(ip: "127.0.0.1", port: 0),
            credentials: issue("server"),
            logger: quiet
        )
        let serving = Task { await serve(listener) }
        let client = try await HBONEClient(credentials: issue("client"), logger: quiet)
        let mesh = Mesh(server: listener, client: client, group: MultiThreadedEventLoopGroup.singleton)
        let result: Result<Void, any Error>
        do { result = .success(try await body(mesh)) } catch { result = .failure(error) }
        await client.shutDown()
        await listener.close()
        await serving.value
        try result.get()
    }
}

extension NIOAsyncChannel<ByteBuffer, ByteBuffer> {
    /// Returns when the kernel has everything: closing a channel of NIO drops what it has not written yet.
    func flushed() async throws { try await channel.writeAndFlush(ByteBuffer()).get() }
}

struct Late: Error {}

func eventually(_ condition: @Sendable () -> Bool) async throws {
    let deadline = ContinuousClock.now + .seconds(20)
    while !condition() {
        guard ContinuousClock.now < deadline else { throw Late() }
        try await Task.sleep(for: .milliseconds(5))
    }
}
