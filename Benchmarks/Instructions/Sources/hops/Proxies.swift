import H2Transport
import Logging
import MeshIdentity
import Streams

/// The two proxies, wired as a node wires them. Confined to the loop.
final class Proxies {
    private let server: HBONEServer
    private let tunnels: Listener
    private let pool: H2ClientPool
    private let entry: Listener
    var port: UInt16 { entry.localAddress.port }

    init(on loop: EventLoop, credentialDirectory: String, backendPort: UInt16) throws {
        let credential = try CredentialDirectory(credentialDirectory).load()
        let trust = TrustBundleSet(credential.bundle)
        let backendAddress = try SocketAddress(ip: "127.0.0.1", port: backendPort)
        server = try HBONEServer(
            on: loop,
            context: try TLSContext(role: .server, credential: credential, trust: trust),
            logger: Logger(label: "hops") { _ in SwiftLogNoOpLogHandler() }
        ) { pending in
            Dialer.connect(to: .address(backendAddress), on: loop) { result in
                guard case .success(let socket) = result, let stream = pending.accept() else { fail("no backend") }
                Relay(stream, socket).start()
            }
        }
        let serverBound = LoopBound(server, on: loop)
        tunnels = try Listener(bind: SocketAddress(ip: "127.0.0.1", port: 0), on: loop) { socket in
            socket.apply(.multiplexed())
            serverBound.withValue { $0.accept(socket) }
        }
        pool = try H2ClientPool(on: loop)
        let endpoint = H2Endpoint.tcp(
            tunnels.localAddress,
            context: try TLSContext(role: .client, credential: credential, trust: trust),
            expecting: .anyTrusted
        )
        let poolBound = LoopBound((pool, endpoint), on: loop)
        entry = try Listener(bind: SocketAddress(ip: "127.0.0.1", port: 0), on: loop) { socket in
            poolBound.withValue { pool, endpoint in
                pool.openStream(ConnectRequest(authority: "127.0.0.1:\(backendPort)"), to: endpoint) { result in
                    guard case .success(let stream) = result else { fail("no stream: \(result)") }
                    Relay(socket, stream).start()
                }
            }
        }
    }
}
