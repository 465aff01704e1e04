import CLinux
import Glibc
import H2Transport
import MeshIdentity
import Platform
import Streams

/// Asks a SPIFFE agent who this process is, and goes on listening: `FetchX509SVID`, a stream of responses each of which
/// replaces the one before.
///
/// ```
///            ┌───────────── pause, longer each time ─────────────┐
///            ▼                                                   │
///     connect, ask ─→ response ─→ verified ─→ told ─→ the next ─→ the agent ends it
///                         └─→ refused: told why, and what was there stays
/// ```
struct WorkloadAPI: Sendable {
    let settings: WorkloadAPISettings

    private static let shortestPause = Duration.milliseconds(250)
    private static let longestPause = Duration.seconds(30)
    /// An agent answers from memory, and says at once what it has.
    private static let firstResponse = Duration.seconds(10)
    /// Between two responses, of which the latest counts: an agent that says much is no reason to do much.
    private static let restBetween = Duration.milliseconds(100)

    /// Until the task is cancelled.
    ///
    /// - Parameter tell: Told what was verified, and what went wrong.
    func follow(
        after known: WorkloadIdentity? = nil,
        _ tell: @Sendable (Result<WorkloadIdentity, IdentityError>) async -> Void
    ) async {
        var known = known
        var pause = Self.shortestPause
        while !Task.isCancelled {
            let end = await listen { bytes in
                do throws(IdentityError) {
                    let identity = try Self.verify(bytes, for: settings, after: known)
                    known = identity
                    pause = Self.shortestPause
                    await tell(.success(identity))
                } catch {
                    let message = "\(settings): nothing is taken of what it says: \(error)"
                    await tell(.failure(IdentityError(error.code, message)))
                }
            }
            guard !Task.isCancelled else { return }
            await tell(.failure(end))
            // Many processes lose the same agent at once.
            try? await Task.sleep(for: pause * Double.random(in: 0.5...1.5))
            pause = min(pause * 2, Self.longestPause)
        }
    }

    /// The first identity that the agent gives.
    ///
    /// - Parameter warn: Told what is wrong meanwhile.
    /// - Throws: ``MeshIdentity/IdentityError`` where there is none in time; `CancellationError`.
    func first(within limit: Duration, warn: @escaping @Sendable (String) -> Void) async throws -> WorkloadIdentity {
        let last = Lock<IdentityError?>(nil)
        let (found, input) = AsyncStream<WorkloadIdentity>.makeStream()
        let first: WorkloadIdentity? = await withTaskGroup(of: WorkloadIdentity?.self) { group in
            group.addTask {
                await follow { result in
                    switch result {
                    case .success(let identity): input.yield(identity)
                    case .failure(let error):
                        let isNews = last.withLock { last in
                            defer { last = error }
                            return last != error
                        }
                        if isNews { warn("waiting for an identity: \(error)") }
                    }
                }
                return nil
            }
            group.addTask {
                for await identity in found { return identity }
                return nil
            }
            group.addTask {
                try? await Task.sleep(for: limit)
                return nil
            }
            defer { group.cancelAll() }
            return await group.next() ?? nil
        }
        try Task.checkCancellation()
        guard let first else {
            throw last.withLock { $0 }.map {
                IdentityError($0.code, "no identity within \(limit): \($0.message)")
            } ?? IdentityError(.timedOut, "\(settings) has not answered within \(limit)")
        }
        for problem in first.problems { warn("\(settings): \(problem)") }
        return first
    }

    private static func verify(
        _ bytes: [UInt8],
        for settings: WorkloadAPISettings,
        after known: WorkloadIdentity?
    ) throws(IdentityError) -> WorkloadIdentity {
        let response: WorkloadResponse
        do throws(StreamError) {
            response = try WorkloadResponse(decoding: bytes)
        } catch {
            throw IdentityError(.issuer, error.message)
        }
        return try WorkloadIdentity(response, for: settings, after: known)
    }

    /// One stream, until it ends.
    ///
    /// - Returns: Why it has ended.
    private func listen(_ body: ([UInt8]) async -> Void) async -> IdentityError {
        // Each response replaces the one before: of those that wait, the latest counts.
        let (responses, input) = AsyncStream<[UInt8]>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let settings = settings
        let asking = Task {
            defer { input.finish() }
            do {
                let client = GRPCClient(unixSocket: try SocketAddress(unixPath: settings.socket))
                try await client.subscribe(
                    WorkloadResponse.path,
                    metadata: ["workload.spiffe.io": "true"],
                    message: [],
                    endsRequest: true,
                    limit: WorkloadResponse.limit,
                    timeout: Self.firstResponse
                ) { input.yield($0) }
                return IdentityError(.issuer, "\(settings): the agent has ended the stream")
            } catch {
                return Self.failure(error, settings)
            }
        }
        await withTaskCancellationHandler {
            for await response in responses {
                await body(response)
                try? await Task.sleep(for: Self.restBetween)
            }
        } onCancel: {
            asking.cancel()
        }
        asking.cancel()
        return await asking.value
    }

    // MARK: What goes wrong

    private static func failure(_ error: any Error, _ settings: WorkloadAPISettings) -> IdentityError {
        switch error {
        case let status as GRPCStatus: failure(status, settings)
        case let error as StreamError: failure(error, settings)
        default: IdentityError(.issuer, "\(settings): \(error)")
        }
    }

    private static func failure(_ status: GRPCStatus, _ settings: WorkloadAPISettings) -> IdentityError {
        let text = Printable.clean("\(status)", limit: 300)
        switch status.code {
        case GRPCStatus.permissionDenied:
            return IdentityError(
                .refused,
                "\(settings): the agent has issued no identity to this process (\(text)): register an entry whose "
                    + "selectors fit it, as unix:uid:\(geteuid())"
            )
        case GRPCStatus.unimplemented:
            return IdentityError(
                .issuer,
                "\(settings): who answers there does not serve the Workload API (\(text)): name the agent's socket for "
                    + "workloads, not another one of it"
            )
        default: return IdentityError(.issuer, "\(settings): \(text)")
        }
    }

    private static func failure(_ error: StreamError, _ settings: WorkloadAPISettings) -> IdentityError {
        if let problem = socketProblem(settings) { return problem }
        let text = Printable.clean(error.message, limit: 300)
        return switch error.code {
        case .refused:
            IdentityError(.notFound, "\(settings): nobody listens there: start the agent")
        case .timedOut: IdentityError(.timedOut, "\(settings): \(text)")
        case .truncated: IdentityError(.issuer, "\(settings): the agent has closed the connection")
        default: IdentityError(.issuer, "\(settings): \(text)")
        }
    }

    /// What is wrong with the file that the socket should be.
    private static func socketProblem(_ settings: WorkloadAPISettings) -> IdentityError? {
        var status = stat()
        guard stat(settings.socket, &status) == 0 else {
            let number = errno
            switch number {
            case ENOENT, ENOTDIR:
                return IdentityError(
                    .notFound,
                    "\(settings): there is no such socket: start the agent, or correct 'workloadAPI'"
                )
            case EACCES: return notAllowed(settings)
            default:
                return IdentityError(.file, "\(settings): \(StreamError.describe(errno: number))")
            }
        }
        guard status.st_mode & S_IFMT == S_IFSOCK else {
            return IdentityError(.file, "\(settings): that is no socket: correct 'workloadAPI'")
        }
        // Whoever may write to a socket may connect to it (unix(7)).
        return access(settings.socket, W_OK) == 0 ? nil : notAllowed(settings)
    }

    private static func notAllowed(_ settings: WorkloadAPISettings) -> IdentityError {
        IdentityError(
            .permissions,
            "\(settings): this process, of user \(geteuid()), may not connect to it: let that user, or a group of it, "
                + "read the directories of the path and write to the socket"
        )
    }
}
