import MeshIdentity
import Platform
import Synchronization

/// Members of an etcd cluster on loopback, with TLS and client certificates, as Debian ships it.
public final class EtcdCluster: Sendable {
    public let directory = TemporaryDirectory()
    /// `key.pem`, `cert-chain.pem` and `root-cert.pem` of a client that the members let in.
    public let credential: String
    /// Of the members, in their order.
    public let clientPorts: [UInt16]
    private let peerPorts: [UInt16]
    private let settings: [String]
    private let processes: Mutex<[ChildProcess?]>

    /// Starts all members, which need a moment to agree.
    public init(members: Int, settings: [String] = []) throws {
        self.settings = settings
        clientPorts = (0..<members).map { _ in FreePort.next() }
        peerPorts = (0..<members).map { _ in FreePort.next() }
        let ca = try EmbeddedCA(trustDomain: TrustDomain("etcd.example"), now: WallClock.system.seconds)
        credential = directory.path("credential")
        let pending = try CredentialDirectory(credential).prepare(
            id: SPIFFEID("spiffe://etcd.example/ns/etcd/sa/member")
        )
        var options = IssuanceOptions()
        options.ipAddresses = ["127.0.0.1"]
        options.dnsNames = ["localhost"]
        let issued = try ca.issue(pending.request, id: pending.id, options: options)
        _ = try pending.commit(chain: issued.chain, roots: issued.roots)
        processes = Mutex(Array(repeating: nil, count: members))
        for member in 0..<members { try start(member) }
    }

    /// `https://127.0.0.1:PORT` of each member.
    public var endpoints: [String] { clientPorts.map { "https://127.0.0.1:\($0)" } }

    /// Starts a member, or starts it again with what it knows.
    public func start(_ member: Int) throws {
        let url = { (port: UInt16) in "https://127.0.0.1:\(port)" }
        let files = { (prefix: String) in
            [
                "--\(prefix)cert-file", "\(self.credential)/cert-chain.pem", "--\(prefix)key-file",
                "\(self.credential)/key.pem", "--\(prefix)trusted-ca-file", "\(self.credential)/root-cert.pem",
                "--\(prefix)client-cert-auth",
            ]
        }
        let process = try ChildProcess(
            "etcd",
            [
                "--name", "m\(member)", "--data-dir", data(member), "--log-level", "error",
                "--listen-client-urls", url(clientPorts[member]), "--advertise-client-urls", url(clientPorts[member]),
                "--listen-peer-urls", url(peerPorts[member]), "--initial-advertise-peer-urls", url(peerPorts[member]),
                "--initial-cluster", peerPorts.enumerated().map { "m\($0)=\(url($1))" }.joined(separator: ","),
                "--initial-cluster-state", "new",
            ] + files("") + files("peer-") + settings,
            environment: ["ETCD_UNSUPPORTED_ARCH": "arm64"]
        )
        processes.withLock { $0[member] = process }
    }

    private func data(_ member: Int) -> String { directory.path("data-\(member)") }

    /// Stops a member at once.
    public func kill(_ member: Int) async {
        let process = processes.withLock { $0[member] }
        process?.signal(9)
        _ = try? await process?.exit()
    }

    /// Has a member neither answer nor end; `18` (SIGCONT) has it go on.
    public func signal(_ member: Int, _ signal: Int32) { processes.withLock { $0[member] }?.signal(signal) }

    /// Makes the cluster anew, without anything in it.
    public func wipe() async throws {
        for member in clientPorts.indices {
            await kill(member)
            _ = try await ChildProcess.run("rm", ["-rf", data(member)])
        }
        for member in clientPorts.indices { try start(member) }
    }

    /// Runs `etcdctl`.
    public func control(_ arguments: [String]) async throws -> ChildProcess.Output {
        try await ChildProcess.run(
            "etcdctl",
            [
                "--endpoints", endpoints.joined(separator: ","), "--cacert", "\(credential)/root-cert.pem",
                "--cert", "\(credential)/cert-chain.pem", "--key", "\(credential)/key.pem",
            ] + arguments,
            environment: ["ETCDCTL_API": "3"]
        )
    }

    public func stop() async {
        for member in clientPorts.indices { await kill(member) }
    }
}
