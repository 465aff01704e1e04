import H2Transport
import MeshIdentity
import Platform
import Streams

/// Asks the members of an etcd cluster: TLS with a client certificate, one member after another until one answers.
struct EtcdClient: Sendable {
    let settings: EtcdSettings
    /// Which member is asked first. Each process begins elsewhere, and stays with one that answers.
    private let first: Lock<Int>

    /// For one question to one member.
    static let timeout = Duration.seconds(5)
    /// A snapshot has the content once, and what later changes have left.
    static let limit = 3 * DirectoryManifest.maximumContent
    /// For one message of a watch, of which several may wait: what etcd takes in one transaction, twice. Where there is
    /// more, everything is read anew.
    static let watchLimit = 4 << 20

    init(_ settings: EtcdSettings) {
        self.settings = settings
        first = Lock(Int.random(in: 0..<max(1, settings.endpoints.count)))
    }

    func range(_ request: EtcdRangeRequest) async throws(DirectoryError) -> EtcdRangeResponse {
        try await ask(EtcdRangeRequest.path, request.encoded) { try EtcdRangeResponse(decoding: $0) }
    }

    func txn(_ request: EtcdTxnRequest) async throws(DirectoryError) -> EtcdTxnResponse {
        try await ask(EtcdTxnRequest.path, request.encoded) { try EtcdTxnResponse(decoding: $0) }
    }

    /// Until the member ends it, or the task is cancelled.
    ///
    /// - Parameter each: Told each message, or why one is none: there is nothing to be made of what follows that.
    func watch(
        _ request: EtcdWatchRequest,
        each: @escaping @Sendable (Result<EtcdWatchResponse, DirectoryError>) -> Void
    ) async throws(DirectoryError) {
        let place = present
        do {
            try await client(place).subscribe(
                EtcdWatchRequest.path,
                // A member that is cut off from the others says so, and does not stay silent.
                metadata: ["hasleader": "true"],
                message: request.encoded,
                endsRequest: false,
                limit: Self.watchLimit,
                timeout: Self.timeout
            ) { bytes in
                do throws(StreamError) {
                    each(.success(try EtcdWatchResponse(decoding: bytes)))
                } catch {
                    each(.failure(self.failure(error, at: place)))
                }
            }
        } catch let error as DirectoryError {
            throw error
        } catch {
            moveOn(from: place)
            throw failure(error, at: place)
        }
    }

    // MARK: -

    private var present: Int { first.withLock { $0 } % max(1, settings.endpoints.count) }

    private func moveOn(from place: Int) {
        first.withLock { if $0 == place { $0 = (place + 1) % settings.endpoints.count } }
    }

    private func ask<Answer>(
        _ path: String,
        _ message: [UInt8],
        _ decode: ([UInt8]) throws -> Answer
    ) async throws(DirectoryError) -> Answer {
        var last: DirectoryError?
        for _ in settings.endpoints {
            let place = present
            do {
                let client = try client(place)
                let answer = try await client.call(path, message: message, limit: Self.limit, timeout: Self.timeout)
                return try decode(answer)
            } catch let error as DirectoryError {
                // Files of this machine: another member changes nothing.
                throw error
            } catch {
                last = failure(error, at: place)
                if let status = error as? GRPCStatus, !Self.isTransient(status) { break }
                moveOn(from: place)
            }
            if Task.isCancelled { break }
        }
        throw last ?? DirectoryError(.unreachable, "no member of etcd is named")
    }

    /// Whether another member may answer better.
    private static func isTransient(_ status: GRPCStatus) -> Bool {
        [GRPCStatus.unavailable, GRPCStatus.deadlineExceeded, 1, 2, 8, 13].contains(status.code)
    }

    private func failure(_ error: any Error, at place: Int) -> DirectoryError {
        let member = settings.endpoints[place]
        let text = Printable.clean("\(error)", limit: 300)
        if let error = error as? StreamError, error.code == .authentication {
            return DirectoryError(
                .unreachable,
                "etcd \(member): \(text). Who vouches for it is in root-cert.pem, and what it is shown in key.pem and cert-chain.pem, of "
                    + settings.credential
            )
        }
        let isTooMuch = (error as? StreamError)?.code == .limit
        return DirectoryError(isTooMuch ? .limit : .unreachable, "etcd \(member): \(text)")
    }

    private func client(_ place: Int) throws(DirectoryError) -> GRPCClient {
        do throws(IdentityError) {
            let member = settings.endpoints[place]
            let roots = try Certificate.trusted(file: "\(settings.credential)/root-cert.pem")
            return GRPCClient(
                member,
                server: try ServerVerifier(name: member.host, roots: roots),
                showing: try ClientCertificate(directory: settings.credential)
            )
        } catch {
            throw DirectoryError(.unreachable, "the credential for etcd: \(error.message)")
        }
    }
}
