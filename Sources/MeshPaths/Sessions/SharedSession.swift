import SSHSignal
import Streams

/// One of the SSH sessions of a ``SessionPool``: opened when somebody asks for it, kept open and idle afterwards.
/// Confined to its event loop.
final class SharedSession {
    private enum State {
        case idle
        case connecting
        case open(SSHClient, any SSHConnection)
        case closed
    }

    typealias Completion = (Result<any SSHConnection, StreamError>) -> Void

    /// Told when an open session ends by itself.
    var onEnd: ((any SSHConnection, StreamError) -> Void)?
    /// Told of each session that was opened.
    var onOpen: ((any SSHConnection) -> Void)?
    /// Why the last login failed; tells a refused key from an unreachable server.
    private(set) var lastError: SSHError?
    /// What the last login took, with the time in which somebody was asked something.
    private(set) var loginTime: Duration?
    /// On the loop's clock.
    private var began: UInt64 = 0

    private let login: SSHLogin
    private let loop: EventLoop
    private var state = State.idle
    private var waiting: [Completion] = []
    /// Told of a login that must not ask anybody anything.
    private var warmed: ((any SSHConnection)?) -> Void = { _ in }
    private var isQuiet = false
    /// Such a login was refused: it would be again, and servers count that.
    private var mayWarm = true

    init(_ login: SSHLogin, on loop: EventLoop) {
        self.login = login
        self.loop = loop
    }

    /// The session, when it is open.
    var open: (any SSHConnection)? {
        if case .open(_, let session) = state, session.isOpen { session } else { nil }
    }

    /// `completion` is called once, on the loop, and maybe from inside this call.
    func connect(_ completion: @escaping Completion) {
        if let open { return completion(.success(open)) }
        if case .closed = state { return completion(.failure(StreamError(.closed, "the SSH session was shut down"))) }
        waiting.append(completion)
        if case .connecting = state { return }
        begin(login)
    }

    /// Logs in where nobody has to be asked anything. `completion` is called once, on the loop, with the session, or
    /// nil where there is none; and maybe from inside this call.
    func warm(_ completion: @escaping ((any SSHConnection)?) -> Void) {
        if let open { return completion(open) }
        guard case .idle = state, mayWarm else { return completion(nil) }
        isQuiet = true
        warmed = completion
        begin(login.withoutQuestions)
    }

    private func begin(_ login: SSHLogin) {
        state = .connecting
        began = loop.now
        let loop = loop
        let bound = LoopBound(self, on: loop)
        Task {
            let result: Result<SSHClient, SSHError>
            do throws(SSHError) {
                result = .success(try await login.connect(on: loop))
            } catch {
                result = .failure(error)
            }
            loop.submit { bound.withValue { $0.opened(result) } }
        }
    }

    /// Ends the session; the next ``connect(_:)`` opens another.
    func disconnect() {
        guard case .open(_, let session) = state else { return }
        session.onEnd = nil
        session.close()
        state = .idle
    }

    func close() {
        if case .open(_, let session) = state {
            session.onEnd = nil
            session.close()
        }
        state = .closed
        answer(.failure(StreamError(.closed, "the SSH session was shut down")))
    }

    private func opened(_ result: Result<SSHClient, SSHError>) {
        let isClosed = if case .closed = state { true } else { false }
        let (wasQuiet, warmed) = (isQuiet, warmed)
        isQuiet = false
        self.warmed = { _ in }
        if wasQuiet, case .failure(let error) = result {
            mayWarm = error.code != .authenticationRefused && error.code != .hostKeyRefused
            warmed(nil)
            guard !isClosed else { return }
            state = .idle
            // Who has come meanwhile wants it also where somebody has to be asked.
            if !waiting.isEmpty { begin(login) }
            return
        }
        switch result {
        case .success(let client):
            client.connection.withValue { session in
                guard !isClosed else {
                    warmed(nil)
                    return session.close()
                }
                lastError = nil
                loginTime = .nanoseconds(Int64(clamping: loop.now &- began))
                mayWarm = true
                state = .open(client, session)
                session.onEnd = { [weak self] error in self?.ended(error) }
                onOpen?(session)
                warmed(session)
                answer(.success(session))
            }
            // OpenSSH's server sets TCP_NODELAY with the first session channel only; without one, the end of a short
            // stream waits 40 ms for a delayed acknowledgement. Where commands are not allowed, streams are merely
            // slower.
            Task { _ = try? await client.run(":", timeout: .seconds(10)) }
        case .failure(let error):
            guard !isClosed else { return }
            lastError = error
            state = .idle
            answer(.failure(Self.pathError(error)))
        }
    }

    private func ended(_ error: SSHError) {
        guard case .open(_, let session) = state else { return }
        state = .idle
        onEnd?(session, Self.pathError(error))
    }

    private func answer(_ result: Result<any SSHConnection, StreamError>) {
        let completions = waiting
        waiting = []
        for completion in completions { completion(result) }
    }

    /// A host key that is not accepted condemns the peer on every path. That the peer does not accept *our* key only
    /// closes this path.
    private static func pathError(_ error: SSHError) -> StreamError {
        error.code == .authenticationRefused ? StreamError(.denied, error.message) : error.streamError
    }
}
